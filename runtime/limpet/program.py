"""How this program is started: as one file that holds everything, or by an interpreter.

The only file that knows of the difference, which PyInstaller's convention tells: `sys.frozen`.
"""

from __future__ import annotations

import os
import sys

FROZEN = bool(getattr(sys, "frozen", False))


def words(*arguments: str) -> list[str]:
    """Return the command line that starts limpet with `arguments`."""
    return [sys.executable, *([] if FROZEN else ["-m", "limpet"]), *arguments]


def native() -> list[str]:
    """Return the command line that starts a native tool, without the tool's name."""
    if FROZEN:
        return words("native")
    return [_tool(), "native"]


def inspect() -> list[str]:
    """Return the command line that starts `inspect`, without its arguments."""
    return words("inspect") if FROZEN else [_tool(), "inspect"]


def again() -> list[str]:
    """Return the command line that this process was started with, by the file's full path."""
    return [sys.executable, *sys.orig_argv[1:]]


def _tool() -> str:
    """Return the path of the program that is Rust alone."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "native", "limpet-tool")


def materials() -> str | None:
    """Return the bill of materials of this file (CycloneDX 1.6, JSON); None if it is no file."""
    if not FROZEN:
        return None
    import limpet_materials

    return str(limpet_materials.TEXT)
