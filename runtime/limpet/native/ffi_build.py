"""How `limpet.native._core` is built: the Rust driver, linked into one cffi extension (API mode).

The declarations are the committed header and nothing else; none is typed here. Used by setuptools
and by packaging, never imported by the agent; it must not know what any function does.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from cffi import FFI
from setuptools import Extension
from setuptools.command.build_ext import build_ext

MODULE = "limpet.native._core"
TOOL = "limpet-tool"
ROOT = Path(__file__).resolve().parents[3]
MANIFEST = ROOT / "native" / "Cargo.toml"
HEADER = ROOT / "native" / "include" / "limpet.h"

# What the Rust standard library needs beyond libc; glibc since 2.34 holds the rest in libc itself.
LIBRARIES = ["m", "gcc_s"]
# Of the archive only what is reached is kept, and only the module's init function is visible, so
# that nothing of it can meet a symbol of another library in the same process.
LINK_OPTIONS = ["-Wl,--gc-sections", "-Wl,--exclude-libs,ALL", "-Wl,--as-needed", "-s"]


def target_folder() -> Path:
    """Return the folder into which cargo builds."""
    return ROOT / os.environ.get("CARGO_TARGET_DIR", MANIFEST.parent / "target")


def declarations(header: str) -> str:
    """Return `header` as cffi's parser takes it, which knows no preprocessor.

    Of a condition on the C standard the older branch is taken; a constant keeps its name only, for
    the compiler fills in the value; every other directive is dropped.
    """
    condition = r"^#if __STDC_VERSION__.*?\n(?:#else\n(.*?))?#endif.*?\n"
    header = re.sub(condition, r"\1", header, flags=re.DOTALL | re.MULTILINE)
    header = re.sub(r"^#define (\w+) .+", r"#define \1 ...", header, flags=re.MULTILINE)
    return re.sub(r"^#(?!define \w+ ).*", "", header, flags=re.MULTILINE)


def emit_source(source: Path) -> None:
    """Write the C source of the extension, also for a compiler other than this machine's."""
    header = HEADER.read_text(encoding="utf-8")
    ffi = FFI()
    ffi.cdef(declarations(header))
    ffi.set_source(MODULE, header)
    source.parent.mkdir(parents=True, exist_ok=True)
    ffi.emit_c_code(str(source))


class BuildNative(build_ext):
    """Build the Rust workspace, then the extension over it, and put the native tool beside it."""

    def build_extension(self, ext: Extension) -> None:
        """Build `ext` anew: which sources have changed is make's and cargo's business."""
        cargo = ["cargo", "build", "--release", "--locked", "--package", "limpet-driver"]
        subprocess.run([*cargo, "--manifest-path", str(MANIFEST)], cwd=ROOT, check=True)
        built = target_folder() / "release"
        source = Path(self.build_temp) / "_core.c"
        emit_source(source)
        ext.sources = [str(source)]
        ext.extra_objects = [str(built / "liblimpet_driver.a")]
        ext.libraries = LIBRARIES
        ext.extra_link_args = LINK_OPTIONS
        self.force = True
        super().build_extension(ext)
        shutil.copy2(built / TOOL, Path(self.get_ext_fullpath(ext.name)).with_name(TOOL))

    def copy_extensions_to_source(self) -> None:
        """Put the extension and the tool into the source tree, for an editable install."""
        super().copy_extensions_to_source()
        for ext in self.extensions:
            name = self.get_ext_filename(self.get_ext_fullname(ext.name))
            built = (Path(self.build_lib) / name).with_name(TOOL)
            shutil.copy2(built, ROOT / "runtime" / Path(name).with_name(TOOL))
