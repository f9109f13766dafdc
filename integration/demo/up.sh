#!/bin/sh
# make demo: three daemons on 127.0.0.11-13 with an XFS disk each, one pool, the volume gv0 with
# three replicas, mounted at demo/mnt. Leaves everything running; down.sh removes it.
set -eu
# shellcheck source=integration/demo/common.sh
. "$(dirname "$0")/common.sh"
SIZE=${BRICK_DEMO_SIZE:-6G}

if [ -e "$DEMO/env.sh" ]; then
    say "there is a demo already: '. demo/env.sh' to use it, 'make demo-stop' to remove it"
    exit 1
fi
trap 'say "the demo did not come up (logs: demo/node*/log); make demo-stop removes what was made" >&2' EXIT

mkdir -p "$DEMO/mnt"
cat >"$DEMO/env.sh" <<END
# Made by 'make demo': read it with '. demo/env.sh' in sh or bash.
export BRICK_DEMO_BIN="$BIN"
export PATH="$BIN:\$PATH"
# The CLI talks to the daemon of node 1.
export BRICK_SOCKET="$DEMO/node1/state/control.sock"
END
# shellcheck source=/dev/null
. "$DEMO/env.sh"

say "making three disks and starting three daemons"
printf '' >"$DEMO/key.toml"
brickd --config "$DEMO/key.toml" --join-key "$DEMO/join.key" make-join-key >/dev/null
for n in $NODES; do
    node=$DEMO/node$n
    mkdir -p "$node/brick" "$node/state"
    chmod 0700 "$node/state"
    truncate -s "$SIZE" "$node/disk.img"
    mkfs.xfs -q -f -i size=512 "$node/disk.img"
    mount -o loop,noatime "$node/disk.img" "$node/brick"
    mkdir -p "$node/brick/gv0"
    cat >"$node/brickd.toml" <<END
listen = "$NET$n"
state-dir = "$node/state"
join-key = "$DEMO/join.key"
END
    install -m 0755 "$ROOT/integration/demo/node-start" "$node/start"
    install -m 0755 "$ROOT/integration/demo/node-stop" "$node/stop"
    "$node/start"
done

say "forming the pool and the volume"
brick peer probe "${NET}2"
brick peer probe "${NET}3"
brick volume create gv0 replica 3 "${NET}1:$DEMO/node1/brick/gv0" \
    "${NET}2:$DEMO/node2/brick/gv0" "${NET}3:$DEMO/node3/brick/gv0"
brick volume start gv0
# A client's token is good for every peer: the mount outlives any of them.
brick client add demo --out "$DEMO/client.token"
mount.brick "${NET}1,${NET}2,${NET}3:/gv0" "$DEMO/mnt" \
    -o "credential=$DEMO/client.token,log-file=$DEMO/mount.log"
within 30 mounted "$DEMO/mnt" || { say "the volume is not mounted" >&2; exit 1; }
echo "written by make demo" >"$DEMO/mnt/hello.txt"
trap - EXIT

cat <<'END'

The volume gv0 is mounted at demo/mnt. A tour (in this folder, as root):

  . demo/env.sh                             the programs on the PATH, the CLI on the pool
  brick peer status                         who is in the pool
  brick volume info gv0                     what the volume is made of
  cp -a /usr/include demo/mnt/              write something
  ls demo/node*/brick/gv0                   each brick is a plain tree of the same files

  demo/node2/stop --kill                    kill -9 one daemon
  cp -a /usr/share/doc demo/mnt/            the mount does not notice
  brick volume status gv0                   one brick is out
  demo/node2/start                          back again ...
  brick volume heal gv0 watch               ... and it heals by itself
  diff -r --no-dereference -x .brickwork demo/node1/brick/gv0 demo/node2/brick/gv0 && echo equal

  make demo-stop                            remove everything
END
