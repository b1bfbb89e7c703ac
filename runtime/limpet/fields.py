"""What a field may hold: one reader per kind, shared by TOML files and task documents.

A reader takes the value as the parser gave it and returns it checked (durations as milliseconds,
sizes as bytes); it raises ValueError with a text that fits after `<field>: `, and nothing else.
Knows no field by name.
"""

from __future__ import annotations

from typing import NamedTuple

from limpet.errors import nearest
from limpet.topics import is_name
from limpet.units import format_duration, format_size, parse_duration, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Read = Callable[[object], object]

ARGUMENTS_MAX = 16
TEXT_CHARACTERS_MAX = 1024
REQUIRED = object()


class Field(NamedTuple):
    """One field: its default as it is written (or REQUIRED), its reader, its unit."""

    default: object
    read: Read
    unit: str = ""


def text(value: object) -> str:
    """Read a text of at most 1,024 characters on one line."""
    if not isinstance(value, str):
        raise ValueError("must be a text in quotes")
    if len(value) > TEXT_CHARACTERS_MAX or not (value.isprintable()):
        raise ValueError(f"must be one line of at most {TEXT_CHARACTERS_MAX} characters")
    return value


def plain_name(value: object) -> str:
    """Read a name as topics have it: 1 to 64 of `A-Za-z0-9._-`."""
    if not isinstance(value, str) or not is_name(value):
        raise ValueError("must be 1 to 64 of A-Z a-z 0-9 . _ -")
    return value


def path(value: object) -> str:
    """Read an absolute path without empty, `.` and `..` parts."""
    file = text(value)
    plain = all(part not in ("", ".", "..") for part in file[1:].split("/")) or file == "/"
    if not file.startswith("/") or not plain:
        raise ValueError(f'must be an absolute path without "//", "." and "..", not "{file}"')
    return file


def argv(value: object) -> tuple[str, ...]:
    """Read a program, which is an absolute path, and its arguments."""
    if not isinstance(value, list) or not 1 <= len(value) <= ARGUMENTS_MAX:
        raise ValueError(f"must be a list of a program and at most {ARGUMENTS_MAX - 1} arguments")
    return (path(value[0]), *(text(argument) for argument in value[1:]))


def flag(value: object) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def optional(read: Read) -> Read:
    """Return a reader that takes the empty text as None."""
    return lambda value: None if value == "" else read(value)


def auto(read: Read) -> Read:
    """Return a reader that takes "auto" as None: whoever uses the value derives it."""
    return lambda value: None if value == "auto" else read(value)


def choice(*choices: str) -> Read:
    """Return a reader that takes one of `choices`."""

    def read(value: object) -> object:
        if value not in choices or not isinstance(value, str):
            listed = ", ".join(choices)
            hint = nearest(value, list(choices)) if isinstance(value, str) else ""
            raise ValueError(f"must be one of {listed}{hint}")
        return value

    return read


def whole(minimum: int, maximum: int) -> Read:
    """Return a reader for a whole number in a range."""

    def read(value: object) -> object:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError("must be a whole number")
        if not minimum <= value <= maximum:
            raise ValueError(f"is {value}, must be between {minimum} and {maximum}")
        return value

    return read


def duration(minimum_ms: int, maximum_ms: int) -> Read:
    """Return a reader for a duration in a range, as milliseconds."""
    return _measure(parse_duration, format_duration, minimum_ms, maximum_ms)


def size(minimum_bytes: int, maximum_bytes: int) -> Read:
    """Return a reader for a size in a range, as bytes."""
    return _measure(parse_size, format_size, minimum_bytes, maximum_bytes)


def nullable(read: Read) -> Read:
    """Return a reader that takes None (JSON null, or a field left out) as None."""
    return lambda value: None if value is None else read(value)


def milli(minimum: float, maximum: float) -> Read:
    """Return a reader for a number in a range, as thousandths."""

    def read(value: object) -> object:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError("must be a number")
        if not minimum <= value <= maximum:
            raise ValueError(f"is {value}, must be between {minimum} and {maximum}")
        return round(value * 1000)

    return read


def listed(read: Read, count_max: int) -> Read:
    """Return a reader for a list of at most `count_max` values of one kind."""

    def read_list(value: object) -> object:
        if not isinstance(value, list) or len(value) > count_max:
            raise ValueError(f"must be a list of at most {count_max} values")
        return [read(item) for item in value]

    return read_list


def _measure(
    parse: Callable[[object], int], show: Callable[[int], str], minimum: int, maximum: int
) -> Read:
    def read(value: object) -> object:
        amount = parse(value)
        if not minimum <= amount <= maximum:
            raise ValueError(f'is "{value}", must be between {show(minimum)} and {show(maximum)}')
        return amount

    return read
