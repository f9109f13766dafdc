#!/bin/sh
# Runs the suites and ends with one summary, whose last line is "N passed, N failed, N skipped".
#
# usage: test.sh [SUITE...]     all suites without arguments; names as in the summary
#
# env: BRICK_ROUNDS  rounds of the kill tests (1)        BRICK_FULL=1  large trees
#      BRICK_SUITE_LIMIT  seconds for one test binary (1200)
#      BRICK_LOG     log filter of the daemons          BRICK_KEEP=1  leave scratch folders
# Logs of suites, and of daemons in failed tests, are kept under $TARGET/test-logs.
set -eu
cd "$(dirname "$0")/../.."
# An absolute target folder: tests change directories.
TARGET=${CARGO_TARGET_DIR:-$PWD/target}
export CARGO_TARGET_DIR="$TARGET" CARGO_TERM_COLOR=never RUST_BACKTRACE=0
logs=$TARGET/test-logs
rm -rf "$logs"
mkdir -p "$logs"
export BRICK_SKIPS="$logs/skips" BRICK_REPEATS="$logs/repeats" BRICK_LOGS="$logs"
: >"$BRICK_SKIPS"
: >"$BRICK_REPEATS"
: >"$logs/table"
passed=0 failed=0 skipped=0
only=" $* "

chosen() { [ "$only" = "  " ] || case $only in *" $1 "*) true ;; *) false ;; esac; }

# note SUITE PASSED FAILED SKIPPED SECONDS
note() {
    passed=$((passed + $2)) failed=$((failed + $3)) skipped=$((skipped + $4))
    printf '%-14s %5s passed %4s failed %4s skipped %6s s\n' "$@" >>"$logs/table"
    tail -n 1 "$logs/table"
}

# suite NAME LIMIT-SECONDS COMMAND...   a command without tests of its own counts as one
suite() {
    name=$1 limit=$2
    shift 2
    chosen "$name" || return 0
    log=$logs/$name.log
    echo "== $name"
    start=$(date +%s)
    skips_before=$(wc -l <"$BRICK_SKIPS")
    code=0
    timeout -k 30 "$limit" "$@" >"$log" 2>&1 || code=$?
    [ $code != 124 ] || echo "$name did not end within $limit s and was ended" >>"$log"
    skips=$(($(wc -l <"$BRICK_SKIPS") - skips_before))
    # shellcheck disable=SC2046 # three numbers
    set -- $(awk '/^test result:/ { p += $4; f += $6; i += $8 } END { print p+0, f+0, i+0 }' "$log")
    p=$1 f=$2 i=$3
    if ! grep -q '^test result:' "$log"; then p=1; fi
    # A crash, a time-out or a compile error is a failure that no test counted.
    if [ $code != 0 ] && [ "$f" = 0 ]; then
        f=1
        if ! grep -q '^test result:' "$log"; then p=0; fi
    fi
    if grep -q '^warning' "$log"; then f=$((f + 1)); echo "$name: warnings count as failures" >>"$log"; fi
    if [ "$f" != 0 ]; then show "$log"; fi
    note "$name" $((p - skips)) "$f" $((i + skips)) $(($(date +%s) - start))
}

# The part of a log that says what is wrong.
show() {
    echo "---- failed; the end of $1:"
    if grep -q '^failures:' "$1"; then sed -n '/^failures:/,$p' "$1" | tail -n 300; else tail -n 120 "$1"; fi
    echo "----"
}

cargo_test() { # NAME LIMIT ARGUMENTS...
    name=$1 limit=$2
    shift 2
    suite "$name" "$limit" cargo test --release --locked --no-fail-fast "$@"
}

summary() {
    echo
    echo "== summary"
    cat "$logs/table"
    if [ -s "$BRICK_SKIPS" ]; then
        echo "SKIPPED on this machine:"
        sed 's/^/  /' "$BRICK_SKIPS"
    fi
    if [ -s "$BRICK_REPEATS" ]; then
        echo "REPEATED, because the machine stood still:"
        sed 's/^/  /' "$BRICK_REPEATS"
    fi
    if [ $failed != 0 ]; then
        echo "failed (logs in $logs):"
        awk '$4 != 0 { print "  suite " $1 }' "$logs/table"
        sed -n 's/^test \(.*\) \.\.\. FAILED$/  test \1/p' "$logs"/*.log
    fi
    echo "$passed passed, $failed failed, $skipped skipped" | tee "$logs/result"
    [ $failed = 0 ]
}

suite formats 120 cargo fmt --all --check
chosen lints && [ ! -d "$TARGET/release/build" ] &&
    echo "first build: about 15 to 20 minutes on two cores, most of it RocksDB"
suite lints 5400 cargo clippy --release --locked --workspace --all-targets -- -D warnings
# The programs under test; the tests below find them beside themselves. Never skipped.
echo "== build"
cargo build --release --locked --workspace --bins 2>&1 | tee "$logs/build.log" | grep -v '^ *Compiling' || true
if ! grep -q '^ *Finished' "$logs/build.log"; then
    # Tests would run against the programs of an earlier build.
    note build 0 1 0 0
    summary
    exit 1
fi

# A crate's name holds no dot; mount(8) wants one in its helper's.
ln -f "$TARGET/release/mount-brick" "$TARGET/release/mount.brick"

cargo_test unit 3600 --workspace --exclude integration --exclude integration-sim
cargo_test simulation "${BRICK_SUITE_LIMIT:-1200}" -p integration-sim
cargo_test harness-lib 300 -p integration --lib
# One binary per kind; each has the machine for itself, one test at a time.
first="tidy harness cluster semantics promises stranger format kill mount_kill apps"
for file in integration/tests/*.rs; do
    name=$(basename "$file" .rs)
    case " $first " in *" $name "*) ;; *) first="$first $name" ;; esac
done
for name in $first; do
    cargo_test "$name" "${BRICK_SUITE_LIMIT:-1200}" -p integration --test "$name" -- --test-threads=1
done

summary
