"""What the core reads from files for people: a journal's records, a recording's decisions.

Decides how its text is fetched in pieces; nothing is locked or changed. Knows no record.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import orjson

from limpet.errors import CoreError
from limpet.native import status
from limpet.native._core import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Longer than any record as text: the longest attaches 240 KiB.
PIECE_BYTES = 1 << 20
ERROR_BYTES = 2048


def records(directory: str) -> Iterator[dict[str, Any]]:
    """Yield every record of the journal in `directory`, and its gaps; CoreError if unreadable."""

    def number(record: dict[str, Any]) -> int:
        return int(record["seq"] if "seq" in record else record["gap"][1] - 1)

    return _lines(lib.limpet_scan, directory, number)


def decisions(path: str) -> Iterator[dict[str, Any]]:
    """Feed the machine of the recording at `path` again: yield what each input leads to, and the
    sum at last; CoreError if this version cannot replay it."""
    return _lines(lib.limpet_replay, path, lambda decision: int(decision["number"]))


def _lines(
    read: Callable[..., int], path: str, number: Callable[[dict[str, Any]], int]
) -> Iterator[dict[str, Any]]:
    """Yield the lines that `read` finds at `path`, piece by piece; each has a growing `number`."""
    name = os.fsencode(path)
    text_out, length_out = ffi.new("uint8_t[]", PIECE_BYTES), ffi.new("size_t *")
    after = 0
    while True:
        code = read(ffi.from_buffer(name), len(name), after, text_out, PIECE_BYTES, length_out)
        if code != status.OK:
            raise CoreError(_last_error())
        lines = bytes(ffi.buffer(text_out, length_out[0])).splitlines()
        if not lines:
            return
        for line in lines:
            told = orjson.loads(line)
            yield told
            after = number(told)


def _last_error() -> str:
    text_out, length_out = ffi.new("uint8_t[]", ERROR_BYTES), ffi.new("size_t *")
    lib.limpet_last_error(text_out, ERROR_BYTES, length_out)
    return bytes(ffi.buffer(text_out, length_out[0])).decode("utf-8", "replace")
