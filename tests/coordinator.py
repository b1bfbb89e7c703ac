"""The coordinator between a broker that takes everything and a core that says yes, for tests."""

from __future__ import annotations

from typing import Any

import orjson

from limpet import codec
from limpet.agent import Agent, Identity
from limpet.errors import EXIT_TEMPORARY, CoreError, LimpetError, TaskError
from limpet.link import Acknowledged, Arrived, Ready
from limpet.log import Log
from limpet.looks import Looks
from limpet.native.records import KINDS, VERDICTS, Event, Item
from limpet.outbox import Publication
from limpet.policy import Site
from manual import policy
from samples import NOW_MS, pictured, row

NUMBER_OF = {name: number for number, name in VERDICTS.items()}


def frame(message: bytes, _bytes_max: int) -> tuple[int, bytes]:
    if not message.startswith(codec.FRAME_HEADER):
        raise TaskError("frame_unknown", "no frame")
    return len(codec.FRAME_HEADER), bytes(32)


def event(kind: str, number: int = 0, token: int = 0, target: int = 0, **text: Any) -> Event:
    assert kind in KINDS.values()
    if kind == "result":
        head = {member: text[member] for member in ("id", "source", "outcome")}
        return Event(kind, number, token, target, -1, head, orjson.dumps(text))
    return Event(kind, number, token, target, -1, text)


class Bench:
    """An agent, and both sides of it: a broker that takes everything and a core that says yes."""

    def __init__(self, site: Site) -> None:
        log = Log(lambda _: None, lambda: NOW_MS)
        nonces = iter(f"nonce-{n}" for n in range(100))
        identity = Identity("limpet", "kitchen", {"version": "1"})
        rules = policy(site)
        looks = Looks(rules, lambda: pictured(row("ops.t-1", 30 << 20), row("other.t-2", 1 << 20)))
        self.agent = Agent(identity, rules, frame, lambda: next(nonces), looks, log)
        self.now_ms = 0
        self.epoch = 0
        self.number = 0
        self.asked: list[Item] = []
        self.published: list[Publication] = []
        self.acknowledged: list[int] = []
        self.busy = False

    def ready(self) -> None:
        self.epoch += 1
        self.agent.greet(self.epoch)
        self.note(Ready(self.epoch))

    def note(self, note: Any) -> None:
        self.agent.noted(note, self.now_ms, NOW_MS)

    def arrive(self, number: int, body: Any, kind: str = "task", source: str = "ops") -> None:
        payload = body if isinstance(body, bytes) else codec.frame(codec.encode(body))
        topic = f"limpet/kitchen/{kind}/{source}"
        self.note(Arrived(self.epoch, number, topic, payload, False))

    def turn(self) -> None:
        """Do what the loop does between two waits."""
        while items := self.agent.items():
            busy: LimpetError = CoreError("busy")
            busy.exit_code = EXIT_TEMPORARY
            if self.agent.submitted(items, [busy if self.busy else None] * len(items)):
                break
            self.asked += items
        self.agent.tick(self.now_ms)
        while (found := self.agent.outbox.next()) is not None:
            self.number += 1
            self.agent.outbox.sent(found[0], self.number)
            self.published.append(found[1])
        self.acknowledged += [number for _, number in self.agent.acknowledgements]
        self.agent.acknowledgements.clear()

    def puback(self, number: int, refused: str | None = None) -> None:
        self.note(Acknowledged(self.epoch, number, refused))

    def announced(self) -> Bench:
        """Return itself, connected; the broker has its presence."""
        self.ready()
        self.turn()
        self.puback(1)
        self.published.clear()
        return self

    def say(self, verdict: str, token: int, **text: Any) -> None:
        self.agent.heard(event("answer", NUMBER_OF[verdict], token, **text))

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [orjson.loads(one.payload) for one in self.published if one.kind == kind]


def changed(target: int, state: str, sequence: int, report: str = "all") -> Event:
    text: dict[str, Any] = {"id": f"t-{target}", "source": "ops", "state": state, "step": 0}
    text |= {"attempt": 0, "sequence": sequence, "progress": None, "report": report}
    return event("changed", target=target, **text)


def cancel(**more: Any) -> dict[str, Any]:
    return {"limpet": 1, "id": "t-1", **more}
