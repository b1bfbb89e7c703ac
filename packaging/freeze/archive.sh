#!/usr/bin/env bash
# In the build root: the archive of Python modules.
# archive.sh PACKAGES FOLDER: makes FOLDER/limpet.pkg; modules beside it (the bill of materials) are
# taken in.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
packages=$1 folder=$2
rm -rf "$folder/work"
# Without the columns of each instruction, a fifth of the bytecode: tracebacks name the line.
export PYTHONNODEBUGRANGES=1
export PYINSTALLER_ZLIB_COMPRESSION_LEVEL=9
export MODULES=$folder:$packages/pure
export PYTHONPATH=$packages/pyinstaller PYINSTALLER_CONFIG_DIR=/tmp/pyinstaller
"$packages/venv/bin/python" -m PyInstaller --log-level WARN --noconfirm \
    --workpath "$folder/work" --distpath "$folder" "$here/limpet.spec"
