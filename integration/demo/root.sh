#!/bin/sh
# Asks for root in one line when it is missing: disks are mounted, and brickd needs it.
set -eu
if [ "$(id -u)" != 0 ]; then
    echo "make $1 needs root (it mounts disks and a volume): sudo -E env \"PATH=\$PATH\" make $1" >&2
    exit 1
fi
