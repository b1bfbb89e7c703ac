"""The coordinator's promises to the clients of the device's own socket."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from coordinator import NUMBER_OF, Bench, cancel, changed, event
from limpet import codec
from limpet.native.records import DELIVERED, Item
from limpet.policy import Site
from manual import document
from samples import NOW_MS, history, step


@pytest.fixture
def bench(site: Site) -> Bench:
    return Bench(site).announced()


def ask(bench: Bench, client: int, body: Any, request: str = "task") -> None:
    bench.agent.asked(client, 1000, request, codec.frame(codec.encode(body)), NOW_MS)


def said(bench: Bench) -> list[tuple[int | None, dict[str, Any], bool]]:
    told, bench.agent.told = bench.agent.told, []
    return [(one.client, orjson.loads(one.payload), one.last) for one in told]


def test_a_local_task_lives_and_frees_its_place_without_a_broker(site: Site) -> None:
    bench = Bench(site)
    ask(bench, 3, document("t-1"))
    bench.turn()
    assert said(bench) == [], "nothing is promised before it is durable"
    (submission,) = bench.asked
    assert orjson.loads(submission.text)["source"] == "local"
    bench.say("accepted", submission.token, target=9)
    ((client, answer, last),) = said(bench)
    assert (client, answer["answer"], answer["source"], last) == (3, "accepted", "local", False)
    assert bench.agent.tasks[9]["state"] is None, "it lives, and has told no state yet"
    state = changed(9, "running", 2)
    bench.agent.heard(state._replace(text={**state.text, "id": "t-1", "source": "local"}))
    result = {**history([step("a")]), "id": "t-1", "source": "local"}
    bench.agent.heard(event("result", target=9, **result))
    bench.turn()
    assert [(told["kind"], last) for _, told, last in said(bench)] == [
        ("state", False),
        ("result", True),
    ]
    assert bench.asked[1:] == [Item(DELIVERED, target=9)]
    assert bench.published == []
    assert bench.agent.tasks == {}


def test_a_task_that_ended_meanwhile_is_known_with_its_outcome(site: Site) -> None:
    """The core may say that it lives when its result was told and the delivery is on its way."""
    bench = Bench(site)
    ask(bench, 1, document("t-1"))
    bench.turn()
    result = {**history([step("a")]), "id": "t-1", "source": "local", "outcome": "failed"}
    bench.agent.heard(event("result", target=9, **result))
    said(bench)
    bench.agent.heard(event("answer", NUMBER_OF["alive"], bench.asked[0].token, 9))
    ((_, answer, last),) = said(bench)
    assert (answer["answer"], answer["outcome"], last) == ("known", "failed", True)


def test_a_local_refusal_and_a_cancel_are_the_last_word(site: Site) -> None:
    bench = Bench(site)
    ask(bench, 1, {"limpet": 1})
    ask(bench, 2, cancel(), "cancel")
    ask(bench, 3, cancel(source="ops"), "cancel")
    bench.turn()
    bench.say("cancelling", bench.asked[0].token)
    refused, foreign, cancelled = said(bench)
    assert (refused[0], refused[1]["answer"], refused[2]) == (1, "refused", True)
    assert (foreign[0], foreign[1]["code"], foreign[2]) == (3, "not_owner", True)
    assert (cancelled[0], cancelled[1]["answer"], cancelled[2]) == (2, "accepted", True)


def test_nobody_is_local_by_the_broker(bench: Bench) -> None:
    bench.arrive(1, document("t-1"), source="local")
    bench.arrive(2, cancel(), "cancel", "local")
    bench.turn()
    assert bench.asked == []
    assert [body["code"] for body in bench.told("answer")] == ["not_allowed", "not_allowed"]


def test_local_requests_and_acknowledgements_do_not_wait_for_each_other(bench: Bench) -> None:
    ask(bench, 1, document("t-1"))
    bench.arrive(7, document("t-2"))
    ask(bench, 2, document("t-3"))
    bench.turn()
    first, second, third = bench.asked
    bench.say("accepted", third.token)
    assert [client for client, _, _ in said(bench)] == [2]
    bench.say("accepted", second.token)
    bench.turn()
    bench.puback(bench.number)
    bench.turn()
    assert bench.acknowledged == [7]
    bench.say("accepted", first.token)
    assert [client for client, _, _ in said(bench)] == [1]


def test_who_watches_hears_what_the_broker_hears(bench: Bench) -> None:
    bench.agent.heard(changed(1, "running", 2))
    bench.agent.heard(event("result", target=1, **history([step("a")])))
    bench.turn()
    assert [told["kind"] for _, told, _ in said(bench)] == ["state", "result"]
    assert len(bench.told("result")) == 1
    assert bench.asked == [], "the broker has it before its place is free"
