"""The outputs of steps as the agent has spooled them, for a person on the device.

Decides how a task is named and found among the logs. Knows how the core names directories and files
there, and nothing of tasks beyond their names.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from limpet import config
from limpet.controller.document import FileError
from limpet.errors import EXIT_OK

if TYPE_CHECKING:
    from limpet.controller.terminal import Screen

STREAMS = ("stdout", "stderr")
CHUNK_BYTES = 64 * 1024


class Log(NamedTuple):
    """One file: what attempt `attempt` of step `step` wrote to `stream`."""

    place: int
    step: str
    attempt: int
    stream: str
    path: str


def show(screen: Screen, file: str, task: str, step: str | None, stream: str | None) -> int:
    """Copy the logs of a task, or of one of its steps, to standard output, in order."""
    state = config.load(file).device.state_directory
    root = os.path.join(state, "logs")
    found = [
        log
        for log in read_names(os.path.join(root, find(root, task)))
        if step in (None, log.step) and stream in (None, log.stream)
    ]
    if not found:
        raise FileError(f"cannot show logs of {task}: no such step has written anything")
    for log in found:
        screen.record({"kind": "log", **log._asdict()})
        heading = f"--- {log.step}, attempt {log.attempt}, {log.stream}"
        if len(found) > 1:
            screen.say(screen.paint(heading, "bold"))
        if not screen.json:
            _copy(log.path)
    return EXIT_OK


def find(root: str, task: str) -> str:
    """Return the directory of `task`, which is an id or SOURCE/ID."""
    source, slash, name = task.rpartition("/")
    wanted = f"{source.replace('.', '+')}.{name}"
    try:
        entries = sorted(os.listdir(root))
    except FileNotFoundError:
        entries = []
    matching = [
        entry
        for entry in entries
        if (entry == wanted if slash else entry.partition(".")[2] == name)
    ]
    if not matching:
        raise FileError(f"cannot show logs of {task}: there are none in {root}")
    if len(matching) > 1:
        names = " and ".join(display(entry) for entry in matching)
        raise FileError(f"cannot show logs of {task}: it may be {names} (name one of them)")
    return matching[0]


def display(directory: str) -> str:
    """Return SOURCE/ID for the name of a task's directory."""
    source, _, name = directory.partition(".")
    return f"{source.replace('+', '.')}/{name}"


def read_names(directory: str) -> list[Log]:
    """Return the logs in a task's directory in their order; other files are passed over."""
    logs = []
    for name in os.listdir(directory):
        stem, _, stream = name.rpartition(".")
        place, _, attempt = stem.rpartition(".")
        index, dash, step = place.partition("-")
        if stream in STREAMS and dash and index.isdecimal() and attempt.isdecimal():
            path = os.path.join(directory, name)
            logs.append(Log(int(index), step, int(attempt), stream, path))
    return sorted(logs, key=lambda log: (log.place, log.attempt, STREAMS.index(log.stream)))


def _copy(path: str) -> None:
    sys.stdout.flush()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()
