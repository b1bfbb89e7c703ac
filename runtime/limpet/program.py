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
    return [os.path.join(os.path.dirname(os.path.abspath(__file__)), "native", "limpet-tool")]


def again() -> list[str]:
    """Return the command line that this process was started with, by the file's full path."""
    return [sys.executable, *sys.orig_argv[1:]]


def materials() -> str | None:
    """Return the bill of materials of this file (CycloneDX 1.6, JSON); None if it is no file."""
    if not FROZEN:
        return None
    import limpet_materials

    return str(limpet_materials.TEXT)
