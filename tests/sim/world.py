"""Everything around the agent, made up from one seed: time, processes, controllers, faults.

The agent is the real one: its Python half with paho, the real machine and journal. Time passes only
while it waits. What must hold is judged in `oracle`, which sees only what the world sees.
"""

from __future__ import annotations

import hashlib
import heapq
import random
import select
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import broker
from oracle import Oracle
from plan import Plan, draw

from limpet import config, topics
from limpet.agent import Agent, Identity
from limpet.backoff import Backoff
from limpet.health import Health
from limpet.link import Link
from limpet.log import Log
from limpet.looks import Looks
from limpet.loop import Loop
from limpet.memory import Memory
from limpet.native.core import frame
from limpet.native.journal import decisions
from limpet.native.records import RECORD, STAGES, Event, Item
from limpet.policy import Site
from manual import ManualCore, policy, settings
from samples import NOW_MS

DEVICE = "kitchen"
# Instants after boot, in ms: when the world begins, how long it is unkind, and how long what was
# accepted may take after that.
BEGIN_MS, UNKIND_MS, PATIENCE_MS = 60_000, 600_000, 3_600_000
END_MS = BEGIN_MS + UNKIND_MS + PATIENCE_MS
TASKS = 12
RESEND_MS = 20_000
FAULT_MS = (1_000, 60_000)
KILL_AT_CROSSING = 0.5


class Killed(Exception):
    """The agent is gone, in the middle of whatever it did."""


class Core(ManualCore):
    """The real core; its uplink is the world's, and a kill may come at any crossing."""

    __slots__ = ("_world", "said")

    def __init__(self, world: World, settings: dict[str, Any]) -> None:
        """Open at the world's instant."""
        self._world = world
        # What the uplink has to tell.
        self.said: list[Event] = []
        super().__init__(settings, world.now_ms * 1_000_000, world.chance.getrandbits(63))

    def submit(self, items: Any) -> Any:
        """Hand over, but perhaps die before or after."""
        self._world.perhaps_die()
        answers = super().submit(items)
        self._world.core_moved()
        self._world.perhaps_die()
        return answers

    def poll(self) -> list[Event]:
        """Tell what the core tells, and perhaps die with it."""
        events = super().poll()
        self._world.perhaps_die()
        said, self.said = self.said, []
        return said + events


class Clock:
    """The world's time as the agent asks for it."""

    def __init__(self, world: World) -> None:
        self.world = world

    def boot_ms(self) -> int:
        return self.world.now_ms

    def wall_ms(self) -> int:
        return NOW_MS + self.world.now_ms


class World:
    """One history. It is its own poller: waiting is what makes time pass."""

    def __init__(self, seed: int, directory: Path, site: Site) -> None:
        self.chance = random.Random(seed)
        self.now_ms = BEGIN_MS
        self.oracle = Oracle()
        self.trace = hashlib.sha256()
        self.lines: list[bytes] = []
        self._directory = directory
        self._policy = policy(site)
        self._later: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._crossings_left: int | None = None
        self._poller = select.poll()
        self._alive = False
        self.lives = 0
        self.faults = 0
        self._dialled = 0
        self._signalled = False
        self._boot = 0
        self._protocol = self.chance.choice(["5", "3.1.1"])
        self.broker = broker.Broker(self.chance, self.later, self._routed)
        self.plans = [draw(self.chance, number) for number in range(TASKS)]
        for plan in self.plans:
            self.oracle.plan(plan)
            self.later(self.chance.randint(0, UNKIND_MS), partial(self._send, plan))
        self.later(self.chance.randint(*FAULT_MS), self._fault)
        (directory / "boot_id").write_text("boot 0")

    def run(self) -> None:
        """Live through it all, then ask the oracle."""
        while self.now_ms < END_MS and not (self._kind() and self._quiet()):
            self._start()
            try:
                while not self.loop._finished and self.now_ms < END_MS:
                    self.loop.turn()
                    if self._kind() and self._quiet():
                        break
                else:
                    self.note("ended")
            except Killed:
                self.note("killed")
                self.oracle.killed()
            left = self._left()
            self._replay()
            self._end()
        self.oracle.judge(self.plans, left)

    # --- the agent's life -----------------------------------------------------------------------

    def _start(self) -> None:
        self.lives += 1
        site_settings = settings(self._directory, self._policy.table) | {"clock": "always"}
        self.core = Core(self, site_settings)
        self._alive, self._signalled = True, False
        log = Log(self._logged, lambda: NOW_MS + self.now_ms)
        identity = Identity("limpet", DEVICE, {})
        nonce = lambda: f"{self.chance.getrandbits(32):08x}"  # noqa: E731
        self.agent = Agent(identity, self._policy, frame, nonce, Looks(self._policy, dict), log)
        content = f'[broker]\nprotocol = "{self._protocol}"\nkeepalive = "30s"\n'
        self.link = Link(
            config.parse("limpet.toml", content, DEVICE).broker,
            topics.device_filters("limpet", DEVICE),
            self._dial,
            lambda _epoch: None,
            self.agent.greet,
            Backoff(self.chance.getrandbits(63)),
        )
        self._poller = select.poll()
        self.loop = Loop(
            self.core,
            self.link,
            self.agent,
            Health({}),
            Memory(1 << 30, 0, lambda: 0, lambda: None),
            None,
            Signals(self),  # type: ignore[arg-type]
            Clock(self),
            log,
            2_000,
            ("/bin/false",),
            self,
        )
        self.core_moved()

    def _end(self) -> None:
        """Let nothing of this life reach the next: processes end with their agent."""
        self._alive = False
        self._crossings_left = None
        self.link._close()
        self.core.close()
        self.oracle.in_flight.clear()

    def _replay(self) -> None:
        """What the core has recorded of this life leads to the same decisions again."""
        assert ManualCore.submit(self.core, [Item(RECORD)]) == [None]
        *_, told = decisions(str(self._directory / "recordings"))
        assert (told["differ"], told["panics"]) == (0, None), told

    def _left(self) -> dict[str, int]:
        """Count what the agent still holds."""
        return {
            "publications": len(self.agent.outbox),
            "arrivals": len(self.agent._arrivals),
            "tasks": len(self.agent.tasks),
        }

    def _quiet(self) -> bool:
        return self.oracle.settled() and not any(self._left().values())

    def _kind(self) -> bool:
        return self.now_ms >= BEGIN_MS + UNKIND_MS

    def perhaps_die(self) -> None:
        """Die here if a kill was drawn for this crossing."""
        if self._crossings_left is not None:
            self._crossings_left -= 1
            if self._crossings_left <= 0:
                raise Killed

    # --- time: the poller of the loop -----------------------------------------------------------

    def register(self, fd: int, events: int) -> None:
        """Watch `fd`; the signal descriptor is the world's own affair."""
        if fd != SIGNAL_FD:
            self._poller.register(fd, events)

    def unregister(self, fd: int) -> None:
        """Watch `fd` no more."""
        if fd != SIGNAL_FD:
            self._poller.unregister(fd)

    def poll(self, timeout_ms: int) -> list[tuple[int, int]]:
        """Let time pass until something is ready, or for so long."""
        end_ms = self.now_ms + timeout_ms if timeout_ms >= 0 else None
        while True:
            self.broker.turn()
            ready = self._poller.poll(0)
            if self.core.said:
                ready.append((self.core.event_fd(), select.POLLIN))
            if self._signalled:
                ready.append((SIGNAL_FD, select.POLLIN))
            if ready or self.now_ms >= END_MS:
                return ready
            due_ms = self._due_ms()
            if due_ms is None or (end_ms is not None and end_ms < due_ms):
                due_ms = end_ms
            assert due_ms is not None, "everybody waits for ever"
            self._pass(due_ms)
            if end_ms is not None and self.now_ms >= end_ms:
                return []

    def later(self, delay_ms: int, call: Callable[[], None]) -> None:
        """Call in so many ms, in the order of instants and then of asking."""
        self._count += 1
        heapq.heappush(self._later, (self.now_ms + delay_ms, self._count, call))

    def _due_ms(self) -> int | None:
        due = [self._later[0][0]] if self._later else []
        if self._core_due_ms is not None:
            due.append(self._core_due_ms)
        return max(min(due), self.now_ms) if due else None

    def _pass(self, to_ms: int) -> None:
        self.now_ms = max(self.now_ms, to_ms)
        self.core.advance(self.now_ms * 1_000_000)
        self.core_moved()
        while self._later and self._later[0][0] <= self.now_ms:
            heapq.heappop(self._later)[2]()

    # --- processes ------------------------------------------------------------------------------

    def core_moved(self) -> None:
        """Do what the core asked the world for, in the world's own time."""
        told = self.core.told()
        next_ns = told["next_deadline"]
        # The first whole millisecond at which the deadline has passed.
        self._core_due_ms = None if next_ns is None else -(-next_ns // 1_000_000)
        for effect in told["effects"]:
            if "spawn" in effect:
                self._spawn(effect["spawn"], effect["argv"])
            elif "signal" in effect:
                self._signal(effect["signal"], effect["number"])
            else:
                self._answer(self.chance.randint(0, 30), swept=effect["sweep"])

    def _answer(self, delay_ms: int, **answer: Any) -> None:
        """Tell the core after a while, if it is still the same core."""
        life = self.lives

        def tell() -> None:
            if self._alive and self.lives == life:
                self.core.inject(**answer)
                self.core_moved()

        self.later(delay_ms, tell)

    def _spawn(self, attempt: int, argv: list[str]) -> None:
        _, task_id, name = argv
        self.note(f"spawn {task_id} {name}")
        behaviour = self.oracle.spawned(task_id, name)
        if behaviour.fails_to_start:
            self._answer(5, spawn_failed=attempt)
            return
        self._answer(self.chance.randint(0, 50), spawned=attempt)
        if behaviour.lasts_ms is not None:
            exited = {"attempt": attempt, "code": behaviour.code, "signal": None}
            self._answer(50 + behaviour.lasts_ms, exited={**exited, "said": behaviour.says})

    def _signal(self, attempt: int, number: int) -> None:
        """KILL always ends a process; TERM ends most."""
        if number == 9 or self.chance.random() < 0.7:
            self._answer(
                51 + self.chance.randint(0, 100),
                exited={"attempt": attempt, "code": None, "signal": number},
            )

    # --- the network ----------------------------------------------------------------------------

    def _dial(self, _target: dict[str, Any]) -> int:
        self.perhaps_die()
        self._dialled += 1
        epoch, life = self._dialled, self.lives

        def arrive() -> None:
            if not self._alive or self.lives != life:
                return
            if not self.broker.up or self.chance.random() < 0.1:
                why = {"code": "refused", "detail": "made up"}
                self.core.said.append(Event("link", STAGES.index("down"), epoch, 0, -1, why))
                return
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            self.broker.accept(theirs)
            up = Event("link", STAGES.index("up"), epoch, 0, ours.detach(), {})
            self.core.said.append(up)

        self.later(self.chance.randint(1, 3_000), arrive)
        return epoch

    def _routed(self, topic: str, payload: bytes) -> None:
        self.note(f"{topic} {payload!r}")
        self.oracle.heard(topic, payload)

    def _send(self, plan: Plan) -> None:
        """Send a task until it is answered, as a controller must."""
        if self.oracle.answered(plan.id):
            return
        self.broker.send(f"limpet/{DEVICE}/task/ops", plan.message(NOW_MS))
        if plan.conflicts and self.chance.random() < 0.5:
            self.broker.send(f"limpet/{DEVICE}/task/ops", plan.other_message(NOW_MS))
        if plan.cancel_after_ms is not None:
            delay_ms, plan.cancel_after_ms = plan.cancel_after_ms, None
            self.later(delay_ms, partial(self._cancel, plan))
        self.later(RESEND_MS, partial(self._send, plan))

    def _cancel(self, plan: Plan) -> None:
        topic = f"limpet/{DEVICE}/cancel/{self.chance.choice(['ops', 'admin'])}"
        if self.broker.send(topic, plan.cancel_message(NOW_MS)):
            self.oracle.cancelled(plan.id)

    # --- faults ---------------------------------------------------------------------------------

    def _fault(self) -> None:
        """Do one bad thing, and plan the next while the world is unkind."""
        if self._kind():
            return
        self.later(self.chance.randint(*FAULT_MS), self._fault)
        faults: list[tuple[str, Callable[[], None]]] = [
            ("cut", self.broker.cut),
            ("deaf", self.broker.go_deaf),
            ("restart", lambda: self.broker.restart(True)),
            ("forget", lambda: self.broker.restart(False)),
            ("save", self.broker.save),
            ("restore", self.broker.restore),
            ("repeat", self.broker.repeat),
            ("kill", self._kill),
            ("reboot", self._reboot),
            ("terminate", self._terminate),
        ]
        name, fault = self.chance.choice(faults)
        self.faults += 1
        self.note(f"fault {name}")
        fault()

    def _kill(self) -> None:
        """Die now, or at one of the next crossings, in the middle of something."""
        if self.chance.random() >= KILL_AT_CROSSING:
            raise Killed
        self._crossings_left = self.chance.randint(1, 12)

    def _reboot(self) -> None:
        self._boot += 1
        (self._directory / "boot_id").write_text(f"boot {self._boot}")
        raise Killed

    def _terminate(self) -> None:
        self.oracle.draining()
        self._signalled = True

    def signals(self) -> int:
        """Say how many signals have come since the last call."""
        came, self._signalled = self._signalled, False
        return int(came)

    # --- what was seen --------------------------------------------------------------------------

    def _logged(self, line: bytes) -> None:
        self.lines.append(line)

    def note(self, what: str) -> None:
        """Remember what happened: equal seeds have equal traces."""
        line = f"{self.now_ms} {what}\n".encode()
        self.lines.append(line)
        self.trace.update(line)


# No descriptor: the world says itself when a signal has come.
SIGNAL_FD = -7


class Signals:
    """SIGTERM as the world sends it."""

    def __init__(self, world: World) -> None:
        self._world = world

    def fileno(self) -> int:
        return SIGNAL_FD

    def count(self) -> int:
        return self._world.signals()
