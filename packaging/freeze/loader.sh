#!/usr/bin/env bash
# In the build root: the executable without its archive.
# loader.sh ARCH PYTHON PACKAGES FOLDER: PYTHON is python.sh's, PACKAGES packages.sh's folder; makes
# FOLDER/loader from them, the Rust core and start.c.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tree=$(cd "$here/../.." && pwd)
ARCH=$1 python=$2 packages=$3 folder=$4
. "$here/target.sh"

mkdir -p "$folder"
cd "$folder"
variable=${rust_target//-/_}
export CC_$variable=$triple-gcc AR_$variable=$triple-ar CARGO_TARGET_DIR=/build/rust
export CFLAGS_$variable="${compile_flags/-O2/}"
export CARGO_TARGET_${variable^^}_LINKER=$triple-gcc
export CARGO_TARGET_${variable^^}_RUSTFLAGS='-C relocation-model=static'
cargo build --quiet --profile frozen --locked --lib --package limpet-driver --target $rust_target \
    --manifest-path "$tree/native/Cargo.toml"

PYTHONPATH=$tree/runtime "$packages/venv/bin/python" -c 'import sys; from pathlib import Path
from limpet.native.ffi_build import emit_source
emit_source(Path(sys.argv[1]))' "$PWD/_core.c"
PYTHONNODEBUGRANGES=1 "$packages/venv/bin/python" -X frozen_modules=off \
    "$here/freeze_start.py" frozen_start.h
orjson=$(echo "$packages/orjson-$ARCH"/orjson/orjson.*.so)
python3.11 "$here/objects.py" objects.h $orjson_needs "$orjson"

# What is looked up by name at run time: by the bootloader, and by orjson.
bootloader=$packages/pyinstaller/bootloader/src
{
    echo '{'
    sed -n 's/^ *_IMPORT_FUNCTION(\(Py[A-Za-z0-9_]*\)).*/\1;/p' "$bootloader/pyi_dylib_python.c"
    $triple-nm -D --undefined-only "$orjson" | awk '$2 ~ /^_?Py/ { print $2 ";" }'
    echo '};'
} >exported

# Small, because it starts Python, or stands between it and the core a few times a turn.
compile() { # compile OBJECT FLAGS...
    $triple-gcc $compile_flags -Os -c -o "$@"
}
rm -f ./*.o
for source in "$bootloader"/*.c; do
    case $source in
    *win32*.c | *apple*.c) continue ;;
    esac
    compile "bootloader-$(basename "$source" .c).o" -Dmain=bootloader_main -DNDEBUG -D_REENTRANT \
        -D_DEFAULT_SOURCE -DHAVE_STDBOOL_H -DHAVE_UNSETENV=1 -DHAVE_MKDTEMP -DHAVE_DIRNAME \
        -DHAVE_BASENAME -DHAVE_WCSDUP -DPYI_USE_POSIX_SEMAPHORE "$source"
done
compile start.o -I"$python/include" -I. "$here/start.c"
compile core.o -I"$python/include" _core.c
compile cffi.o -I"$python/include" -DFFI_BUILDING=1 -DUSE__THREAD -DHAVE_SYNC_SYNCHRONIZE \
    "$packages/cffi/src/c/_cffi_backend.c"

# Everything is static but the C library, whose names and addresses are the device's business.
$triple-gcc $compile_flags -no-pie -static-libgcc -s -o loader.new \
    -Wl,--gc-sections,--as-needed,-O1,--build-id=none,-z,relro,-z,now \
    -Wl,--dynamic-list=exported ./*.o "$python/python.o" \
    "/build/rust/$rust_target/frozen/liblimpet_driver.a" \
    -l:libffi.a -l:libz.a -lm -lgcc_eh
mv loader.new loader
