"""A journal as its records, read without its lock, while an agent runs or when none does.

Decides how its text is fetched in pieces. Knows no record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from limpet.errors import CoreError
from limpet.native import status
from limpet.native._core import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Iterator

# Longer than any record as text: the longest attaches 240 KiB.
PIECE_BYTES = 1 << 20
ERROR_BYTES = 2048


def records(directory: str) -> Iterator[dict[str, Any]]:
    """Yield every record of the journal in `directory`, and its gaps; CoreError if unreadable."""
    path = directory.encode("utf-8", "surrogateescape")
    text_out, length_out = ffi.new("uint8_t[]", PIECE_BYTES), ffi.new("size_t *")
    after = 0
    while True:
        number = lib.limpet_scan(
            ffi.from_buffer(path), len(path), after, text_out, PIECE_BYTES, length_out
        )
        if number != status.OK:
            raise CoreError(_last_error())
        lines = bytes(ffi.buffer(text_out, length_out[0])).splitlines()
        if not lines:
            return
        for line in lines:
            record = orjson.loads(line)
            yield record
            after = record["seq"] if "seq" in record else record["gap"][1] - 1


def _last_error() -> str:
    text_out, length_out = ffi.new("uint8_t[]", ERROR_BYTES), ffi.new("size_t *")
    lib.limpet_last_error(text_out, ERROR_BYTES, length_out)
    return bytes(ffi.buffer(text_out, length_out[0])).decode("utf-8", "replace")
