"""The coordinator's promises: who is answered, what is acknowledged when, what is never dropped."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator import Bench, cancel, changed, event
from limpet import codec
from limpet.agent import ARRIVALS_MAX, PRESENCE_INTERVAL_MS
from limpet.errors import EXIT_TEMPORARY, CoreError, TaskError
from limpet.link import Arrived, Lost, Ready
from limpet.native.records import (
    ANY_SOURCE,
    CANCEL,
    DELIVERED,
    EXTEND,
    HOST_DONE,
    SUBMIT,
    Event,
    Item,
)
from limpet.policy import Site
from manual import document
from samples import history, step


@pytest.fixture
def bench(site: Site) -> Bench:
    return Bench(site).announced()


def test_a_message_is_acknowledged_after_its_answer_reached_the_broker(bench: Bench) -> None:
    bench.arrive(7, document("t-1"))
    bench.turn()
    (submission,) = bench.asked
    assert submission.op == SUBMIT
    assert orjson.loads(submission.text)["id"] == "t-1"
    assert bench.published == []
    bench.say("accepted", submission.token)
    bench.turn()
    assert [body["answer"] for body in bench.told("answer")] == ["accepted"]
    assert bench.acknowledged == []
    bench.puback(bench.number)
    bench.turn()
    assert bench.acknowledged == [7]


def test_who_wants_the_result_alone_hears_of_a_task_that_is_accepted_by_it(bench: Bench) -> None:
    bench.arrive(7, document("t-1"))
    bench.arrive(8, {**document("t-2"), "report": "result"})
    bench.arrive(9, {**document("t-3"), "report": "result"})
    bench.turn()
    loud, quiet, refused = (item.token for item in bench.asked)
    bench.say("accepted", quiet)
    bench.say("refused", refused, code="busy_tasks")
    bench.turn()
    assert [body["id"] for body in bench.told("answer")] == ["t-3"]
    assert bench.acknowledged == [], "an earlier message is not answered yet"
    bench.say("accepted", loud)
    bench.turn()
    for number in (bench.number - 1, bench.number):
        bench.puback(number)
    bench.turn()
    assert [body["id"] for body in bench.told("answer")] == ["t-3", "t-1"]
    assert bench.acknowledged == [7, 8, 9]


@pytest.mark.parametrize(
    ("verdict", "text", "answer"),
    [
        ("alive", {}, {"answer": "known"}),
        ("ended", {"outcome": "failed"}, {"answer": "known", "outcome": "failed"}),
        ("refused", {"code": "expired"}, {"answer": "refused", "code": "expired"}),
    ],
)
def test_each_verdict_has_its_answer(
    bench: Bench, verdict: str, text: dict[str, Any], answer: dict[str, Any]
) -> None:
    bench.arrive(1, document("t-1"))
    bench.turn()
    bench.say(verdict, bench.asked[0].token, **text)
    bench.turn()
    (told,) = bench.told("answer")
    assert answer.items() <= told.items()
    assert told["id"] == "t-1"


@pytest.mark.parametrize(
    ("body", "code", "task_id"),
    [
        (b"no frame", "frame_unknown", None),
        (codec.frame(b"{"), "not_json", None),
        ({"limpet": 1, "id": "x"}, "field_missing", "x"),
        ({"limpet": 1, "id": "a b"}, "field_invalid", None),
    ],
)
def test_what_cannot_be_read_is_refused_with_as_much_as_was_read(
    bench: Bench, body: Any, code: str, task_id: str | None
) -> None:
    bench.arrive(3, body)
    bench.turn()
    (told,) = bench.told("answer")
    assert (told["answer"], told["code"], told["id"]) == ("refused", code, task_id)
    assert bench.asked == []
    bench.puback(bench.number)
    bench.turn()
    assert bench.acknowledged == [3]


@given(st.data())
def test_acknowledgements_keep_the_order_of_arrival(data: st.DataObject) -> None:
    """Whatever order the core answers in and the broker takes the answers in."""
    bench = Bench(Site("kitchen", "/t", 1 << 28, True, ["w"], ["n"]))
    bench.ready()
    count = data.draw(st.integers(1, 12))
    for number in range(1, count + 1):
        refused = data.draw(st.booleans())
        bench.arrive(number, {"limpet": 1} if refused else document(f"t-{number}"))
    bench.turn()
    waiting = [item.token for item in bench.asked]
    open_numbers: list[int] = []
    sent = 0
    while waiting or open_numbers or sent < bench.number:
        open_numbers += range(sent + 1, bench.number + 1)
        sent = bench.number
        choices = ["answer"] * bool(waiting) + ["puback"] * bool(open_numbers)
        if data.draw(st.sampled_from(choices)) == "answer":
            token = waiting.pop(data.draw(st.integers(0, len(waiting) - 1)))
            bench.say("accepted", token)
        else:
            bench.puback(open_numbers.pop(data.draw(st.integers(0, len(open_numbers) - 1))))
        bench.turn()
    assert bench.acknowledged == list(range(1, count + 1))


def test_a_lost_connection_voids_acknowledgements_and_keeps_answers(bench: Bench) -> None:
    bench.arrive(7, document("t-1"))
    bench.turn()
    bench.note(Lost(1, "closed", "", 10))
    bench.say("accepted", bench.asked[0].token)
    bench.ready()
    bench.turn()
    assert [body["id"] for body in bench.told("answer")] == ["t-1"]
    for number in range(2, bench.number + 1):
        bench.puback(number)
    bench.turn()
    assert bench.acknowledged == []


def test_a_busy_core_is_asked_again_in_the_same_order(bench: Bench) -> None:
    bench.busy = True
    for number in range(1, 5):
        bench.arrive(number, document(f"t-{number}"))
    bench.turn()
    assert bench.asked == []
    bench.busy = False
    bench.turn()
    assert [orjson.loads(item.text)["id"] for item in bench.asked] == ["t-1", "t-2", "t-3", "t-4"]


def test_a_full_agent_refuses_tasks_and_still_cancels(bench: Bench) -> None:
    bench.agent.full = "the agent has too much"
    bench.arrive(3, document("t-1"))
    bench.arrive(4, {"limpet": 1, "id": "t-0"}, kind="cancel")
    bench.turn()
    (told,) = bench.told("answer")
    assert (told["id"], told["code"]) == ("t-1", "busy_memory")
    assert told["detail"] == "the agent has too much"
    assert [item.op for item in bench.asked] == [CANCEL]
    # It is no answer for ever: the same task is taken when there is room.
    bench.agent.full = None
    bench.arrive(5, document("t-1"))
    bench.turn()
    assert [item.op for item in bench.asked] == [CANCEL, SUBMIT]


def test_what_waits_for_a_busy_core_is_bounded(bench: Bench) -> None:
    """Full is an answer; and beyond the line of arrivals a message is left to come again."""
    bench.busy = True
    big = document("t-1")
    big["steps"][0]["input"]["environment"] = {"A": "x" * 60_000}
    for number in range(1, 30):
        bench.arrive(number, big)
    bench.turn()
    codes = [body["code"] for body in bench.told("answer")]
    assert codes
    assert set(codes) == {"busy_memory"}
    before = bench.agent.outbox.size_bytes
    for number in range(30, ARRIVALS_MAX + 50):
        bench.arrive(number, document("t-2"))
    bench.turn()
    assert bench.agent.outbox.size_bytes - before < 1 << 20


def test_what_was_left_is_fetched_once_all_else_is_served(bench: Bench) -> None:
    for number in range(1, ARRIVALS_MAX + 3):
        bench.arrive(number, b"nonsense")
    served = 0
    while served < bench.number or bench.agent.outbox.next():
        assert not bench.agent.must_reconnect
        bench.turn()
        for number in range(served + 1, bench.number + 1):
            bench.puback(number)
        served = bench.number
    bench.turn()
    assert len(bench.acknowledged) == ARRIVALS_MAX
    assert bench.agent.must_reconnect
    bench.note(Lost(1, "messages_left", "", 0))
    assert not bench.agent.must_reconnect


def test_a_refusal_of_the_core_is_told_with_its_detail(bench: Bench) -> None:
    bench.arrive(1, document("t-1"))
    items = bench.agent.items()
    bench.agent.submitted(items, [TaskError("not_allowed", "policy.toml:1 would allow it")])
    bench.turn()
    (told,) = bench.told("answer")
    assert (told["code"], told["detail"]) == ("not_allowed", "policy.toml:1 would allow it")


def test_a_result_is_delivered_when_the_broker_has_it(bench: Bench) -> None:
    bench.agent.heard(event("result", target=9, **history([step("a")])))
    bench.turn()
    assert bench.asked == []
    bench.puback(bench.number)
    bench.turn()
    assert bench.asked == [Item(DELIVERED, target=9)]


def test_a_refused_result_waits_for_the_next_connection(bench: Bench) -> None:
    bench.agent.heard(event("result", target=9, **history([step("a")])))
    bench.turn()
    bench.puback(bench.number, "Not authorized")
    bench.turn()
    assert bench.asked == []
    bench.ready()
    bench.turn()
    assert len(bench.told("result")) == 2


def test_results_are_never_dropped_when_the_outbox_is_full(site: Site) -> None:
    bench = Bench(site)
    large = history([step("a", "x" * 120_000)])
    for target in range(30):
        bench.agent.heard(event("result", target=target, **{**large, "id": f"t-{target}"}))
    bench.ready()
    while len(bench.told("result")) < 30:
        before = bench.number
        bench.turn()
        assert bench.number > before
        for number in range(before + 1, bench.number + 1):
            bench.puback(number)
    assert [body["id"] for body in bench.told("result")] == [f"t-{n}" for n in range(30)]


def test_a_task_that_reports_its_result_alone_is_known_without_a_state(site: Site) -> None:
    bench = Bench(site)
    bench.agent.heard(changed(1, "running", 1, report="result"))
    bench.turn()
    assert (bench.agent.tasks[1]["state"], bench.told("state")) == (None, [])


def test_states_coalesce_and_the_last_word_is_the_result(site: Site) -> None:
    bench = Bench(site)
    for sequence, state in enumerate(["queued", "starting", "running", "closing", "reporting"]):
        bench.agent.heard(changed(1, state, sequence))
    assert [body["state"] for body in bench.agent.tasks.values()] == ["reporting"]
    bench.ready()
    bench.turn()
    (told,) = bench.told("state")
    assert (told["phase"], told["sequence"], told["attempt"]) == ("running", 2, None)


def work(topic: str, target: int = 5) -> Event:
    asked = {"topic": topic, "payload": "on", "retain": False}
    return event("work", target=target, publish=asked)


def test_publish_is_done_when_the_broker_has_it_and_stays_below_our_prefix(bench: Bench) -> None:
    bench.agent.heard(work("lamp/1"))
    bench.turn()
    assert bench.published[-1].topic == "limpet/kitchen/publish/lamp/1"
    assert bench.asked == []
    bench.puback(bench.number)
    bench.turn()
    assert bench.asked == [Item(HOST_DONE, target=5, value=0)]
    bench.agent.heard(work("../../other/task/ops", 6))
    bench.turn()
    assert (bench.asked[-1].target, bench.asked[-1].value) == (6, 1)
    assert b"outside the grammar" in bench.asked[-1].text


def test_a_publication_that_the_broker_refuses_fails_its_step(bench: Bench) -> None:
    bench.agent.heard(work("lamp/1"))
    bench.turn()
    bench.puback(bench.number, "Not authorized")
    bench.turn()
    assert bench.asked == [Item(HOST_DONE, target=5, value=1, text=b"Not authorized")]


def test_a_reboot_is_handed_to_the_loop(bench: Bench) -> None:
    bench.agent.heard(event("work", target=5, reboot={}))
    assert bench.agent.reboots == [5]
    bench.agent.reboot_failed(5, "no such program")
    bench.turn()
    assert bench.asked == [Item(HOST_DONE, target=5, value=1, text=b"no such program")]


def test_a_cancel_reaches_the_core_with_who_may_what(bench: Bench) -> None:
    bench.arrive(1, cancel(), "cancel")
    bench.arrive(2, cancel(source="ops"), "cancel", "admin")
    bench.turn()
    own, foreign = bench.asked
    assert (own.op, own.flags) == (CANCEL, 0)
    assert orjson.loads(own.text) == {"id": "t-1", "source": "ops", "by": "ops"}
    assert (foreign.flags, orjson.loads(foreign.text)["by"]) == (ANY_SOURCE, "admin")
    bench.say("remembered", own.token)
    bench.turn()
    (told,) = bench.told("answer")
    assert (told["request"], told["answer"]) == ("cancel", "accepted")


def test_only_an_operator_cancels_for_others(bench: Bench) -> None:
    bench.arrive(1, cancel(source="ops"), "cancel", "monitor")
    bench.turn()
    assert bench.asked == []
    assert [body["code"] for body in bench.told("answer")] == ["not_owner"]


def continuation(plan: Any, step_input: Any, **more: Any) -> Event:
    text = {"plan": plan, "extensions": [], "step": 0, "next": step_input, **more}
    return event("continue", target=4, **text)


def planning(bench: Bench) -> Any:
    """Submit a task that may grow by two steps, and return its plan."""
    bench.arrive(1, document("t-1", plan={"steps": 2, "tools": ["exec"]}))
    bench.turn()
    return orjson.loads(bench.asked.pop().text)


def test_the_steps_that_a_result_asks_for_are_compiled_into_its_task(bench: Bench) -> None:
    plan = planning(bench)
    added = {"name": "b", "tool": "exec", "input": {"argv": ["/bin/echo", "${steps.a.stdout}"]}}
    bench.agent.heard(continuation(plan, [added]))
    bench.turn()
    (item,) = bench.asked
    asked = orjson.loads(item.text)
    assert (item.op, item.target) == (EXTEND, 4)
    assert [one["name"] for one in asked["next"]["steps"]] == ["b"]
    assert asked["next"]["ceilings"]["steps"] == 1
    bench.asked.clear()
    again = {"name": "c", "tool": "exec", "input": {"argv": ["${steps.b.stdout}"]}}
    bench.agent.heard(continuation(plan, [again], extensions=[asked["next"]]))
    bench.turn()
    assert orjson.loads(bench.asked[0].text)["next"]["ceilings"]["steps"] == 0


def test_steps_that_are_refused_let_the_task_go_on_without(bench: Bench) -> None:
    """Whoever refuses them: the compiler, the core's policy, or its tables. It never loops."""
    plan = planning(bench)
    bench.agent.heard(continuation(plan, [{"name": "b", "tool": "reboot"}]))
    bench.turn()
    assert orjson.loads(bench.asked.pop().text)["next"] is None
    good = {"name": "b", "tool": "exec", "input": {"argv": ["/bin/true"]}}
    bench.agent.heard(continuation(plan, [good]))
    items = bench.agent.items()
    bench.agent.submitted(items, [TaskError("not_allowed", "x")])
    bench.turn()
    assert orjson.loads(bench.asked[-1].text)["next"] is None
    bench.agent.heard(continuation(plan, [good]))
    bench.turn()
    bench.say("refused", bench.asked[-1].token, code="busy_steps")
    bench.turn()
    last = bench.asked[-1]
    assert orjson.loads(last.text)["next"] is None
    bench.say("refused", last.token, code="not_waiting")
    bench.turn()
    assert bench.asked[-1] == last


def presence(nonce: str) -> bytes:
    return codec.encode({"limpet": 1, "kind": "presence", "online": False, "nonce": nonce})


def test_the_birth_and_the_will_of_a_connection_share_a_nonce(site: Site) -> None:
    bench = Bench(site)
    will = bench.agent.greet(1)
    bench.note(Ready(1))
    bench.turn()
    (birth,) = bench.told("presence")
    assert (birth["online"], birth["facts"]) == (True, {"version": "1"})
    gone = orjson.loads(will.payload)
    assert (gone["online"], gone["nonce"]) == (False, birth["nonce"])
    assert will.topic == bench.published[0].topic
    assert bench.published[0].retain
    assert orjson.loads(bench.agent.greet(2).payload)["nonce"] != birth["nonce"]


def test_a_foreign_presence_is_answered_and_not_for_ever(bench: Bench) -> None:
    """A late will is overwritten; two devices of one name do not drown the broker."""
    topic = "limpet/kitchen/presence"
    own = orjson.loads(bench.agent.greet(1).payload)["nonce"]
    for nonce, retained, count in [(own, False, 0), ("old", True, 0), ("old", False, 1)]:
        bench.now_ms += PRESENCE_INTERVAL_MS
        bench.note(Arrived(1, 3, topic, presence(nonce), retained))
        bench.turn()
        assert len(bench.told("presence")) == count, nonce
    for _ in range(100):
        bench.now_ms += PRESENCE_INTERVAL_MS // 100
        bench.note(Arrived(1, 3, topic, presence("other"), False))
        bench.turn()
    assert len(bench.told("presence")) <= 3


def test_retained_tasks_and_foreign_topics_are_acknowledged_and_ignored(bench: Bench) -> None:
    message = codec.frame(codec.encode(document("t-1")))
    bench.note(Arrived(1, 1, "limpet/kitchen/task/ops", message, True))
    bench.note(Arrived(1, 2, "elsewhere", b"", False))
    bench.note(Arrived(1, 3, "limpet/pantry/task/ops", message, False))
    bench.note(Arrived(1, 4, "limpet/pantry/presence", presence("other"), False))
    bench.turn()
    assert (bench.asked, bench.published, bench.acknowledged) == ([], [], [1, 2, 3, 4])


def test_a_journal_that_cannot_be_written_ends_the_agent(bench: Bench) -> None:
    with pytest.raises(CoreError) as failed:
        bench.agent.heard(event("trouble", detail="EIO"))
    assert failed.value.exit_code == EXIT_TEMPORARY
