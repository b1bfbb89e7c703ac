"""The whole story of one task in one timeline, from the journal of its device.

Decides in which words a record is told. Reads and changes nothing else, locks nothing, and needs
neither the agent nor a broker.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from limpet import config
from limpet.controller.document import FileError
from limpet.controller.present import cell, outcome_colour, span
from limpet.errors import EXIT_OK, CoreError
from limpet.native import journal
from limpet.units import format_instant

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from limpet.controller.terminal import Screen

Record = dict[str, Any]
NO_STEP = 255


def show(screen: Screen, file: str, task: str) -> int:
    """Tell the timeline of `task`, an id or SOURCE/ID, from the journal of the device in `file`."""
    directory = os.path.join(config.load(file).device.state_directory, "journal")
    try:
        story = find(journal.records(directory), task)
    except CoreError as error:
        raise FileError(str(error)) from None
    begin_ms = story[0]["wall_ms"]
    screen.say(f"{format_instant(begin_ms)}  task {task}")
    for record, text in told(story):
        screen.record({"kind": "explained", "text": text, **record})
        after = f"+{span(record['wall_ms'] - begin_ms)}"
        colour = outcome_colour(record["outcome"]) if "outcome" in record else "dim"
        screen.say(f"{after:>9}  {screen.paint(record['record'], colour):<9}  {cell(text)}")
    return EXIT_OK


def find(records: Iterable[Record], task: str) -> list[Record]:
    """Return the records of `task`, with every start and stop of the agent in between."""
    source, slash, name = task.rpartition("/")
    named: dict[int, list[Record]] = {}
    for record in records:
        kind = record.get("record")
        if kind == "accepted":
            plan = record.get("attached") or {}
            if plan.get("id") == name and (not slash or plan.get("source") == source):
                named[record["task"]] = [record]
        elif record.get("task") in named:
            named[record["task"]].append(record)
        elif kind in ("opened", "stopped"):
            for story in named.values():
                if story[-1].get("record") != "delivered":
                    story.append(record)
    if not named:
        raise FileError(
            f"cannot explain {task}: the journal has no records of it (they go some time after its"
            " result was delivered; limpet logs has what its steps wrote)"
        )
    if len({story[0]["attached"]["source"] for story in named.values()}) > 1:
        raise FileError(f"cannot explain {task}: several sources used this id (say SOURCE/{name})")
    return list(named.values())[-1]


def told(story: list[Record]) -> Iterator[tuple[Record, str]]:
    """Yield each record with what it means."""
    names: list[str] = []
    for record in story:
        attached = record.get("attached") or {}
        if record.get("record") in ("accepted", "extended"):
            names += [step["name"] for step in attached.get("steps", [])]
        yield record, tell(record, names)


def tell(record: Record, names: list[str]) -> str:
    """Return one record in words."""
    number: int = record["step"] if "step" in record else record.get("after", NO_STEP)
    step = names[number] if number < len(names) else "no step"
    plan = record.get("attached") or {}
    match record["record"]:
        case "accepted":
            return f"from {plan.get('source')}, steps: {record['steps']}; durable"
        case "started":
            suspected = record["suspicions"]
            doubt = f", alone: the agent died with it, times: {suspected}" if suspected else ""
            return f"{step}, attempt {record['attempt']}{doubt}"
        case "tried":
            return f"{step}: {ended(record)}; will be tried again"
        case "interrupted":
            return f"{step}: stopped because the agent stopped; will run again"
        case "ended":
            return f"{step}: {ended(record)}"
        case "extended":
            added = record["steps"]
            return f"{step} asked for more steps: {added}" if added else f"{step}: plan refused"
        case "cancel_requested":
            return "somebody asked for its end"
        case "decided":
            clock = f", {record['clock']} ran out" if record["clock"] != "none" else ""
            by = f" by {step}" if number < len(names) else ""
            return f"the task {record['outcome']}{by}{clock}"
        case "opened":
            return "the agent started"
        case "stopped":
            return "the agent stopped in order"
        case "delivered":
            return "the result was handed over"
        case _:
            return "everything is over"


def ended(record: Record) -> str:
    """Return how an attempt ended: outcome, clock, exit code or signal, reason, stragglers."""
    end = record.get("attached") or {}
    parts = [str(record["outcome"])]
    if record.get("clock", "none") != "none":
        parts.append(f"{record['clock']} ran out")
    if end.get("signal") is not None:
        parts.append(f"signal {end['signal']}")
    elif end.get("exit_code") is not None:
        parts.append(f"exit code {end['exit_code']}")
    if end.get("reason"):
        parts.append(f"{end['reason']}: {end.get('detail')}")
    if end.get("stragglers"):
        parts.append(f"processes left behind and killed: {end['stragglers']}")
    return ", ".join(parts)
