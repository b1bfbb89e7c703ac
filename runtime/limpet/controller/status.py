"""Asks the agent of this machine, over its local socket, how it is and what it does.

Decides how its answer is shown. Knows no broker and no core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limpet.controller import local, picture, present, top
from limpet.errors import EXIT_OK

if TYPE_CHECKING:
    from limpet.controller.terminal import Screen


def ask(screen: Screen, file: str) -> int:
    """Show what the agent that `file` configures answers; LinkError if none does."""
    agent = local.context(file)
    answer = local.ask_agent(agent, "status")
    memory = top.ask(agent)
    screen.record({"kind": "status", **answer, "memory": memory})
    for line in lines(answer, memory):
        screen.say(line)
    return EXIT_OK


def tasks(screen: Screen, file: str) -> int:
    """List the live tasks of the agent that `file` configures; LinkError if none answers."""
    live = local.ask(file, "status")["tasks"]
    for task in live:
        screen.record({"kind": "task", **task})
    for line in table(live) or ["no task is live"]:
        screen.say(line)
    return EXIT_OK


def record(screen: Screen, file: str) -> int:
    """Have the agent write down what its machine was told lately; LinkError if none answers."""
    answer = local.ask(file, "record")
    screen.record({"kind": "recorded", **answer})
    screen.say(f"recorded in {answer['directory']}; see: limpet replay {answer['directory']}")
    return EXIT_OK


def lines(answer: dict[str, Any], memory: dict[str, Any]) -> list[str]:
    """Return the answers for a person: the agent, its broker, its memory, its live tasks."""
    core = answer["core"]
    told = [
        f"device   {answer['device']}, limpet {answer['version']}",
        f"broker   {answer['link']}, MQTT {answer['protocol'] or '-'}",
        f"waiting  messages: {answer['outbox']}",
        f"core     accepted: {core['accepted']}, attempts: {core['attempts']}",
        f"memory   {picture.short(memory)}",
        f"tasks    live: {len(answer['tasks'])}",
    ]
    rows = table(answer["tasks"])
    return told + (["", *rows] if rows else [])


def table(live: list[dict[str, Any]]) -> list[str]:
    """Return the live tasks for a person, no line if there are none."""
    rows = [
        [_cell(task.get(key)) for key in ("source", "id", "state", "step", "attempt")]
        for task in live
    ]
    return present.table(["SOURCE", "TASK", "STATE", "STEP", "TRY"], rows) if rows else []


def _cell(value: object) -> str:
    return "-" if value is None else str(value)
