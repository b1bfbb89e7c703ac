"""Strict TOML: every mistake of a file gathered as `file:line: text`, unknown keys included.

Decides how a mistake is located and what becomes of a faulty key. Knows no key by name. The
parser is imported when a file is read, so that a running agent can let go of it.
"""

from __future__ import annotations

import sys
from typing import Any

from limpet.errors import nearest
from limpet.fields import REQUIRED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from limpet.fields import Field

    Where = tuple[str | int, ...]

FILE_BYTES_MAX = 256 * 1024
# What only the parser needs, and all that is beneath.
PARSER = ("tomli", "re")


class Source:
    """One parsed file: its root table and the lines its keys stand on."""

    __slots__ = ("_lines", "_mistakes", "path", "root")

    def __init__(self, path: str, text: str, mistakes: list[str]) -> None:
        """Parse `text`; what is wrong is added to `mistakes`, and the root is then empty."""
        import tomli

        self.path = path
        self.root: dict[str, Any] = {}
        self._mistakes = mistakes
        self._lines = _index(text)
        try:
            self.root = tomli.loads(text)
        except (ValueError, RecursionError) as error:
            line = getattr(error, "lineno", 1)
            mistakes.append(f"{path}:{line}: cannot parse: {error}")

    def origin(self, where: Where) -> str:
        """Return `file:line` of a key, or of the nearest table around it."""
        while where not in self._lines:
            where = where[:-1]
        return f"{self.path}:{self._lines[where]}"

    @property
    def faults(self) -> int:
        """How many mistakes there are so far, in this file and those read before it."""
        return len(self._mistakes)

    def fault(self, where: Where, text: str) -> None:
        """Add one mistake at the key `where`."""
        self._mistakes.append(f"{self.origin(where)}: {_dotted(where)}{text}")

    def take(
        self, table: object, where: Where, keys: dict[str, Field], inner: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """Read `table` by `keys` into attributes (key plus unit); `inner` tables are left alone.

        A key that is absent or faulty has its default; a required one is then left out, so a
        caller that needs it looks whether it is there.
        """
        if not isinstance(table, dict):
            self.fault(where, "must be a table")
            keys = {name: key for name, key in keys.items() if key.default is not REQUIRED}
            table = {}
        for name in table:
            if name not in keys and name not in inner:
                hint = nearest(name, [*keys, *inner])
                self.fault((*where, name), f"is not a known key{hint}")
        values = {}
        for name, key in keys.items():
            value = table.get(name, key.default)
            if value is REQUIRED:
                self.fault(where, f'needs the key "{name}"')
                continue
            try:
                values[name + key.unit] = key.read(value)
            except ValueError as error:
                self.fault((*where, name), str(error))
                if key.default is not REQUIRED:
                    values[name + key.unit] = key.read(key.default)
        return values


def load(path: str, mistakes: list[str]) -> Source:
    """Read and parse the file at `path`; one that cannot be read is a mistake and empty."""
    content = ""
    try:
        with open(path, "rb") as file:
            read = file.read(FILE_BYTES_MAX + 1)
        if len(read) > FILE_BYTES_MAX:
            raise OSError(f"it has more than {FILE_BYTES_MAX} bytes")
        content = read.decode()
    except OSError as error:
        mistakes.append(f"{path}:1: cannot read the file: {error.strerror or error}")
    except UnicodeDecodeError as error:
        mistakes.append(f"{path}:1: cannot read the file: it is not UTF-8 at byte {error.start}")
    return Source(path, content, mistakes)


def let_go() -> None:
    """Forget the parser; to read one more file brings it back."""
    for name in [name for name in sys.modules if name.partition(".")[0] in PARSER]:
        del sys.modules[name]


def _dotted(where: Where) -> str:
    """Return `allow[1].tools: `, or nothing for the root."""
    shown = ""
    for part in where:
        shown += f"[{part}]" if isinstance(part, int) else f".{part}" if shown else part
    return f"{shown}: " if shown else ""


def _index(source: str) -> dict[Where, int]:
    """Return the line of each table and key that starts a line.

    Good enough to point at a line, not a parser: keys inside inline tables are found by the line
    of what holds them, and a text over several lines is skipped.
    """
    lines: dict[Where, int] = {(): 1}
    counts: dict[Where, int] = {}
    table: Where = ()
    closing = ""
    for number, line in enumerate(source.split("\n"), 1):
        if closing:
            closing = "" if closing in line else closing
            continue
        stripped = line.strip()
        header = stripped.partition("#")[0].rstrip()
        if header.startswith("[") and header.endswith("]"):
            names = _names(header.strip("[] \t"))
            table = _resolve(names[:-1], counts)
            if header.startswith("[["):
                array = table + names[-1:]
                counts[array] = counts.get(array, 0) + 1
                lines.setdefault(array, number)
            table = _resolve(names, counts)
            lines.setdefault(table, number)
        elif "=" in stripped and not stripped.startswith("#"):
            name, _, value = stripped.partition("=")
            names = _names(name)
            for length in range(1, len(names) + 1):
                lines.setdefault(table + names[:length], number)
            closing = next((q for q in ('"""', "'''") if value.count(q) == 1), "")
    return lines


def _names(dotted: str) -> tuple[str, ...]:
    return tuple(name.strip(" \t\"'") for name in dotted.split("."))


def _resolve(names: tuple[str, ...], counts: dict[Where, int]) -> Where:
    """Return the path of a table, with the index of the newest element of each array of tables."""
    where: Where = ()
    for name in names:
        where = (*where, name)
        if where in counts:
            where = (*where, counts[where] - 1)
    return where
