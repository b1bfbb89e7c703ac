#!/usr/bin/env bash
# In the build root: the locked Python packages, as wheels to read and as sources to compile.
# packages.sh FOLDER: makes FOLDER/venv, and unpacked in FOLDER: cffi, pyinstaller, orjson-ARCH, pure.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$1 lock=$here/../requirements-freeze.txt
rm -rf "$folder.new"
mkdir -p "$folder.new"
cd "$folder.new"

# locked NAME...: their part of the lock, with hashes.
locked() {
    awk -v names=" $* " '/^[a-z]/ { split($1, part, "=="); wanted = index(names, " " part[1] " ") }
        /^#/ { wanted = 0 } wanted' "$lock"
}
fetch() { # fetch FOLDER REQUIREMENTS OPTIONS...
    local into=$1 requirements=$2
    shift 2
    venv/bin/pip download --quiet --require-hashes --no-deps --dest "$into" -r "$requirements" "$@"
}

python3.11 -m venv venv
locked $(sed -n 's/^\([a-z-]*\)==.*/\1/p' "$lock" | grep -Evx 'paho-mqtt|pyinstaller|tomli') \
    >wheels.txt
venv/bin/pip install --quiet --require-hashes --no-deps --no-compile --only-binary=:all: \
    -r wheels.txt
# Into the archive, which is for all architectures, go wheels of pure Python (tomli has others too).
locked paho-mqtt tomli >pure.txt
fetch wheels-pure pure.txt --only-binary=:all: --platform any
for wheel in wheels-pure/*.whl; do
    venv/bin/python -m zipfile --extract "$wheel" pure
done

# PyInstaller is run from its sources: what it brings along ready-made is not used.
locked cffi pyinstaller >sources.txt
fetch sources sources.txt --no-binary=:all: --no-build-isolation
for name in cffi pyinstaller; do
    mkdir "$name"
    tar --extract --strip-components=1 --directory "$name" --file sources/$name-*.tar.gz
done
patch --quiet --directory pyinstaller --strip 1 <"$here/bootloader.patch"

locked orjson >orjson.txt
for ARCH in x86_64 aarch64 armv7; do
    . "$here/target.sh"
    fetch wheels-$ARCH orjson.txt --only-binary=:all: --platform $wheel_platform
    venv/bin/python -m zipfile --extract wheels-$ARCH/orjson-*.whl orjson-$ARCH
done
cd /
mv "$folder.new" "$folder"
