"""Write frozen_start.h: the modules that Python needs before it can read the archive.

Run by the Python whose bytecode it is to be. Decides which; everything else is in the archive. As
bytecode they take a third of what CPython's own way of freezing, objects in C, makes of them.
"""

from __future__ import annotations

import importlib.util
import marshal
import sys
from pathlib import Path

MODULES = (
    "_collections_abc",
    "codecs",
    "encodings",
    "encodings.aliases",
    "encodings.utf_8",
    "genericpath",
    "io",
    "os",
    "posixpath",
    "stat",
)


def compiled(name: str) -> tuple[bytes, bool]:
    """Return the code of the module `name` without docstrings, and whether it is a package."""
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None
    source = Path(spec.origin).read_bytes()
    code = compile(source, f"<frozen {name}>", "exec", dont_inherit=True, optimize=2)
    return marshal.dumps(code), spec.submodule_search_locations is not None


def main(header: Path) -> None:
    """Write `header`."""
    arrays, rows = [], []
    for number, name in enumerate(MODULES):
        code, package = compiled(name)
        numbers = ",".join(map(str, code))
        arrays.append(f"static const unsigned char frozen_{number}[] = {{{numbers}}};\n")
        row = f'"{name}", frozen_{number}, sizeof frozen_{number}, {int(package)}, NULL'
        rows.append(f"    {{{row}}},\n")
    table = f"static const struct _frozen frozen_start[] = {{\n{''.join(rows)}    {{0}},\n}};\n"
    header.write_text("".join(arrays) + table, encoding="ascii")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
