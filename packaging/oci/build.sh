#!/usr/bin/env bash
# Makes one container image of frozen files, a platform for each: build.sh ARCHIVE FILE... The image
# is made from scratch: limpet, the libraries that it needs, certificates, and a configuration that
# allows nothing. No container engine is needed; needs .venv, and what prerequisites.sh names.
set -euo pipefail

archive=$1
shift
here=$(dirname "$(realpath "$0")")
tree=$(realpath "$here/../..")
bin=$tree/.venv/bin
. "$here/../architecture.sh"
version=$("$bin/limpet" version | cut -d' ' -f2)
kept=$tree/build/carriers
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$tree" log -1 --format=%ct)}
umask 022

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    echo "cannot make the image: $* (nothing was made)" >&2
    exit 1
}

build() { # buildah, with a storage of its own, of which nothing is left
    buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"
}

# Sets what differs between the platforms: Debian's name, OCI's, and where the loader is looked for.
platform_of() {
    variant=()
    debian=$(debian_of "$1") || fail "$1 is for none of the three platforms"
    case $debian in
    amd64) oci=amd64 loader=lib64/ld-linux-x86-64.so.2 ;;
    arm64) oci=arm64 loader=lib/ld-linux-aarch64.so.1 ;;
    armhf) oci=arm variant=(--variant v7) loader=lib/ld-linux-armhf.so.3 ;;
    esac
}

# fetch PACKAGE: prints where the version of it is that the frozen file was built with, for $debian.
# Where packages come from is this machine's own setting; the main suite alone, in which versions
# stay.
fetch() {
    local name architecture version sum state listed=/etc/apt/sources.list.d/debian.sources
    read -r name architecture version sum < <(
        awk -v p="$1" -v a="$debian" '$1 == p && ($2 == a || $2 == "all")' "$here/../freeze/root.lock"
    )
    local file=$kept/$name-$architecture-$sum.deb
    if [ ! -e "$file" ]; then
        state=$work/apt-$debian
        mkdir -p "$kept" "$state"/{lists,archives}/partial "$state/fetched"
        touch "$state/status"
        awk 'BEGIN { RS = ""; ORS = "\n\n" } !/security/' "$listed" |
            sed 's/^Suites:.*/Suites: bookworm/' >"$state/debian.sources"
        cat >"$state/apt.conf" <<END
APT::Architecture "$debian";
APT::Architectures { "$debian"; };
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Check-Valid-Until "false";
Dir::State "$state";
Dir::State::Lists "$state/lists";
Dir::State::Status "$state/status";
Dir::Cache "$state";
Dir::Cache::Archives "$state/archives";
Dir::Etc::SourceList "$state/debian.sources";
Dir::Etc::SourceParts "-";
END
        (
            cd "$state/fetched"
            export APT_CONFIG=$state/apt.conf
            [ -e ../updated ] || apt-get -qq update
            touch ../updated
            apt-get -qq download "$name=$version"
        ) >&2
        mv "$state/fetched/${name}_"*.deb "$file"
    fi
    echo "$sum  $file" | sha256sum --check --quiet >&2 || fail "$name is not what is locked"
    echo "$file"
}

# fill FILE ROOT: everything that is in the image.
fill() {
    local root=$2 unpacked=$work/unpacked-$debian needed name found
    mkdir -p "$root"/{etc/ssl/certs,proc,sys,dev,run,tmp,var/lib/limpet} "$unpacked"
    dpkg-deb --extract "$(fetch libc6)" "$unpacked"
    dpkg-deb --extract "$(fetch ca-certificates)" "$unpacked"
    install -D -m 755 "$1" "$root/usr/bin/limpet"
    # A link from where programs look for it to its place among the libraries.
    install -D -m 755 "$(readlink -f "$unpacked"/lib/*-linux-gnu*/"${loader##*/}")" "$root/$loader"
    needed=$(readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
    for name in $needed; do
        [ "$name" != "${loader##*/}" ] || continue
        found=$(echo "$unpacked"/lib/*-linux-gnu*/"$name")
        [ -e "$found" ] || fail "$1 needs $name, which the C library has not"
        install -D -m 644 "$found" "$root/${found#"$unpacked/"}"
    done
    cat "$unpacked"/usr/share/ca-certificates/mozilla/*.crt \
        >"$root/etc/ssl/certs/ca-certificates.crt"
    echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
    printf '%s\n' root:x:0:0::/:/ nobody:x:65534:65534::/:/ >"$root/etc/passwd"
    printf '%s\n' root:x:0: nogroup:x:65534: >"$root/etc/group"
    "$bin/limpet" init --system "$root/etc/limpet" >/dev/null
    # The only place that can be written to.
    cat >>"$root/etc/limpet/limpet.toml" <<'END'

[socket]
path = "/var/lib/limpet/limpet.sock"
END
    # Whoever the container's user is: the volume is made as this directory is.
    chmod 1777 "$root/var/lib/limpet" "$root/tmp"
    find "$root" -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +
}

build manifest create limpet >/dev/null
for file; do
    [ -e "$file" ] || fail "$file is not there (make freeze makes it)"
    platform_of "$file"
    fill "$file" "$work/root-$debian"
    container=$(build from --arch "$oci" "${variant[@]}" scratch)
    build copy --quiet "$container" "$work/root-$debian" / >/dev/null
    build config --arch "$oci" "${variant[@]}" --os linux --stop-signal TERM \
        --entrypoint '["/usr/bin/limpet"]' --cmd run --volume /var/lib/limpet \
        --label org.opencontainers.image.title=limpet \
        --label org.opencontainers.image.version="$version" \
        --label org.opencontainers.image.licenses=Apache-2.0 "$container"
    image=$(build commit --quiet --rm --format oci --timestamp "$SOURCE_DATE_EPOCH" "$container")
    build manifest add "${variant[@]}" --arch "$oci" --os linux limpet "$image" >/dev/null
done
mkdir -p "$(dirname "$archive")"
rm -f "$archive"
build manifest push --quiet --all limpet "oci-archive:$archive:limpet:$version"
echo "$archive"
