#!/usr/bin/env bash
# In the build root: CPython from Debian's source package as one object file.
# python.sh ARCH FOLDER [PACKAGES]: makes FOLDER with python.o, include/ and the licence; with the
# folder of the Python packages it is a release, laid out by what an agent's work was counted to use.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
ARCH=$1 folder=$2 packages=${3-}
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
# What compiles Python (only tools need that), what starts it once, what waits for the kernel and what
# an agent hardly uses is made small.
cold=(Parser/{action_helpers,myreadline,parser,pegen,pegen_errors,string_parser,token,tokenizer}.o
    Python/{Python-ast,Python-tokenize,asdl,ast,ast_opt,ast_unparse,compile,future,initconfig}.o
    Python/{codecs,fileutils,getcopyright,import,pathconfig,preconfig,pylifecycle,pythonrun}.o
    Python/{symtable,sysmodule,traceback}.o
    Modules/{_codecsmodule,_csv,_datetimemodule,_localemodule,_posixsubprocess,_tracemalloc}.o
    Modules/{_zoneinfo,faulthandler,fcntlmodule,getpath,grpmodule,main,mmapmodule,posixmodule}.o
    Modules/{pwdmodule,resource,signalmodule,socketmodule,symtablemodule,syslogmodule,termios}.o
    Modules/_io/{_iomodule,bufferedio,bytesio,fileio,iobase,stringio,textio}.o
    Modules/{mathmodule,timemodule}.o Objects/{complexobject,memoryobject,odictobject}.o)
counted=
if [ -n "$packages" ]; then
    make --silent -j"$(nproc)" CFLAGS_NODIST=-fprofile-generate LDFLAGS_NODIST=-fprofile-generate \
        MODLIBS='-lz -lm' python
    # What could be counted differently is the same each time: the order in folders, times, addresses.
    mkdir -p ../train/lib
    for folders in "/limpet configs runtime/limpet tests/vectors/plans" "$packages pure orjson-$ARCH"; do
        tar --create --sort=name --mtime=@0 --exclude='*_core.*.so' --exclude=limpet-tool \
            --exclude=__pycache__ --directory $folders | tar --extract --directory ../train
    done
    ln -s ../../source/Lib ../train/lib/python3.11
    PYTHONHOME=/tmp/python/train setarch --addr-no-randomize ${qemu:+"/build/$qemu-static"} \
        ./python -S -B "$here/train.py" ../train ../train/pure ../train/orjson-$ARCH
    find . -name '*.o' -delete
    rm libpython3.11.a
    # What was never reached is made small, which leaves room for padding where most time is spent.
    counted='-fprofile-use -Wno-missing-profile'
    counted+=' -falign-functions=16 -falign-jumps=16 -falign-loops=16'
fi
make --silent -j"$(nproc)" CFLAGS_NODIST='-flto -Os' "${cold[@]}"
make --silent -j"$(nproc)" CFLAGS_NODIST="-flto $counted" libpython3.11.a

# Optimised as a whole here and once, because that takes minutes.
rm -rf "$folder.new"
mkdir -p "$folder.new/include"
$triple-gcc $compile_flags -flto=auto -flinker-output=nolto-rel -r -nostdlib \
    -o "$folder.new/python.o" -Wl,--whole-archive libpython3.11.a
cp -r ../source/Include/. pyconfig.h "$folder.new/include/"
cp ../source/LICENSE "$folder.new/"
mv "$folder.new" "$folder"
