"""The loop: it sleeps when there is nothing to do, serves everyone, and ends in order."""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from limpet import config
from limpet.agent import Agent, Identity
from limpet.backoff import Backoff
from limpet.errors import EXIT_TEMPORARY, CoreError
from limpet.health import Health
from limpet.link import READY, Link
from limpet.log import Log
from limpet.looks import Looks
from limpet.loop import GARBAGE_WORTH_A_COLLECTION, RESTART_PATIENCE_MS, Loop, Signals
from limpet.memory import RESTART_AFTER_MS, Memory
from limpet.native.records import DRAIN, STAGES, Event
from limpet.policy import Site
from manual import policy
from samples import NOW_MS, pictured
from test_link import Bench as Wire

CORE_FD = 901


class Clock:
    """Moves only while the poller waits."""

    def __init__(self) -> None:
        self.now_ms = 0

    def boot_ms(self) -> int:
        return self.now_ms

    def wall_ms(self) -> int:
        return NOW_MS + self.now_ms


class Poller:
    """Says ready what a test says, and lets time pass otherwise."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.watched: dict[int, int] = {}
        self.ready: list[tuple[int, int]] = []
        self.waits: list[int] = []

    def register(self, fd: int, events: int) -> None:
        self.watched[fd] = events

    def unregister(self, fd: int) -> None:
        del self.watched[fd]

    def poll(self, timeout_ms: int) -> list[tuple[int, int]]:
        self.waits.append(timeout_ms)
        if not self.ready:
            assert timeout_ms >= 0, "waits for ever with nothing to wake it"
            self.clock.now_ms += timeout_ms
        ready, self.ready = self.ready, []
        return ready


class Core:
    """Takes everything and tells what a test says."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.items: list[Any] = []

    def event_fd(self) -> int:
        return CORE_FD

    def poll(self) -> list[Event]:
        events, self.events = self.events, []
        return events

    def submit(self, items: list[Any]) -> list[None]:
        self.items += items
        return [None] * len(items)


class Bench:
    """A loop with a real link and agent between a made-up core, clock and poller."""

    def __init__(self, site: Site, environment: dict[str, str], reboot: tuple[str, ...]) -> None:
        self.clock, self.core = Clock(), Core()
        self.poller = Poller(self.clock)
        self.lines: list[bytes] = []
        log = Log(self.lines.append, self.clock.wall_ms)
        identity = Identity("limpet", "kitchen", {})
        rules = policy(site)
        looks = Looks(rules, pictured)
        self.agent = Agent(identity, rules, lambda *_: (0, b""), lambda: "n", looks, log)
        self.wire = Wire("5")
        self.wire.link = self.link = Link(
            config.parse("limpet.toml", "", "kitchen").broker,
            ("limpet/kitchen/task/+", "limpet/kitchen/presence"),
            self.wire._dial,
            self.wire.hung_up.append,
            self.agent.greet,
            Backoff(1, 1_000, 120_000),
        )
        self.signals = Signals()
        self.held_bytes = 0
        self.memory = Memory(100 << 20, self.clock.boot_ms(), lambda: self.held_bytes, lambda: None)
        self.loop = Loop(
            self.core,  # type: ignore[arg-type]
            self.link,
            self.agent,
            Health(environment),
            self.memory,
            None,
            self.signals,
            self.clock,
            log,
            2_000,
            reboot,
            self.poller,
        )

    def connect(self) -> None:
        self.wire.connect()
        self.wire.say(self.wire.connack())
        self.wire.said()
        self.wire.broker.sendall(self.wire.suback(1, 1))  # type: ignore[union-attr]
        self.ready_to_read()
        assert self.link.phase == READY

    def ready_to_read(self) -> None:
        fd = self.link.fileno()
        assert fd is not None
        self.poller.ready = [(fd, select.POLLIN)]
        self.loop.turn()

    def core_says(self, *events: Event) -> None:
        self.core.events += events
        self.poller.ready = [(CORE_FD, select.POLLIN)]
        self.loop.turn()


@pytest.fixture
def bench(site: Site) -> Any:
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    bench = Bench(site, {}, ("/bin/false",))
    yield bench
    signal.set_wakeup_fd(-1)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_an_idle_agent_sleeps(bench: Bench) -> None:
    """Connected and with nothing to do: a look at the keepalive every 15 s, and nothing else."""
    bench.connect()
    gc.collect()
    bench.poller.waits.clear()
    while bench.clock.now_ms < 60_000:
        bench.loop.turn()
    assert len([wait for wait in bench.poller.waits if wait > 0]) <= 60_000 // 15_000 + 2
    assert len(bench.poller.waits) <= 10


def test_a_watchdog_is_fed_at_half_its_time(site: Site, tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(path)
        health = Health({"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "10000000"})
        health.ready("fine")
        for now_ms in range(0, 20_001, 1_000):
            health.tick(now_ms)
        supervisor.setblocking(False)
        told = [supervisor.recv(200) for _ in range(6)]
        with pytest.raises(BlockingIOError):
            supervisor.recv(200)
    assert told == [b"READY=1\nSTATUS=fine", *[b"WATCHDOG=1"] * 5]


def test_a_supervisor_is_asked_for_the_time_that_a_drain_may_take(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(path)
        Health({"NOTIFY_SOCKET": path}).stopping(3_600_000)
        told = dict(line.split(b"=") for line in supervisor.recv(200).splitlines())
    assert told[b"STOPPING"] == b"1"
    assert int(told[b"EXTEND_TIMEOUT_USEC"]) > 3_600_000_000


def test_garbage_is_collected_only_when_there_is_nothing_to_do(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.connect()
    collected: list[str] = []
    monkeypatch.setattr(gc, "collect", lambda *_: collected.append("now"))
    monkeypatch.setattr(gc, "get_count", lambda: (GARBAGE_WORTH_A_COLLECTION, 0, 0))
    for _ in range(3):
        bench.core_says()
    assert collected == []
    bench.loop.turn()
    assert collected == ["now"]


def test_why_a_connection_ended_is_heard_before_its_end_is_read(bench: Bench) -> None:
    bench.connect()
    bench.wire.broker.close()  # type: ignore[union-attr]
    down = {"code": "packet_too_large", "detail": "said"}
    bench.core.events.append(Event("link", STAGES.index("down"), 1, 0, -1, down))
    fd = bench.link.fileno()
    assert fd is not None
    bench.poller.ready = [(fd, select.POLLIN), (CORE_FD, select.POLLIN)]
    bench.loop.turn()
    lost = [line for line in bench.lines if b"link.lost" in line]
    assert len(lost) == 1
    assert b"code=packet_too_large" in lost[0]
    bench.loop.turn()
    assert fd not in bench.poller.watched


def test_a_signal_drains_says_goodbye_and_ends(bench: Bench) -> None:
    bench.connect()
    os.kill(os.getpid(), signal.SIGTERM)
    bench.poller.ready = [(bench.signals.fileno(), select.POLLIN)]
    bench.loop.turn()
    assert [(item.op, item.value) for item in bench.core.items] == [(DRAIN, 2_000)]
    bench.core_says(Event("drained", 0, 0, 0, -1, {}))
    assert b'"online":false' in bench.wire.said()
    # Nobody acknowledges the goodbye: it is not waited for without end.
    for _ in range(100):
        if bench.loop._finished:
            break
        bench.loop.turn()
    assert bench.loop._finished
    assert bench.clock.now_ms < 30_000
    assert bench.link.phase == "stopped"


def test_a_second_signal_ends_at_once(bench: Bench) -> None:
    bench.connect()
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
        bench.poller.ready = [(bench.signals.fileno(), select.POLLIN)]
        bench.loop.turn()
    assert bench.loop._finished


def test_an_agent_near_its_budget_refuses_tasks_until_there_is_room(bench: Bench) -> None:
    bench.connect()
    bench.held_bytes = 85 << 20
    bench.clock.now_ms += 1_000
    bench.loop.turn()
    refusals = [bench.agent.full]
    bench.held_bytes = 10 << 20
    # It wakes by itself to find that there is room again.
    for _ in range(3):
        bench.loop.turn()
    refusals.append(bench.agent.full)
    assert refusals == ["the agent has 85MiB of the 100MiB it may have", None]
    assert [line for line in bench.lines if b"memory.full" in line]
    assert not bench.core.items


def test_an_agent_beyond_its_budget_drains_with_patience_and_starts_anew(bench: Bench) -> None:
    bench.connect()
    bench.clock.now_ms += RESTART_AFTER_MS
    bench.held_bytes = 101 << 20
    for _ in range(5):
        assert not bench.loop.restart
        bench.clock.now_ms += 1_000
        bench.loop.turn()
    assert bench.loop.restart
    assert [(item.op, item.value) for item in bench.core.items] == [(DRAIN, RESTART_PATIENCE_MS)]
    bench.core_says(Event("drained", 0, 0, 0, -1, {}))
    assert b'"online":false' in bench.wire.said()
    for _ in range(100):
        bench.loop.turn()
    assert (bench.loop._finished, bench.loop.restart) == (True, True)


def test_a_signal_during_a_restart_ends_for_good(bench: Bench) -> None:
    bench.connect()
    bench.loop.restart = bench.loop._draining = True
    os.kill(os.getpid(), signal.SIGTERM)
    bench.poller.ready = [(bench.signals.fileno(), select.POLLIN)]
    bench.loop.turn()
    assert (bench.loop._finished, bench.loop.restart) == (True, False)


def test_what_cannot_restart_the_machine_fails_its_step(bench: Bench) -> None:
    bench.loop._reboot = ("/nonexistent/reboot",)
    bench.core_says(Event("work", 0, 0, 5, -1, {"reboot": {}}))
    assert [(item.target, item.value) for item in bench.core.items] == [(5, 1)]


def test_a_busy_core_is_tried_again_soon_and_not_without_pause(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = CoreError("busy")
    error.exit_code = EXIT_TEMPORARY
    monkeypatch.setattr(bench.core, "submit", lambda items: [error] * len(items))
    bench.agent.reboot_failed(5, "x")
    bench.loop.turn()
    start_ms = bench.clock.now_ms
    bench.poller.waits.clear()
    for _ in range(10):
        bench.loop.turn()
    assert bench.clock.now_ms - start_ms >= 90
