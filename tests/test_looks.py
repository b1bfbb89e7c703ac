"""Looks: who may, how many, for how long; and what is in the picture that they get."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from coordinator import Bench as AgentBench
from limpet import codec
from limpet.errors import TaskError
from limpet.looks import FIRST_MS, INTERVAL_MS, LOOKERS_MAX, Looks, only
from limpet.outbox import Publication
from limpet.policy import Policy, Site
from samples import pictured, row


class Bench:
    """Looks at a made-up device, whose pictures are counted."""

    def __init__(self, allow: dict[str, list[str]], operators: tuple[str, ...] = ()) -> None:
        rules = [{"source": source, "tools": tools} for source, tools in allow.items()]
        self.views = 0
        self.looks = Looks(Policy({"allow": rules}, operators, False), self._view)

    def _view(self) -> dict[str, Any]:
        self.views += 1
        return pictured(row("ops.t-1", 3 << 20), row("b.t-2", 2 << 20))

    def begin(self, source: str, for_s: int = 10, now_ms: int = 0) -> str | None:
        """Return the code of the refusal."""
        try:
            self.looks.begin(source, {"limpet": 1, "for": f"{for_s}s"}, now_ms)
        except TaskError as refusal:
            return refusal.code
        return None

    def shown(self, now_ms: int) -> list[str]:
        return [source for source, _ in self.looks.take(now_ms)]


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("ops", None),
        ("admin", None),
        ("idle", "not_allowed"),
        ("stranger", "not_allowed"),
        ("local", "not_allowed"),
    ],
)
def test_whoever_may_do_something_may_look(source: str, code: str | None) -> None:
    bench = Bench({"ops": ["sleep"], "idle": [], "local": ["exec"]}, ("admin", "local"))
    assert bench.begin(source) == code
    assert bench.views == (code is None), "who is refused costs nothing"


def test_a_rule_for_everybody_is_one_for_each() -> None:
    assert Bench({"*": ["sleep"]}).begin("anybody") is None
    assert Bench({"*": ["sleep"]}).begin("local") == "not_allowed"


def test_only_so_many_look_at_one_time_and_places_get_free() -> None:
    bench = Bench({"*": ["sleep"]})
    names = [f"source-{number}" for number in range(LOOKERS_MAX)]
    assert [bench.begin(name, for_s=2) for name in names] == [None] * LOOKERS_MAX
    assert bench.begin("one-more") == "busy_looks"
    assert bench.begin(names[0], for_s=2) is None, "who looks already may go on"
    assert bench.shown(FIRST_MS) == names
    assert bench.shown(FIRST_MS + INTERVAL_MS) == names
    assert bench.begin("one-more", now_ms=2_000) is None


def test_one_view_a_second_serves_all_who_look() -> None:
    bench = Bench({"*": ["sleep"]})
    for name in ("a", "b"):
        bench.begin(name)
    assert bench.looks.deadline_ms == FIRST_MS
    assert bench.shown(FIRST_MS - 1) == []
    assert bench.shown(FIRST_MS) == ["a", "b"]
    assert bench.shown(FIRST_MS) == [], "a busy agent shows no more often"
    assert bench.views == 2, "the first one only wakes the core"


def test_a_look_ends_and_a_later_one_prolongs_it() -> None:
    bench = Bench({"*": ["sleep"]})
    bench.begin("a", for_s=2)
    bench.begin("a", for_s=1, now_ms=100)
    times: list[int] = []
    while (due_ms := bench.looks.deadline_ms) is not None:
        if len(times) == 1:
            bench.begin("a", for_s=2, now_ms=due_ms)
        assert bench.shown(due_ms) == ["a"]
        times.append(due_ms)
    assert times == [FIRST_MS + n * INTERVAL_MS for n in range(3)]


def test_an_agent_that_leaves_shows_nothing_more() -> None:
    bench = Bench({"*": ["sleep"]})
    bench.begin("a")
    bench.looks.end()
    assert bench.looks.deadline_ms is None
    assert bench.shown(FIRST_MS) == []


def test_who_comes_back_late_shows_nothing_to_whose_time_is_over() -> None:
    bench = Bench({"*": ["sleep"]})
    bench.begin("a", for_s=2)
    assert bench.shown(60_000) == []
    assert bench.looks.deadline_ms is None


def test_a_source_sees_its_own_steps_and_an_operator_all() -> None:
    bench = Bench({"ops": ["sleep"]}, ("admin",))
    bench.begin("ops")
    bench.begin("admin")
    shown = {source: orjson.loads(body) for source, body in bench.looks.take(FIRST_MS)}
    assert [each["id"] for each in shown["ops"]["steps"]] == ["t-1"]
    assert shown["ops"]["hidden_steps"] == 1
    assert [each["id"] for each in shown["admin"]["steps"]] == ["t-1", "t-2"]
    assert shown["admin"]["hidden_steps"] == 0
    assert shown["ops"]["pool"] == shown["admin"]["pool"]
    assert (shown["ops"]["source"], shown["admin"]["source"]) == ("ops", "admin")


def test_a_picture_sums_and_sorts_and_names() -> None:
    rows = [row("a+b.t.1", 1 << 20), row("ops.big", 9 << 20), row("ops.free", 2 << 20, None)]
    told = pictured(*rows, refusing="full")
    assert [(each["source"], each["id"]) for each in told["steps"]] == [
        ("ops", "big"),
        ("ops", "free"),
        ("a.b", "t.1"),
    ]
    assert told["pool"] == {
        "limit_bytes": 512 << 20,
        "held_bytes": 128 << 20,
        "used_bytes": 12 << 20,
    }
    assert told["agent"] == {
        "used_bytes": 20 << 20,
        "limit_bytes": 64 << 20,
        "refusing": "full",
    }
    assert only(told, "nobody")["hidden_steps"] == 3


@pytest.fixture
def agent(site: Site) -> AgentBench:
    return AgentBench(site).announced()


def look(agent: AgentBench, number: int, source: str = "ops", **fields: Any) -> dict[str, Any]:
    """Have `source` look; return the answer, which reaches the broker."""
    agent.arrive(number, {"limpet": 1, **fields}, "look", source)
    agent.turn()
    (said,) = agent.told("answer")
    agent.published.clear()
    agent.puback(agent.number)
    return said


def test_who_looks_is_answered_and_shown_the_memory_until_its_time_is_over(
    agent: AgentBench,
) -> None:
    told = look(agent, 7, **{"for": "3s"})
    assert (told["request"], told["answer"], told["id"]) == ("look", "accepted", None)
    assert agent.asked == [], "the core has no part in it"
    for _ in range(20):
        due_ms = agent.agent.deadline_ms
        if due_ms is None:
            break
        agent.now_ms = due_ms
        agent.turn()
        agent.puback(agent.number)
    assert agent.now_ms <= 3_000, "nothing wakes an agent that nobody looks at"
    shown = agent.told("memory")
    assert len(shown) == 3
    assert {one.topic for one in agent.published} == {"limpet/kitchen/memory/ops"}
    assert [each["id"] for each in shown[0]["steps"]] == ["t-1"]
    assert shown[0]["hidden_steps"] == 1
    agent.turn()
    assert agent.acknowledged == [7]


def test_nobody_keeps_an_agent_that_leaves(agent: AgentBench) -> None:
    assert look(agent, 7)["answer"] == "accepted"
    agent.agent.leave()
    agent.now_ms = INTERVAL_MS
    agent.turn()
    assert agent.told("memory") == []
    assert agent.agent.deadline_ms is None


@pytest.mark.parametrize(
    ("source", "body", "code"),
    [
        ("monitor", {"limpet": 1}, "not_allowed"),
        ("local", {"limpet": 1}, "not_allowed"),
        ("ops", {"limpet": 1, "for": "61s"}, "field_invalid"),
        ("ops", {"limpet": 1, "for": "0s"}, "field_invalid"),
        ("ops", {"limpet": 1, "for": 9}, "field_invalid"),
        ("ops", {"limpet": 1, "four": "9s"}, "field_unknown"),
        ("ops", {"for": "9s"}, "field_missing"),
        ("ops", {"limpet": 2}, "version_unsupported"),
        ("ops", [1], "field_invalid"),
        ("ops", b"no frame", "frame_unknown"),
        ("ops", codec.FRAME_HEADER + b"{", "not_json"),
        ("ops", codec.FRAME_HEADER + b'{"limpet": 1, "limpet": 1}', "duplicate_key"),
        ("ops", codec.FRAME_HEADER + b"[" * 99 + b"]" * 99, "too_deep"),
    ],
)
def test_a_look_that_is_not_allowed_or_not_sound_is_refused(
    agent: AgentBench, source: str, body: Any, code: str
) -> None:
    agent.arrive(1, body, "look", source)
    agent.turn()
    (told,) = agent.told("answer")
    assert (told["answer"], told["code"]) == ("refused", code)
    assert agent.agent.deadline_ms is None


def test_a_full_outbox_drops_pictures_and_nothing_else(site: Site) -> None:
    """They give way to what is never dropped, and take nobody's place."""
    agent = AgentBench(site)
    agent.arrive(1, {"limpet": 1}, "look")
    agent.now_ms = INTERVAL_MS
    agent.agent.tick(agent.now_ms)
    outbox = agent.agent.outbox
    assert [each.kind for each in outbox._publications.values()] == ["answer", "memory"]
    while outbox.put(Publication("result", f"ops/{len(outbox)}", "t", b"")):
        pass
    kinds = [each.kind for each in outbox._publications.values()]
    assert (kinds.count("memory"), kinds.count("answer")) == (0, 1)
    before = len(outbox)
    agent.agent.tick(2 * INTERVAL_MS)
    assert len(outbox) == before
    assert agent.agent.deadline_ms == 3 * INTERVAL_MS, "it goes on when there is room"
