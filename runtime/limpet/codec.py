"""Bytes to plain values and back, with every bound checked before a value is built.

Decides size, depth, count, duplicate keys and number range, and how a frame looks. Knows no
document. The scan runs over bytes in C (replace, split, translate), not character by character.
"""

from __future__ import annotations

from typing import Any

import orjson

from limpet.errors import TaskError, check
from limpet.units import NUMBER_MAX

MESSAGE_BYTES_MAX = 128 * 1024
DEPTH_MAX = 16
# Commas, keys and strings: what the built values cost grows with these and not with the bytes.
ITEMS_MAX = 8192
# An integer of up to 18 digits is exact in the parser; a longer one would silently become a float.
DIGITS_MAX = 18

FRAME_HEADER = b"limpet/1 none\n"

EVERY_BYTE = bytes(range(256))
NOT_BRACKETS = bytes(set(EVERY_BYTE) - set(b"[]{}"))
DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"000000000")
TOO_MANY_DIGITS = b"0" * (DIGITS_MAX + 1)
# Looked for as numbers: a byte is found in a sixth of the time that a text of one byte takes.
BACKSLASH, POINT = b"\\."


def decode(body: bytes) -> object:
    """Return the value in `body`; TaskError names the first bound it breaks."""
    if len(body) > MESSAGE_BYTES_MAX:
        detail = f"the body has {len(body)} bytes, at most {MESSAGE_BYTES_MAX}"
        raise TaskError("body_too_long", detail)
    keys = _scan(body)
    try:
        value: object = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise TaskError("not_json", f"the body is not JSON: {error}") from None
    if _walk(value) != keys:
        raise TaskError("duplicate_key", "an object in the body names the same key twice")
    return value


def encode(value: object) -> bytes:
    """Return `value` as JSON, always the same bytes for equal values (sorted keys)."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def frame(body: bytes) -> bytes:
    """Return the message that carries `body` to a device, unsigned."""
    message = FRAME_HEADER + body
    check(len(message) <= MESSAGE_BYTES_MAX, "a message fits its bound")
    return message


def _scan(body: bytes) -> int:
    """Check the bounds on the bytes alone and return how many keys they write.

    Escaped backslashes go first, then escaped quotes; what is left splits into outside and inside
    of strings. That is exact for JSON, and only JSON is let through later.
    """
    if body.count(b'"') > 2 * ITEMS_MAX:
        raise TaskError("too_many_values", f"the body has more than {ITEMS_MAX} strings")
    plain = body
    if BACKSLASH in body:
        plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside = b" ".join(plain.split(b'"')[::2])
    keys = outside.count(b":")
    if outside.count(b",") + keys > ITEMS_MAX:
        raise TaskError("too_many_values", f"the body has more than {ITEMS_MAX} values")
    if outside.count(b"[") + outside.count(b"{") > DEPTH_MAX:
        _check_depth(outside)
    integers = outside
    if POINT in outside:
        # Digits behind a point cost precision, not range: they are a float's in any case.
        first, *rest = outside.split(b".")
        integers = b" ".join([first, *(part.lstrip(b"0123456789") for part in rest)])
    if TOO_MANY_DIGITS in integers.translate(DIGITS_TO_ZERO):
        raise TaskError("number_range", f"a number has more than {DIGITS_MAX} digits in a row")
    return keys


def _check_depth(outside: bytes) -> None:
    """Follow the brackets: with no more of them than levels, nobody has to."""
    depth = 0
    for bracket in outside.translate(None, NOT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > DEPTH_MAX:
            raise TaskError("too_deep", f"values in the body nest deeper than {DEPTH_MAX}")


def _walk(value: object) -> int:
    """Check every number and return how many keys were built."""
    keys = 0
    inner: list[Any] = [value]
    # The list grows while it is gone through.
    for item in inner:
        kind = type(item)
        if kind is dict:
            keys += len(item)
            inner += item.values()
        elif kind is list:
            inner += item
        elif kind is int and abs(item) > NUMBER_MAX:
            raise TaskError("number_range", f"integer {item} is beyond 2^53")
    return keys
