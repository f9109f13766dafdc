#!/bin/sh
# Builds brickwork_VERSION_ARCH.deb from the built programs, without debhelper.
set -eu
cd "$(dirname "$0")/../.."
command -v dpkg-deb >/dev/null || { echo "dpkg-deb is missing: this is no Debian" >&2; exit 1; }
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
arch=$(dpkg --print-architecture)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
# It becomes the package's root directory; mktemp makes it private.
chmod 0755 "$tree"
# On a merged /usr, which Debian 12 and Ubuntu have, /sbin is /usr/sbin.
make --no-print-directory install DESTDIR="$tree" PREFIX=/usr MOUNTDIR=/usr/sbin \
    UNITDIR=/usr/lib/systemd/system >/dev/null
strip --strip-debug "$tree/usr/sbin/brickd" "$tree/usr/bin/brick" "$tree/usr/sbin/mount.brick"
for f in LICENSE-APACHE LICENSE-MIT CHANGELOG.md; do
    install -D -m 0644 "$f" "$tree/usr/share/doc/brickwork/$f"
done
mkdir -p "$tree/DEBIAN"
cat >"$tree/DEBIAN/control" <<END
Package: brickwork
Version: $version
Architecture: $arch
Maintainer: The Brickwork developers <brickwork@example.org>
Section: admin
Priority: optional
Installed-Size: $(du -sk "$tree/usr" | cut -f 1)
Depends: libc6, libgcc-s1, libstdc++6, mount
Recommends: xfsprogs, fuse3
Description: scale-out replicated file store
 Brickwork keeps files on plain XFS directories of several machines, replicates
 them without split-brain, heals by itself, and mounts them everywhere by FUSE.
END
echo /etc/brickwork/brickd.toml >"$tree/DEBIAN/conffiles"
cat >"$tree/DEBIAN/postinst" <<'END'
#!/bin/sh
set -e
chmod 0755 /etc/brickwork
if [ "$1" = configure ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    # An upgrade goes on with the new program; a first installation waits for its configuration.
    if [ -n "$2" ] && systemctl is-active --quiet brickd; then systemctl restart brickd; fi
fi
END
cat >"$tree/DEBIAN/prerm" <<'END'
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    systemctl --quiet disable --now brickd || true
fi
END
chmod 0755 "$tree/DEBIAN/postinst" "$tree/DEBIAN/prerm"
out=${TARGET:-target}/brickwork_${version}_$arch.deb
dpkg-deb --root-owner-group -Zgzip --build "$tree" "$out" >/dev/null
echo "$out"
