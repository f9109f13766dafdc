#!/bin/sh
# make bench: brick-bench on the demo's volume and, by turns, on the bare XFS disk below one of
# its bricks, so that the figures say what replication and the mount cost on this machine.
set -eu
cd "$(dirname "$0")/../.."
mount=$PWD/demo/mnt
bare=$PWD/demo/node1/brick/bare
grep -q " $mount " /proc/self/mountinfo || {
    echo "the demo does not run: 'make demo' first, then 'make bench'" >&2
    exit 1
}
cargo build --release --locked -p benches
trap 'rm -rf "$bare" "$mount/bench"' EXIT
mkdir -p "$bare" "$mount/bench"
"${BIN:-target/release}/brick-bench" compare "$bare" "$mount/bench" --files "${BRICK_BENCH_FILES:-1000}"
