#!/usr/bin/env bash
# In the build root: CPython from Debian's source package as one object file.
# python.sh ARCH FOLDER: makes FOLDER with python.o, include/ and the licence.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
ARCH=$1 folder=$2
. "$here/target.sh"

# Kept from commit to commit, so no commit's time gets in.
export SOURCE_DATE_EPOCH=0
# The root's /tmp is new at each entry, and this path the same.
mkdir /tmp/python
cd /tmp/python
dpkg-source --no-check --extract /usr/src/python3.11_*.dsc source >/dev/null
patch --quiet --directory source --strip 1 <"$here/python.patch"
(cd source && python3.11 Tools/scripts/freeze_modules.py >/dev/null)
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
# What compiles Python (only tools need that), what starts it once and what waits for the kernel is
# made small.
cold=(Parser/{action_helpers,myreadline,parser,pegen,pegen_errors,string_parser,token,tokenizer}.o
    Python/{Python-ast,Python-tokenize,asdl,ast,ast_opt,ast_unparse,compile,future,initconfig}.o
    Python/{codecs,fileutils,getcopyright,import,pathconfig,preconfig,pylifecycle,pythonrun}.o
    Python/{symtable,sysmodule,traceback}.o
    Modules/{_codecsmodule,_csv,_datetimemodule,_localemodule,_posixsubprocess,_tracemalloc}.o
    Modules/{_zoneinfo,faulthandler,fcntlmodule,getpath,grpmodule,main,mmapmodule,posixmodule}.o
    Modules/{pwdmodule,resource,signalmodule,socketmodule,symtablemodule,syslogmodule,termios}.o)
make --silent -j"$(nproc)" CFLAGS_NODIST='-flto -Os' "${cold[@]}"
make --silent -j"$(nproc)" CFLAGS_NODIST=-flto libpython3.11.a

# Optimised as a whole here and once, because that takes minutes.
rm -rf "$folder.new"
mkdir -p "$folder.new/include"
$triple-gcc $compile_flags -flto=auto -flinker-output=nolto-rel -r -nostdlib \
    -o "$folder.new/python.o" -Wl,--whole-archive libpython3.11.a
cp -r ../source/Include/. pyconfig.h "$folder.new/include/"
cp ../source/LICENSE "$folder.new/"
mv "$folder.new" "$folder"
