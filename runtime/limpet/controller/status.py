"""Asks the agent of this machine, over its local socket, how it is.

Decides how its answer is shown. Knows no broker and no core.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import orjson

from limpet import config
from limpet.controller import present
from limpet.errors import EXIT_OK, LinkError

if TYPE_CHECKING:
    from limpet.controller.terminal import Screen

ASK_S = 5.0
ANSWER_BYTES_MAX = 4 << 20


def ask(screen: Screen, file: str) -> int:
    """Show what the agent that `file` configures answers; LinkError if none does."""
    answer = _answer(file, "status")
    screen.record({"kind": "status", **answer})
    for line in lines(answer):
        screen.say(line)
    return EXIT_OK


def record(screen: Screen, file: str) -> int:
    """Have the agent write down what its machine was told lately; LinkError if none answers."""
    answer = _answer(file, "record")
    screen.record({"kind": "recorded", **answer})
    screen.say(f"recorded in {answer['directory']}; see: limpet replay {answer['directory']}")
    return EXIT_OK


def lines(answer: dict[str, Any]) -> list[str]:
    """Return the answer for a person: the agent, its broker, its live tasks."""
    core = answer["core"]
    told = [
        f"device   {answer['device']}, limpet {answer['version']}",
        f"broker   {answer['link']}, MQTT {answer['protocol'] or '-'}",
        f"waiting  messages: {answer['outbox']}",
        f"core     accepted: {core['accepted']}, attempts: {core['attempts']}",
        f"tasks    live: {len(answer['tasks'])}",
    ]
    rows = [
        [str(task.get(key, "-")) for key in ("source", "id", "state", "step", "attempt")]
        for task in answer["tasks"]
    ]
    table = present.table(["SOURCE", "TASK", "STATE", "STEP", "TRY"], rows)
    return told + (["", *table] if rows else [])


def _answer(file: str, question: str) -> dict[str, Any]:
    path, received = config.load(file).socket.path, b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(ASK_S)
            client.connect(path)
            client.sendall(orjson.dumps({"ask": question}) + b"\n")
            while not received.endswith(b"\n") and len(received) < ANSWER_BYTES_MAX:
                piece = client.recv(1 << 16)
                if not piece:
                    break
                received += piece
        answer: dict[str, Any] = orjson.loads(received)
    except (OSError, ValueError) as error:
        raise LinkError(f"cannot ask the agent at {path}: {error} (is it running?)") from None
    if "error" in answer:
        raise LinkError(answer["error"])
    return answer
