#!/bin/sh
# Installs what building and testing need and this machine lacks, as Debian packages by name.
# What is there is left alone; without root the missing packages are named and the run goes on
# when the compiler's own needs are met.
set -eu

missing=
# want FILE-OR-PROGRAM PACKAGE
want() {
    case $1 in
    /*) for f in $1; do [ ! -e "$f" ] || return 0; done ;;
    *) PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null 2>&1 && return 0 ;;
    esac
    missing="$missing $2"
}

# RocksDB is C++; its bindings are made by libclang.
want c++ build-essential
want clang clang
want '/usr/lib/llvm-*/lib/libclang*.so*' libclang-dev
# Disks, mounts and networks of the demo and the tests.
want mkfs.xfs xfsprogs
want fusermount3 fuse3
want nft nftables
want ip iproute2
want nsenter util-linux
want mount mount
want xz xz-utils
# Programs that the tests run on a mount.
want getfattr attr
want getfacl acl
want rsync rsync
want git git
want sqlite3 sqlite3

if [ -n "$missing" ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "missing Debian packages:$missing (install them, or run this as root)" >&2
        case $missing in *build-essential*|*clang*) exit 1 ;; esac
    else
        echo "installing:$missing"
        # shellcheck disable=SC2086 # a list of words
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing ||
            { apt-get update -q &&
              DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing; }
    fi
fi

if ! command -v cargo >/dev/null; then
    echo "cargo is not on the PATH: install a Rust toolchain with rustup (rust-toolchain.toml names it)" >&2
    exit 1
fi
