#!/bin/sh
# make demo-stop: unmounts, ends the demo's own daemons and removes everything, also what a start
# that failed half-way left. Safe to repeat.
set -eu
# shellcheck source=integration/demo/common.sh
. "$(dirname "$0")/common.sh"

# end_all PROGRAM WORD: asks kindly, insists after ten seconds. Only processes of this demo.
end_all() {
    for pid in $(own_pids "$1" "$2"); do kill "$pid" 2>/dev/null || true; done
    within 10 gone "$1" "$2" && return 0
    for pid in $(own_pids "$1" "$2"); do kill -9 "$pid" 2>/dev/null || true; done
    within 5 gone "$1" "$2" || say "a process of the demo does not end: $(own_pids "$1" "$2")" >&2
}
gone() { [ -z "$(own_pids "$1" "$2")" ]; }

# A paused daemon cannot end.
for n in $NODES; do
    for pid in $(own_pids brickd "$DEMO/node$n/brickd.toml"); do kill -CONT "$pid" 2>/dev/null || true; done
done
if mounted "$DEMO/mnt"; then
    umount "$DEMO/mnt" 2>/dev/null || umount -l "$DEMO/mnt" || true
fi
end_all mount.brick "$DEMO/mnt"
for n in $NODES; do
    end_all brickd "$DEMO/node$n/brickd.toml"
done
for n in $NODES; do
    if mounted "$DEMO/node$n/brick"; then
        within 5 umount "$DEMO/node$n/brick" || umount -l "$DEMO/node$n/brick"
    fi
done
if grep -q " $DEMO/" /proc/self/mountinfo; then
    say "something is still mounted below demo; close what uses it and repeat: make demo-stop" >&2
    exit 1
fi
for entry in env.sh key.toml join.key client.token mount.log mnt node1 node2 node3; do
    rm -rf "${DEMO:?}/$entry"
done
rmdir "$DEMO" 2>/dev/null || true
say "the demo is gone"
