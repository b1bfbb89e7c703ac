#!/bin/sh
# Names in one message everything that a build needs and this machine lacks; installs nothing.
# With an argument also what is needed for the format and lint checks (check), the Debian package
# (deb), the image (image), the tests of both (carriers). PYTHON may name the interpreter. The floors are those of pyproject.toml and native/Cargo.toml.
set -eu

python=${PYTHON:-python3}
lacks=
packages=

lack() { # lack WHAT PACKAGE...
    lacks="$lacks  $1
"
    shift
    packages="$packages $*"
}

# Debian 12 keeps a current Rust, for its browsers, beside the old one: same programs, other names.
cargo_package=cargo rustfmt_package=rustfmt clippy_package=rust-clippy
if grep -qs '^VERSION_ID="12"' /etc/os-release; then
    cargo_package=cargo-web rustfmt_package=rustfmt-web clippy_package=rust-web-clippy
fi

echo '#include <stdint.h>' | cc -fsyntax-only -x c - 2>/dev/null ||
    lack 'a C compiler (cc) with the C library headers' gcc libc6-dev

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    lack "Python 3.11 or newer ($python)" python3 python3-venv python3-dev
else
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        lack "Python's venv module" python3-venv
    "$python" -c 'import os, sysconfig
os.stat(os.path.join(sysconfig.get_path("include"), "Python.h"))' 2>/dev/null ||
        lack "Python's C headers (Python.h)" python3-dev
fi

version=$(cargo --version 2>/dev/null | cut -d' ' -f2) || true
minor=$(echo "$version" | cut -d. -f2)
if [ -z "$version" ]; then
    lack 'Rust 1.85 or newer (cargo)' "$cargo_package"
elif [ "$minor" -lt 85 ]; then
    lack "Rust 1.85 or newer (cargo is $version; with rustup: rustup update)" "$cargo_package"
fi

need() { # need PROGRAM PACKAGE
    command -v "$1" >/dev/null || lack "$1" "$2"
}

PATH=$PATH:/usr/sbin:/sbin
case "${1-}" in
check)
    cargo fmt --version >/dev/null 2>&1 || lack 'rustfmt (cargo fmt)' "$rustfmt_package"
    cargo clippy --version >/dev/null 2>&1 || lack 'clippy (cargo clippy)' "$clippy_package"
    ;;
deb | carriers)
    need dpkg-deb dpkg
    need help2man help2man
    ;;
esac
case "${1-}" in
image | carriers)
    need apt-get apt
    need buildah buildah
    need dpkg-deb dpkg
    need readelf binutils
    ;;
esac
if [ "${1-}" = carriers ]; then
    need lintian lintian
    need mmdebstrap mmdebstrap
    need mosquitto mosquitto
    need podman podman
    need runc runc
    need systemd-analyze systemd
fi

[ -n "$lacks" ] || exit 0
printf 'cannot build limpet: this machine lacks (nothing was changed)\n%s' "$lacks" >&2
printf 'On Debian, as root:  apt install%s\n' "$packages" >&2
exit 1
