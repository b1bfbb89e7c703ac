"""The outbox: bounded, in order, and only states and pictures of memory are ever dropped."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from limpet.outbox import Outbox, Publication


def publication(kind: str, task: str = "ops/a", body: bytes = b"x") -> Publication:
    return Publication(kind, task, "t", body)


def drain(outbox: Outbox) -> list[bytes]:
    """Send whatever may be sent and return the payloads in their order."""
    sent = []
    while (item := outbox.next()) is not None:
        ticket, waiting = item
        outbox.sent(ticket, ticket)
        sent.append(waiting.payload)
    return sent


def test_publications_go_out_in_the_order_they_came() -> None:
    outbox = Outbox(10, 1_000)
    for number in range(5):
        assert outbox.put(publication("answer", body=b"%d" % number))
    assert drain(outbox) == [b"0", b"1", b"2", b"3", b"4"]


def test_a_newer_state_takes_the_place_of_an_older_unsent_one() -> None:
    outbox = Outbox(10, 1_000)
    outbox.put(publication("state", body=b"old"))
    outbox.put(publication("state", task="ops/b", body=b"other"))
    outbox.put(publication("state", body=b"new"))
    assert drain(outbox) == [b"other", b"new"]


def test_a_result_makes_its_tasks_unsent_state_pointless() -> None:
    outbox = Outbox(10, 1_000)
    outbox.put(publication("state", body=b"state"))
    outbox.put(publication("state", task="ops/b", body=b"other"))
    outbox.put(publication("result", body=b"result"))
    assert drain(outbox) == [b"other", b"result"]


def test_an_answer_and_its_task_s_state_do_not_replace_each_other() -> None:
    outbox = Outbox(10, 1_000)
    for kind in ("answer", "state", "answer"):
        outbox.put(publication(kind, body=kind.encode()))
    assert drain(outbox) == [b"answer", b"state", b"answer"]


def test_when_full_by_count_states_make_room_and_results_stay() -> None:
    outbox = Outbox(2, 1_000)
    assert outbox.put(publication("result", body=b"first"))
    assert outbox.put(publication("state", task="ops/b"))
    assert not outbox.put(publication("state", task="ops/c"))
    assert outbox.put(publication("result", task="ops/d", body=b"second"))
    assert not outbox.put(publication("answer", task="ops/e"))
    assert drain(outbox) == [b"first", b"second"]


def test_of_pictures_the_newest_counts_per_source_and_none_takes_a_place() -> None:
    outbox = Outbox(4, 1_000)
    for source, body in (("a", b"old"), ("b", b"other"), ("a", b"new")):
        assert outbox.put(publication("memory", source, body))
    for number in range(2):
        assert outbox.put(publication("state", f"ops/{number}", b"state"))
    assert not outbox.put(publication("memory", "c"))
    assert outbox.put(publication("memory", "a", b"newer")), "in the place of its own"
    assert outbox.put(publication("result", "ops/d", b"result"))
    assert drain(outbox) == [b"state", b"state", b"newer", b"result"]


def test_when_full_by_bytes_only_as_many_states_go_as_needed() -> None:
    outbox = Outbox(100, 100)
    for name in "abc":
        assert outbox.put(publication("state", task=name, body=name.encode() * 29))
    assert outbox.size_bytes == 90
    assert outbox.put(publication("result", task="d", body=b"d" * 39))
    assert drain(outbox) == [b"b" * 29, b"c" * 29, b"d" * 39]


def test_a_publication_that_can_never_fit_changes_nothing() -> None:
    outbox = Outbox(10, 50)
    outbox.put(publication("state", body=b"kept"))
    assert not outbox.put(publication("result", body=b"x" * 100))
    assert drain(outbox) == [b"kept"]


def test_no_more_is_in_flight_than_allowed() -> None:
    outbox = Outbox(10, 1_000, in_flight_max=2)
    for number in range(3):
        outbox.put(publication("answer", body=b"%d" % number))
    assert drain(outbox) == [b"0", b"1"]
    outbox.acknowledged(0, 1)
    assert drain(outbox) == [b"2"]


def test_what_was_not_acknowledged_is_sent_again_in_its_order() -> None:
    outbox = Outbox(10, 1_000)
    for number in range(4):
        outbox.put(publication("answer", body=b"%d" % number))
    drain(outbox)
    acknowledged = outbox.acknowledged(0, 2)
    assert acknowledged is not None
    assert acknowledged.payload == b"1"
    outbox.connected(1)
    assert drain(outbox) == [b"0", b"2", b"3"]


def test_an_unacknowledged_state_is_not_sent_again_beside_a_newer_one() -> None:
    outbox = Outbox(10, 1_000)
    outbox.put(publication("state", body=b"old"))
    drain(outbox)
    outbox.put(publication("state", body=b"new"))
    outbox.connected(1)
    assert drain(outbox) == [b"new"]


@pytest.mark.parametrize(("epoch", "message_id"), [(0, 1), (1, 99), (2, 1)])
def test_an_acknowledgement_of_another_connection_or_message_means_nothing(
    epoch: int, message_id: int
) -> None:
    outbox = Outbox(10, 1_000)
    outbox.put(publication("result"))
    outbox.connected(1)
    drain(outbox)
    assert outbox.acknowledged(epoch, message_id) is None
    assert len(outbox) == 1


class OutboxMachine(RuleBasedStateMachine):
    """Whatever happens, what must not be dropped is delivered, in order, or was refused."""

    @initialize()
    def start(self) -> None:
        self.outbox = Outbox(6, 60, in_flight_max=3)
        self.epoch = 0
        self.message_id = 0
        self.number = 0
        self.owed: list[bytes] = []
        self.flying: dict[int, bytes] = {}

    @rule(
        kind=st.sampled_from(["answer", "state", "result", "presence"]),
        task=st.sampled_from(["a", "b"]),
        padding=st.integers(0, 25),
    )
    def put(self, kind: str, task: str, padding: int) -> None:
        self.number += 1
        body = b"%s %d %s" % (kind.encode(), self.number, b"." * padding)
        if self.outbox.put(publication(kind, task, body)) and kind in ("answer", "result"):
            self.owed.append(body)

    @rule()
    def send(self) -> None:
        item = self.outbox.next()
        if item is not None:
            self.message_id += 1
            self.outbox.sent(item[0], self.message_id)
            flying = list(self.flying.values())
            assert not flying or int(flying[-1].split()[1]) < int(item[1].payload.split()[1])
            self.flying[self.message_id] = item[1].payload

    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        if self.flying:
            message_id = data.draw(st.sampled_from(sorted(self.flying)))
            body = self.flying.pop(message_id)
            acknowledged = self.outbox.acknowledged(self.epoch, message_id)
            assert acknowledged is not None
            assert acknowledged.payload == body
            if body in self.owed:
                self.owed.remove(body)

    @rule()
    def reconnect(self) -> None:
        self.epoch += 1
        self.outbox.connected(self.epoch)
        self.flying.clear()

    @invariant()
    def bounds_hold_and_nothing_owed_is_lost(self) -> None:
        assert len(self.outbox) <= 6
        assert self.outbox.size_bytes <= 60
        assert len(self.flying) <= 3

    def teardown(self) -> None:
        self.outbox.connected(self.epoch + 1)
        delivered = []
        while (item := self.outbox.next()) is not None:
            self.outbox.sent(item[0], item[0])
            self.outbox.acknowledged(self.epoch + 1, item[0])
            delivered.append(item[1].payload)
        assert [body for body in delivered if body in self.owed] == self.owed
        assert len(self.outbox) == self.outbox.size_bytes == 0


TestOutbox = OutboxMachine.TestCase
