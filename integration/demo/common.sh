# Shared by up.sh and down.sh: where the demo lies, and which processes are its own.
# shellcheck shell=sh
ROOT=$(cd "$(dirname "$0")/../.." && pwd -P)
# shellcheck disable=SC2034
DEMO=${BRICK_DEMO_DIR:-$ROOT/demo}
# The daemons' addresses without their last digit: 127.0.0.11, .12 and .13.
# shellcheck disable=SC2034
NET=${BRICK_DEMO_NET:-127.0.0.1}
# shellcheck disable=SC2034 # used by the scripts that read this file
NODES="1 2 3"

say() { printf '%s\n' "$*"; }

mounted() { grep -q " $(printf '%s' "$1" | sed 's/ /\\\\040/g') " /proc/self/mountinfo; }

# own_pids PROGRAM WORD: processes of a program whose command line names a file of this demo.
own_pids() {
    for proc in /proc/[0-9]*; do
        exe=$(readlink "$proc/exe" 2>/dev/null) || continue
        case $exe in
        */"$1" | */"$1 (deleted)")
            if tr '\0' '\n' <"$proc/cmdline" 2>/dev/null | grep -qxF -- "$2"; then
                echo "${proc#/proc/}"
            fi
            ;;
        esac
    done
}

# within SECONDS COMMAND...: waits until the command succeeds.
within() {
    tries=$(($1 * 5))
    shift
    while [ $tries -gt 0 ]; do
        if "$@" >/dev/null 2>&1; then return 0; fi
        tries=$((tries - 1))
        sleep 0.2
    done
    return 1
}
