"""A journal for people: one line per record, read while the agent runs or when it does not.

Decides which of a record's members a person sees. Changes nothing, locks nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from limpet.controller.document import FileError
from limpet.controller.present import cell
from limpet.errors import EXIT_OK, CoreError
from limpet.native import journal
from limpet.units import format_instant

if TYPE_CHECKING:
    from limpet.controller.terminal import Screen

# Told in columns of their own, or of no use to a person.
APART = ("seq", "task", "record", "wall_ms", "at_ns", "boot", "clock_trusted", "attached")


def show(screen: Screen, directory: str) -> int:
    """Print the records in `directory`: a journal, or the state directory around one."""
    inside = os.path.join(directory, "journal")
    count = 0
    try:
        for record in journal.records(inside if os.path.isdir(inside) else directory):
            count += 1
            screen.record(record)
            screen.say(line(record))
    except CoreError as error:
        raise FileError(str(error)) from None
    if count == 0:
        raise FileError(f"cannot show {directory}: there is no journal in it (nothing was read)")
    return EXIT_OK


def line(record: dict[str, Any]) -> str:
    """Return one record, or one gap between records, as one line."""
    if "gap" in record:
        first, after = record["gap"]
        return f"{'':6}  records {first} to {after - 1} may be lost, bytes: {record['bytes']}"
    kind = str(record.get("record", "malformed"))
    told = " ".join(f"{name}={value}" for name, value in record.items() if name not in APART)
    attached = record.get("attached")
    name = attached.get("id") if isinstance(attached, dict) else None
    told = f"id={name} {told}" if name else told
    at = format_instant(record["wall_ms"]) if "wall_ms" in record else ""
    task = record.get("task") or "-"
    return f"{record['seq']:>6}  {at:<24}  {task:>5}  {kind:<16}  {cell(told)}".rstrip()
