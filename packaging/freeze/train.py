"""An agent's work in little, over and over: a release of Python is laid out by what it counts here.

`train.py TREE PACKAGES...`: where limpet is, and each folder of Python packages. Agent, link and
documents are the real ones, between a broker and a core that say yes. Nothing of it depends on the
time or on chance, so that two builds count the same.
"""

from __future__ import annotations

import base64
import hashlib
import json
import marshal
import re
import socket
import struct
import sys
from pathlib import Path
from typing import Any

TREE = Path(sys.argv[1])
sys.path[:0] = [str(TREE / "runtime"), *sys.argv[2:]]

from limpet import slim  # noqa: E402

slim.install()
from limpet import codec, config, policy, toml, topics  # noqa: E402
from limpet.agent import Agent, Identity  # noqa: E402
from limpet.backoff import Backoff  # noqa: E402
from limpet.link import READY, Link  # noqa: E402
from limpet.log import Log  # noqa: E402
from limpet.looks import Looks  # noqa: E402
from limpet.native.records import STAGES, SUBMIT, VERDICTS, Event  # noqa: E402

ROUNDS = 300
STARTS = 10
CALLS = 50
NOW_MS = 1_795_000_000_000
ACCEPTED = next(number for number, name in VERDICTS.items() if name == "accepted")
FILTERS = topics.device_filters("limpet", "board")
CONNACK = b"\x20\3\0\0\0"
SUBACK = bytes([0x90, 3 + len(FILTERS), 0, 1, 0]) + bytes([1]) * len(FILTERS)
PUBLISH, PUBACK = 0x32, b"\x40\2"
OUTPUT = {"head": "21.5\n", "tail": "", "bytes": 5}
SETTINGS = (TREE / "configs/limpet.toml").read_text()


class Device:
    """An agent that is connected, and what it talks to."""

    def __init__(self) -> None:
        settings = config.parse("limpet.toml", SETTINGS, "board")
        site = policy.Site("board", "/tasks", 1 << 20, True, ["limpet", "worker"], ["limpet"])
        rules = policy.compile(toml.Source("policy.toml", "", []), [], site, [])
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.agent = Agent(
            Identity("limpet", "board", {}),
            rules,
            lambda message, _: (len(codec.FRAME_HEADER), bytes(32)),
            lambda: "nonce",
            Looks(rules, dict),
            Log(len, lambda: NOW_MS, "info", "json"),
        )
        self.link = Link(
            settings.broker,
            FILTERS,
            lambda _: 1,
            lambda _: None,
            self.agent.greet,
            Backoff(1),
        )
        self.tasks = 0
        self.link.tick(0)
        self.link.heard(event("link", STAGES.index("up"), 1, value=self.ours.detach()), 0)
        for packet in (CONNACK, SUBACK):
            self.theirs.send(packet)
            self.turn()
        assert self.link.phase == READY, self.link.take()

    def turn(self) -> None:
        """Do what the loop does; the core accepts each task and runs it, the broker hears all."""
        if self.link.fileno() is not None:
            self.link.read(0)
        self.note()
        while items := self.agent.items():
            self.agent.submitted(items, [None] * len(items))
            for item in items:
                if item.op == SUBMIT:
                    self.run(item.token, json.loads(item.text))
        self.agent.tick(0)
        while (found := self.agent.outbox.next()) is not None:
            ticket, told = found
            number = self.link.publish(told.topic, told.payload, told.retain)
            if number is None:
                break
            self.agent.outbox.sent(ticket, number)
            self.theirs.send(PUBACK + number.to_bytes(2, "big"))
        for epoch, number in self.agent.acknowledgements:
            self.link.acknowledge(epoch, number)
        self.agent.acknowledgements.clear()
        self.agent.told.clear()
        self.link.write(0)
        self.theirs.recv(1 << 18)

    def note(self) -> None:
        """Hand over what the link noted."""
        for note in self.link.take():
            self.agent.noted(note, 0, NOW_MS)

    def run(self, token: int, plan: dict[str, Any]) -> None:
        """Tell of a task what the core tells of one that runs well."""
        self.tasks += 1
        named = {"source": plan["source"], "id": plan["id"]}
        self.agent.heard(event("answer", ACCEPTED, token, self.tasks))
        steps = []
        for number, step in enumerate(plan["steps"]):
            text = {**named, "sequence": number, "state": "running", "step": number}
            text |= {"attempt": 1, "progress": None, "report": plan["report"]}
            self.agent.heard(event("changed", 0, 0, self.tasks, **text))
            ended = {"outcome": "succeeded", "attempts": 1, "exit_code": 0, "result": {"ok": True}}
            steps.append({"name": step["name"], "stdout": OUTPUT, "stderr": OUTPUT, **ended})
        history = {**named, "outcome": "succeeded", "accepted_ms": NOW_MS, "steps": steps}
        self.agent.heard(event("result", 0, 0, self.tasks, **history))


def event(kind: str, code: int, token: int, target: int = 0, value: int = -1, **text: Any) -> Event:
    """Return what the core tells."""
    return Event(kind, code, token, target, value, text)


def publication(number: int, body: bytes) -> bytes:
    """Return a broker's PUBLISH of QoS 1, in MQTT 5."""
    topic = b"limpet/board/task/ops"
    rest = len(topic).to_bytes(2, "big") + topic + number.to_bytes(2, "big") + b"\0" + body
    length, left = b"", len(rest)
    while left > 127:
        length, left = length + bytes([left % 128 | 128]), left // 128
    return bytes([PUBLISH]) + length + bytes([left]) + rest


def work() -> None:
    """Run tasks that say everything that a task can say."""
    device = Device()
    files = sorted((TREE / "tests/vectors/plans").glob("*.json"))
    bodies = [codec.frame(codec.encode(json.loads(file.read_text())["document"])) for file in files]
    for number in range(1, ROUNDS + 1):
        for body in bodies:
            device.theirs.send(publication(number, body))
            # The second hears that the broker has what the first told.
            device.turn()
            device.turn()
    assert device.tasks == ROUNDS * len(bodies), device.tasks


def begin() -> None:
    """Do what a start takes: modules are read, settings parsed."""
    for file in sorted((TREE / "runtime/limpet").glob("*.py")):
        code = marshal.dumps(compile(file.read_text(), file.name, "exec"))
        for _ in range(STARTS):
            marshal.loads(code)
    for _ in range(STARTS):
        config.parse("limpet.toml", SETTINGS, "board")


def tool() -> None:
    """Do what many a tool does that is written in Python."""
    call = {"input": {"numbers": list(range(100)), "text": SETTINGS[:4096]}}
    for _ in range(CALLS):
        given = json.loads(json.dumps(call))["input"]
        text = given["text"].encode()
        struct.unpack("<16I", hashlib.sha256(base64.b64decode(base64.b64encode(text))).digest() * 2)
        sum(number * number for number in given["numbers"]) / len(text)
        re.findall(r"(\w+)\s*=\s*(\S+)", given["text"])


work()
begin()
tool()
