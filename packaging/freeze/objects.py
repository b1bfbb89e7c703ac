"""Write objects.h: the shared objects that are part of the program, compressed.

`objects.py HEADER FILE...`: in the order in which they are loaded. Decides nothing else.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path


def main(header: Path, files: list[Path]) -> None:
    """Write `header`."""
    arrays, rows = [], []
    for number, file in enumerate(files):
        content = file.read_bytes()
        numbers = ",".join(map(str, zlib.compress(content, 9)))
        arrays.append(f"static const unsigned char object_{number}[] = {{{numbers}}};\n")
        rows.append(f"    {{object_{number}, sizeof object_{number}, {len(content)}}},\n")
    table = f"static const struct object objects[] = {{\n{''.join(rows)}}};\n"
    header.write_text("".join(arrays) + table, encoding="ascii")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(word) for word in sys.argv[2:]])
