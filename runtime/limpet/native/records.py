"""Items and events of the C ABI as Python values; what its numbers are called stands here only.

Knows no pointer and no handle. A test holds the numbers against the header both ways.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

SUBMIT, CANCEL, EXTEND, DELIVERED, HOST_DONE, LIST, DRAIN, RECORD = range(1, 9)

# The operations' names in the header.
OPERATIONS = {
    SUBMIT: "SUBMIT",
    CANCEL: "CANCEL",
    EXTEND: "EXTEND",
    DELIVERED: "DELIVERED",
    HOST_DONE: "HOST_DONE",
    LIST: "LIST",
    DRAIN: "DRAIN",
    RECORD: "RECORD",
}
KINDS = {
    1: "answer",
    2: "changed",
    3: "result",
    4: "work",
    5: "continue",
    6: "link",
    7: "listed",
    8: "drained",
    9: "trouble",
    10: "recorded",
}
VERDICTS = {
    1: "accepted",
    2: "alive",
    3: "ended",
    4: "refused",
    5: "cancelling",
    6: "remembered",
}
STAGES = ("resolving", "connecting", "handshaking", "up", "down")

# `flags` of a submission: its expiry is judged by whatever the clock says.
ANY_CLOCK = 1
# `flags` of a cancel: also tasks of other sources.
ANY_SOURCE = 1
# `target` of an answer about a task that does not live.
NO_TARGET = (1 << 64) - 1


# `LimpetItem` and `LimpetEvent`, field by field: one call for a record, and not one per field.
ITEM = struct.Struct("=IIQQQII32s")
EVENT = struct.Struct("=IIQQqII")


class Item(NamedTuple):
    """One thing the core is asked for; `text` and `digest` are bytes."""

    op: int
    token: int = 0
    target: int = 0
    value: int = 0
    flags: int = 0
    text: bytes = b""
    digest: bytes = b""


class Event(NamedTuple):
    """One thing the core tells; `text` is its decoded JSON, an empty object if it has none.

    A result's says which task it is of; its `history` is passed on as it is.
    """

    kind: str
    code: int
    token: int
    target: int
    value: int
    text: dict[str, Any]
    history: bytes = b""
