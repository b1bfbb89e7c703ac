#!/usr/bin/env bash
# In the build root: CPython from Debian's source package as one object file.
# python.sh ARCH FOLDER: makes FOLDER with python.o, include/ and the licence.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
ARCH=$1 folder=$2
. "$here/target.sh"

work=$(mktemp -d)
cd "$work"
dpkg-source --no-check --extract /usr/src/python3.11_*.dsc source >/dev/null
mkdir -p built/Modules
cp "$here/python-modules" built/Modules/Setup.local
cd built

# The build machine goes by another name, so that all three architectures are cross-compiled in the
# same way; what configure would try out then is said here.
../source/configure --quiet --build=x86_64-pc-linux-gnu --host=$triple \
    --with-build-python=/usr/bin/python3.11 --enable-ipv6 \
    --without-doc-strings --without-ensurepip --disable-test-modules \
    ac_cv_file__dev_ptmx=yes ac_cv_file__dev_ptc=no \
    CC=$triple-gcc AR=$triple-gcc-ar RANLIB=$triple-gcc-ranlib \
    CFLAGS="$compile_flags" LDFLAGS=-no-pie
make --silent -j"$(nproc)" CFLAGS_NODIST=-flto libpython3.11.a

# Optimised as a whole here and once, because that takes minutes.
mkdir -p "$folder.new/include"
$triple-gcc $compile_flags -flto=auto -flinker-output=nolto-rel -r -nostdlib \
    -o "$folder.new/python.o" -Wl,--whole-archive libpython3.11.a
cp -r ../source/Include/. pyconfig.h "$folder.new/include/"
cp ../source/LICENSE "$folder.new/"
mv "$folder.new" "$folder"
rm -rf "$work"
