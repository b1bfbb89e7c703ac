#!/usr/bin/env bash
# Makes a Debian package of one frozen file: build.sh FILE DIRECTORY. The same file and commit give
# the same bytes. VERSION is for tests of upgrades. Needs .venv, and what prerequisites.sh names.
set -euo pipefail

file=$1 directory=$2
here=$(dirname "$(realpath "$0")")
tree=$(realpath "$here/../..")
bin=$tree/.venv/bin
. "$here/../architecture.sh"
version=${VERSION:-$("$bin/limpet" version | cut -d' ' -f2)}

architecture=$(debian_of "$file") || {
    echo "cannot package $file: it is for none of amd64, arm64, armhf (nothing was made)" >&2
    exit 1
}
output=$directory/limpet_${version}_$architecture.deb

SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$tree" log -1 --format=%ct)}
export SOURCE_DATE_EPOCH LC_ALL=C.UTF-8 COLUMNS=80 TZ=UTC
umask 022

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
share=$root/usr/share
doc=$share/doc/limpet

place() { # place MODE SOURCE TARGET
    install -D -m "$1" "$2" "$root/$3"
}

place 755 "$file" usr/bin/limpet
place 644 "$here/../systemd/limpet.service" usr/lib/systemd/system/limpet.service
"$bin/limpet" init --system "$root/etc/limpet" >/dev/null

mkdir -p "$share/bash-completion/completions" "$share/man/man1" "$doc"
"$bin/python" -m shtab --shell=bash limpet.controller.arguments.build_parser \
    >"$share/bash-completion/completions/limpet"
help2man --no-info --name='edge agent runtime' --version-string="$version" "$bin/limpet" |
    gzip -9n >"$share/man/man1/limpet.1.gz"

cp -r --no-preserve=mode "$tree/configs" "$doc/examples"
place 644 "$here/copyright" usr/share/doc/limpet/copyright
place 644 "$here/lintian-overrides" usr/share/lintian/overrides/limpet
cp "$tree/README.md" "$tree/PROTOCOL.md" "$doc"
gzip -9n <"$tree/CHANGELOG.md" >"$doc/NEWS.gz"
gzip -9n >"$doc/changelog.gz" <<END
limpet ($version) unstable; urgency=medium

  * Version $version; NEWS.gz tells what it brings.

 -- $(sed -n 's/^Maintainer: //p' "$here/control")  $(date -R -d "@$SOURCE_DATE_EPOCH")
END

mkdir "$root/DEBIAN"
for script in postinst prerm postrm; do
    place 755 "$here/$script" "DEBIAN/$script"
done
(cd "$root" && find etc -type f | sort | sed 's,^,/,') >"$root/DEBIAN/conffiles"
(cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" \
    -e "s/@KIB@/$(du -k --apparent-size -s "$root" | cut -f1)/" \
    "$here/control" >"$root/DEBIAN/control"

mkdir -p "$directory"
dpkg-deb --root-owner-group -Zxz --build "$root" "$output" >/dev/null
echo "$output"
