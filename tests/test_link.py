"""The link against a broker made of bytes: what is said, what is noted, and paho's traps."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt import client as paho

from limpet import config
from limpet.backoff import Backoff
from limpet.channel import Channel
from limpet.link import (
    OVERSIZED_MAX,
    READY,
    WAITING,
    Acknowledged,
    Arrived,
    Greeting,
    Link,
    Lost,
    Note,
    Ready,
)
from limpet.native.records import STAGES, Event

FILTERS = ("limpet/kitchen/task/+", "limpet/kitchen/presence")
CONNECT, PUBLISH, PUBACK, SUBSCRIBE, DISCONNECT = 0x10, 0x30, 0x40, 0x82, 0xE0
SUBACK, PUBCOMP = 0x90, 0x70


def packet(head: int, body: bytes) -> bytes:
    length, size = b"", len(body)
    while True:
        size, digit = divmod(size, 128)
        length += bytes([digit | (0x80 if size else 0)])
        if not size:
            return bytes([head]) + length + body


def text(value: str) -> bytes:
    return len(value).to_bytes(2, "big") + value.encode()


class Bench:
    """A link, the other end of its socket pair, and a clock."""

    def __init__(self, protocol: str = "5", keepalive: str = "60s") -> None:
        content = f'[broker]\nprotocol = "{protocol}"\nkeepalive = "{keepalive}"\n'
        self.hung_up: list[int] = []
        self.dialled = 0
        self.now_ms = 1_000
        self.notes: list[Note] = []
        self.broker: socket.socket | None = None
        self.link = Link(
            config.parse("limpet.toml", content, "kitchen").broker,
            FILTERS,
            self._dial,
            self.hung_up.append,
            lambda epoch: Greeting("limpet/kitchen/presence", b"gone %d" % epoch),
            Backoff(1, 10, 100),
        )

    def _dial(self, _target: dict[str, Any]) -> int:
        self.dialled += 1
        return self.dialled

    def stage(self, name: str, fd: int = -1, code: str = "", epoch: int | None = None) -> None:
        token = self.dialled if epoch is None else epoch
        event = Event("link", STAGES.index(name), token, 0, fd, {"code": code, "detail": "said"})
        self.link.heard(event, self.now_ms)
        self.notes += self.link.take()

    def connect(self) -> bytes:
        """Wait out the schedule, bring the transport up, and return what the link says first."""
        assert self.link.deadline_ms is not None
        self.now_ms = max(self.now_ms, self.link.deadline_ms)
        self.link.tick(self.now_ms)
        host, self.broker = socket.socketpair()
        host.setblocking(False)
        self.broker.setblocking(False)
        self.stage("up", host.detach())
        return self.said()

    def said(self) -> bytes:
        assert self.broker is not None
        try:
            return self.broker.recv(1 << 16)
        except BlockingIOError:
            return b""

    def say(self, *packets: bytes) -> None:
        assert self.broker is not None
        self.broker.sendall(b"".join(packets))
        for _ in packets:
            self.link.read(self.now_ms)
        self.link.write(self.now_ms)
        self.notes += self.link.take()

    @property
    def five(self) -> bool:
        return self.link.protocol == "5"

    def connack(self, reason: int = 0) -> bytes:
        return packet(0x20, bytes([0, reason]) + (b"\0" if self.five else b""))

    def suback(self, *reasons: int) -> bytes:
        return packet(SUBACK, b"\0\1" + (b"\0" if self.five else b"") + bytes(reasons))

    def publish(self, number: int, payload: bytes, topic: str = "limpet/kitchen/task/ops") -> bytes:
        head = text(topic) + number.to_bytes(2, "big") + (b"\0" if self.five else b"")
        return packet(PUBLISH | 2, head + payload)

    def ready(self) -> None:
        self.connect()
        self.say(self.connack())
        self.said()
        self.say(self.suback(1, 1))
        self.notes.clear()

    def lost(self) -> Lost:
        (lost,) = [note for note in self.notes if isinstance(note, Lost)]
        return lost


@pytest.fixture(params=["5", "3.1.1"])
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(request.param)


def test_the_greeting_keeps_the_session_and_leaves_a_will(bench: Bench) -> None:
    said = bench.connect()
    assert said[0] == CONNECT
    name = 2 + 6
    version, flags = said[name], said[name + 1]
    assert version == (5 if bench.five else 4)
    assert flags & 0x02 == 0, "clean start"
    assert flags & 0x04, "will"
    assert flags & 0x18 == 0x08, "will of QoS 1"
    assert flags & 0x20, "will retained"
    assert b"limpet-kitchen" in said
    assert b"gone 1" in said


def test_ready_comes_after_the_subscriptions_hold(bench: Bench) -> None:
    bench.connect()
    bench.say(bench.connack())
    assert bench.notes == []
    said = bench.said()
    assert said[0] == SUBSCRIBE
    assert all(one.encode() in said for one in FILTERS)
    assert bench.link.publish("t", b"x", False) is None
    bench.say(bench.suback(1, 1))
    assert bench.notes == [Ready(1)]
    assert bench.link.phase == READY


@pytest.mark.parametrize("reasons", [(1, 0x80), (1,)])
def test_a_refused_subscription_ends_the_connection(bench: Bench, reasons: tuple[int, ...]) -> None:
    """Without it no task would ever come, and nobody would know."""
    bench.connect()
    bench.say(bench.connack())
    bench.say(bench.suback(*reasons))
    assert bench.lost().code == "subscription_refused"
    assert bench.hung_up == [1]


def test_a_subscription_without_answer_ends_the_connection(bench: Bench) -> None:
    bench.connect()
    bench.say(bench.connack())
    assert bench.link.deadline_ms is not None
    bench.link.tick(bench.link.deadline_ms)
    bench.notes += bench.link.take()
    assert bench.lost().code == "subscribe_timeout"


def test_messages_are_noted_and_acknowledged_only_by_us(bench: Bench) -> None:
    bench.ready()
    bench.say(bench.publish(7, b"a"), bench.publish(8, b"b"))
    assert bench.notes == [
        Arrived(1, 7, "limpet/kitchen/task/ops", b"a", False),
        Arrived(1, 8, "limpet/kitchen/task/ops", b"b", False),
    ]
    assert bench.said() == b""
    bench.link.acknowledge(1, 7)
    bench.link.write(bench.now_ms)
    assert bench.said()[:4] == bytes([PUBACK, 2, 0, 7])


def test_an_acknowledgement_never_reaches_another_connection(bench: Bench) -> None:
    """paho would send it: the same number means another message there."""
    bench.ready()
    bench.say(bench.publish(7, b"a"))
    bench.stage("down", code="closed_by_broker")
    bench.ready()
    bench.link.acknowledge(1, 7)
    bench.link.write(bench.now_ms)
    assert bench.said() == b""


def test_a_retained_message_is_marked(bench: Bench) -> None:
    bench.ready()
    message = bytearray(bench.publish(7, b"a"))
    message[0] |= 1
    bench.say(bytes(message))
    assert [note.retained for note in bench.notes if isinstance(note, Arrived)] == [True]


@pytest.mark.parametrize("body", [b"", b"\0", b"\xff\xff", b"\0\1a\0\7\x7f"])
def test_a_packet_that_cannot_be_read_ends_the_connection_by_name(
    bench: Bench, body: bytes
) -> None:
    bench.ready()
    bench.say(packet(0x90, body) if body == b"\0\1a\0\7\x7f" else packet(PUBLISH | 2, body))
    assert bench.lost().code == "packet_malformed"


def test_a_topic_that_is_no_text_is_noted_as_none(bench: Bench) -> None:
    bench.ready()
    bench.say(bench.publish(7, b"a").replace(b"kitchen", b"\xff\xfe\xfditch"))
    assert [note.topic for note in bench.notes if isinstance(note, Arrived)] == [""]


def test_a_callback_that_fails_ends_the_connection_and_is_not_called_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a packet has brought down is not brought again by the next read."""
    calls = []

    def fail(*_: object) -> None:
        calls.append(1)
        raise RuntimeError("boom")

    monkeypatch.setattr(Link, "_on_message", fail)
    bench.ready()
    properties = b"\0" if bench.five else b""
    bench.say(packet(PUBLISH, text("limpet/kitchen/task/ops") + properties + b"a"))
    bench.link.read(bench.now_ms)
    assert len(calls) == 1
    assert bench.lost().code == "bug"


def test_publish_queues_and_the_acknowledgement_is_noted(bench: Bench) -> None:
    """paho writes inside `publish` unless told not to, and may close the connection there."""
    bench.ready()
    number = bench.link.publish("limpet/kitchen/answer/ops", b"{}", False)
    assert number is not None
    assert bench.said() == b""
    assert bench.link.wants_write
    bench.link.write(bench.now_ms)
    assert bench.said()[0] == PUBLISH | 2
    bench.say(packet(PUBACK, number.to_bytes(2, "big")))
    assert bench.notes == [Acknowledged(1, number, None)]


def test_no_more_is_sent_than_the_broker_receives() -> None:
    """paho does not look at the broker's receive maximum; some brokers hang up above it."""
    bench = Bench("5")
    bench.connect()
    bench.say(packet(0x20, b"\0\0\x03\x21\0\2"))
    bench.said()
    bench.say(bench.suback(1, 1))
    numbers = [bench.link.publish("t", b"x", False) for _ in range(4)]
    assert [number is None for number in numbers] == [False, False, True, True]
    assert numbers[0] is not None
    bench.say(packet(PUBACK, numbers[0].to_bytes(2, "big")))
    assert bench.link.publish("t", b"x", False) is not None
    assert bench.link.publish("t", b"x", False) is None


def test_the_uplinks_record_says_why_even_if_the_end_is_read_before_it(bench: Bench) -> None:
    bench.ready()
    assert bench.broker is not None
    bench.broker.close()
    bench.link.read(bench.now_ms)
    bench.notes += bench.link.take()
    assert bench.notes == []
    assert bench.link.publish("t", b"x", False) is None
    bench.stage("down", code="packet_too_large")
    assert bench.lost().code == "packet_too_large"


def test_an_end_without_a_record_is_an_end_all_the_same(bench: Bench) -> None:
    bench.ready()
    assert bench.broker is not None
    bench.broker.close()
    bench.link.read(bench.now_ms)
    assert bench.link.deadline_ms is not None
    bench.link.tick(bench.link.deadline_ms)
    bench.notes += bench.link.take()
    assert bench.lost().code == "closed"


def test_a_refused_publication_says_why() -> None:
    bench = Bench("5")
    bench.ready()
    number = bench.link.publish("t", b"x", False)
    assert number is not None
    bench.link.write(bench.now_ms)
    bench.say(packet(PUBACK, number.to_bytes(2, "big") + b"\x87\0"))
    assert bench.notes == [Acknowledged(1, number, "Not authorized")]


@pytest.mark.parametrize("head", [PUBACK, PUBACK | 0x0F, PUBCOMP])
@pytest.mark.parametrize("reason", [0xCF, 0x86], ids=["nobody's", "another packet's"])
def test_a_refusal_for_no_reason_that_there_is_ends_the_connection(head: int, reason: int) -> None:
    bench = Bench("5")
    bench.ready()
    bench.say(packet(head, bytes([0, 1, reason])))
    assert bench.lost().code == "packet_malformed"


def test_nothing_of_an_old_connection_is_sent_again_by_paho(bench: Bench) -> None:
    """The outbox decides what is sent again; paho keeps messages of its own in memory."""
    bench.ready()
    bench.link.publish("t", b"first", False)
    bench.link.write(bench.now_ms)
    bench.stage("down", code="closed_by_broker")
    bench.ready()
    assert b"first" not in bench.said()


def test_who_leaves_messages_comes_back_soon_each_time(bench: Bench) -> None:
    for _ in range(6):
        bench.ready()
        bench.link.again(bench.now_ms)
        bench.notes += bench.link.take()
        lost = bench.lost()
        assert (lost.code, lost.delay_ms <= 10) == ("messages_left", True)


def test_a_session_that_holds_an_oversized_packet_is_given_up(bench: Bench) -> None:
    """MQTT 3.1.1 has no maximum that a broker respects: it would deliver the same packet forever,
    and nothing that waits behind it."""
    for _ in range(OVERSIZED_MAX):
        said = bench.connect()
        assert said[9] & 0x02 == 0
        bench.say(bench.connack())
        bench.stage("down", code="packet_too_large")
    said = bench.connect()
    assert said[9] & 0x02, "a session begun anew"
    bench.notes.clear()
    bench.say(bench.connack())
    if not bench.five:
        assert bench.lost().code == "session_dropped"
        said = bench.connect()
        assert said[9] & 0x02 == 0, "and this one is kept"
        bench.say(bench.connack())
    bench.said()
    bench.say(bench.suback(1, 1))
    assert isinstance(bench.notes[-1], Ready)
    bench.stage("down", code="closed_by_broker")
    assert bench.connect()[9] & 0x02 == 0


def test_a_refusal_that_came_before_the_end_is_what_is_told(bench: Bench) -> None:
    """The record of the end may be read before the packet that explains it."""
    bench.connect()
    assert bench.broker is not None
    bench.broker.sendall(bench.connack(0x86 if bench.five else 4))
    bench.broker.close()
    bench.stage("down", code="closed_by_broker")
    assert bench.lost().code == "connection_refused"


@pytest.mark.parametrize(
    "end",
    [
        lambda bench: bench.say(bench.connack(0x84)),
        lambda bench: bench.say(packet(0x20, b"\0\1")),
        lambda bench: bench.stage("down", code="closed_by_broker"),
    ],
    ids=["reason 0x84", "answer of an old broker", "hung up"],
)
def test_auto_falls_back_when_the_broker_does_not_speak_5(end: Any) -> None:
    bench = Bench("auto")
    assert bench.link.protocol == "5"
    bench.connect()
    end(bench)
    assert bench.link.protocol == "3.1.1"
    bench.ready()
    assert bench.link.phase == READY
    bench.stage("down", code="closed_by_broker")
    assert bench.link.protocol == "3.1.1", "it had worked"


def test_auto_stays_when_the_refusal_is_another() -> None:
    bench = Bench("auto")
    bench.connect()
    bench.say(bench.connack(0x86))
    assert (bench.link.protocol, bench.lost().code) == ("5", "connection_refused")
    bench.connect()
    bench.notes.clear()
    bench.stage("down", code="connack_timeout")
    assert (bench.link.protocol, bench.lost().code) == ("5", "connack_timeout")


def test_a_silent_broker_is_noticed_by_the_keepalive(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.now_ms = 0
    monkeypatch.setattr(paho, "time_func", lambda: bench.now_ms / 1000)
    bench.ready()
    looks = 0
    while not bench.notes and looks < 100:
        assert bench.link.deadline_ms is not None
        bench.now_ms = bench.link.deadline_ms
        bench.link.tick(bench.now_ms)
        bench.link.write(bench.now_ms)
        bench.notes += bench.link.take()
        looks += 1
    assert bench.lost().code == "keepalive_timeout"
    assert 120_000 <= bench.now_ms <= 200_000
    assert b"\xc0\0" in bench.said()


def test_the_schedule_backs_off_and_nothing_blocks(bench: Bench) -> None:
    delays = []
    for _ in range(8):
        bench.connect()
        bench.notes.clear()
        bench.stage("down", code="connect_refused")
        delays.append(bench.lost().delay_ms)
        assert bench.link.phase == WAITING
    assert delays[0] <= 10
    assert max(delays) <= 100
    assert delays[-1] >= 50


def test_the_end_of_an_unknown_connection_changes_nothing(bench: Bench) -> None:
    bench.ready()
    bench.stage("down", code="closed_by_host", epoch=0)
    assert bench.link.phase == READY
    left, right = os.pipe()
    bench.stage("up", left, epoch=0)
    with pytest.raises(OSError):
        os.fstat(left)
    os.close(right)


def test_a_stop_says_goodbye_and_stays(bench: Bench) -> None:
    bench.ready()
    bench.link.stop()
    assert bench.said()[0] == DISCONNECT
    bench.link.tick(bench.now_ms + 1_000_000)
    assert bench.dialled == 1


@given(st.binary(max_size=60_000), st.lists(st.integers(1, 40_000), min_size=1, max_size=50))
def test_the_buffer_gives_every_byte_once_and_in_order(data: bytes, sizes: list[int]) -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.sendall(data)
    far.close()
    channel = Channel(near.detach())
    received = b""
    for turn in range(len(data) + 2):
        piece = channel.recv(sizes[turn % len(sizes)])
        assert len(piece) <= sizes[turn % len(sizes)]
        received += piece
        if not piece:
            break
    channel.close()
    assert received == data


class Counted:
    """A socket whose reads and writes are counted."""

    def __init__(self, counted: Any) -> None:
        self.reads = self.writes = 0
        self._counted = counted

    def __getattr__(self, name: str) -> Any:
        return getattr(self._counted, name)

    def recv_into(self, buffer: bytearray) -> int:
        self.reads += 1
        return int(self._counted.recv_into(buffer))

    def send(self, data: bytes) -> int:
        self.writes += 1
        return int(self._counted.send(data))


def test_many_small_packets_cost_one_read_and_one_write() -> None:
    bench = Bench("5")
    bench.ready()
    assert bench.broker is not None
    assert bench.link._client is not None
    channel: Any = bench.link._client.channel
    channel._socket = counted = Counted(channel._socket)
    bench.broker.sendall(b"".join(bench.publish(n, b"x" * 40) for n in range(1, 21)))
    bench.link.read(bench.now_ms)
    arrived = [note for note in bench.link.take() if isinstance(note, Arrived)]
    assert [note.number for note in arrived] == list(range(1, 21))
    assert counted.reads <= 2
    for note in arrived:
        bench.link.acknowledge(note.epoch, note.number)
        bench.link.publish("t", b"y" * 40, retain=False)
    bench.link.write(bench.now_ms)
    assert counted.writes == 1
    assert not bench.link.wants_write
