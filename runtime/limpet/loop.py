"""The one loop: waits in one place, then lets each part have its turn, and hands over between them.

Decides order and fairness of a turn, when to collect garbage, and how the agent stops. Knows no
document; everything it calls returns without blocking.
"""

from __future__ import annotations

import gc
import os
import select
import signal
from typing import TYPE_CHECKING, Protocol

from limpet.native.records import DRAIN, Item

if TYPE_CHECKING:
    from limpet.agent import Agent
    from limpet.health import Health
    from limpet.link import Link
    from limpet.local import Local
    from limpet.log import Log
    from limpet.memory import Memory
    from limpet.native.core import Core

    class Poller(Protocol):
        """What the loop needs of `select.poll`."""

        def register(self, fd: int, events: int) -> None:
            """Watch `fd`."""

        def unregister(self, fd: int) -> None:
            """Watch `fd` no more."""

        def poll(self, timeout_ms: int) -> list[tuple[int, int]]:
            """Wait for events, at most so long; -1 is for ever."""

    class Steady(Protocol):
        """What the loop needs of the clock."""

        def boot_ms(self) -> int:
            """Milliseconds since boot."""

        def wall_ms(self) -> int:
            """Milliseconds since 1970."""


# How soon to try again what the core had no room for; it frees some with every event it tells.
BUSY_MS = 10
# How long an ending agent waits for the broker to acknowledge what it still has.
FAREWELL_MS = 3_000
# Patience with running steps when it is the agent that needs to start anew: no step is to blame.
RESTART_PATIENCE_MS = 900_000
# paho leaves half a kilobyte of cycles per message. They go when nothing else is to be done; the
# threshold is only for a flood without a pause, about a megabyte of them.
GARBAGE_WORTH_A_COLLECTION = 500
GARBAGE_MAX = 20_000
# Collections of one generation until the next older one has its turn, as the interpreter counts.
OUTLIVED = 10


def collect() -> None:
    """Collect the youngest garbage, and what outlived ten such collections, more rarely.

    What lives is looked at each time, and there may be a thousand tasks.
    """
    _, middle, old = gc.get_count()
    gc.collect(2 if old >= OUTLIVED else 1 if middle >= OUTLIVED else 0)


class Signals:
    """SIGTERM and SIGINT as a descriptor."""

    __slots__ = ("_read_fd",)

    def __init__(self) -> None:
        """Take over the process's handlers; SIGHUP means nothing here and is ignored."""
        self._read_fd, write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def fileno(self) -> int:
        """Return the descriptor, readable after a signal."""
        return self._read_fd

    def count(self) -> int:
        """Return how many signals have come since the last call."""
        try:
            return len(os.read(self._read_fd, 64))
        except BlockingIOError:
            return 0


class Loop:
    """Runs one agent until it is told to end."""

    def __init__(
        self,
        core: Core,
        link: Link,
        agent: Agent,
        health: Health,
        memory: Memory,
        local: Local | None,
        signals: Signals,
        clock: Steady,
        log: Log,
        drain_ms: int,
        reboot: tuple[str, ...],
        poller: Poller | None = None,
    ) -> None:
        """`drain_ms` is the patience with running steps; `reboot` the argv that restarts us."""
        self._core = core
        self._link = link
        self._agent = agent
        self._health = health
        self._memory = memory
        self._local = local
        self._signals = signals
        self._clock = clock
        self._log = log
        self._drain_ms = drain_ms
        self._reboot = reboot
        self._poller: Poller = poller or select.poll()
        self._watched: dict[int, int] = {}
        # What the link and the local socket wanted to be watched when `_watched` was worked out.
        self._wishes: tuple[int | None, bool, dict[int, int]] | None = None
        self._core_fd, self._signals_fd = core.event_fd(), signals.fileno()
        self._busy = False
        self._told_phase = ""
        self._draining = False
        self._farewell_ms: int | None = None
        self._finished = False
        # Whether the agent is to start anew now that it has ended.
        self.restart = False

    def run(self) -> None:
        """Turn until the agent has ended in order; LimpetError if it cannot go on."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(GARBAGE_MAX, OUTLIVED, OUTLIVED)
        while not self._finished:
            self.turn()

    def turn(self) -> None:
        """Wait, then do everything that there is to do once."""
        ready = self._wait()
        now_ms = self._clock.boot_ms()
        if self._signals_fd in ready and self._signals.count():
            self.restart = False
            self._drain(self._drain_ms)
        self._weigh(now_ms)
        # The core first: its records say why a connection ended before the connection shows it.
        if self._core_fd in ready:
            self._hear(now_ms)
        link_fd = self._link.fileno()
        if link_fd is not None:
            happened = ready.get(link_fd, 0)
            if happened & ~select.POLLOUT or self._link.pending:
                self._link.read(now_ms)
            if happened & select.POLLOUT:
                self._link.write(now_ms)
        self._link.tick(now_ms)
        if self._local is not None:
            self._local.serve(ready)
            for asked in self._local.take():
                self._agent.asked(*asked, self._clock.wall_ms())
        self._hand_over(now_ms)
        self._health.tick(now_ms)
        if self._link.phase != self._told_phase:
            self._told_phase = self._link.phase
            self._health.status(f"link {self._told_phase}")
        if self._draining:
            self._end_in_order(now_ms)

    # --- waiting --------------------------------------------------------------------------------

    def _wait(self) -> dict[int, int]:
        """Return the descriptors that are ready; collect garbage if that has to be waited for."""
        self._watch()
        timeout_ms = 0 if self._link.pending else self._timeout_ms()
        if timeout_ms and gc.get_count()[0] >= GARBAGE_WORTH_A_COLLECTION:
            ready = self._poller.poll(0)
            if ready:
                return dict(ready)
            collect()
        return dict(self._poller.poll(timeout_ms))

    def _timeout_ms(self) -> int:
        deadlines = (
            self._link.deadline_ms,
            self._agent.deadline_ms,
            self._health.deadline_ms,
            self._memory.deadline_ms,
            self._farewell_ms,
        )
        due = [deadline for deadline in deadlines if deadline is not None]
        now_ms = self._clock.boot_ms()
        if self._busy:
            due.append(now_ms + BUSY_MS)
        return max(0, min(due) - now_ms) if due else -1

    def _watch(self) -> None:
        """Tell the poller which descriptors there are now."""
        link_fd, writes = self._link.fileno(), self._link.wants_write
        local = self._local.wanted() if self._local is not None else {}
        wishes = (link_fd, writes, local)
        if wishes == self._wishes:
            return
        self._wishes = wishes
        wanted = {self._signals_fd: select.POLLIN, self._core_fd: select.POLLIN, **local}
        if link_fd is not None:
            wanted[link_fd] = select.POLLIN | (select.POLLOUT if writes else 0)
        for fd in self._watched.keys() - wanted.keys():
            self._poller.unregister(fd)
        for fd, events in wanted.items():
            self._poller.register(fd, events)
        self._watched = wanted

    # --- one turn -------------------------------------------------------------------------------

    def _hear(self, now_ms: int) -> None:
        for event in self._core.poll():
            if event.kind == "link":
                self._link.heard(event, now_ms)
            else:
                self._agent.heard(event)

    def _hand_over(self, now_ms: int) -> None:
        """Carry what each part has for another: notes, items, publications, acknowledgements."""
        agent, link = self._agent, self._link
        self._note(now_ms)
        while agent.reboots:
            self._restart_machine(agent.reboots.pop())
        self._submit()
        agent.tick(now_ms)
        while (found := agent.outbox.next()) is not None:
            ticket, publication = found
            number = link.publish(publication.topic, publication.payload, publication.retain)
            if number is None:
                break
            agent.outbox.sent(ticket, number)
        for epoch, number in agent.acknowledgements:
            link.acknowledge(epoch, number)
        agent.acknowledgements.clear()
        if agent.must_reconnect:
            link.write(now_ms)
            link.again(now_ms)
        if self._local is not None:
            self._local.tell(agent.told)
        agent.told.clear()
        if link.wants_write:
            link.write(now_ms)
            self._note(now_ms)

    def _note(self, now_ms: int) -> None:
        notes = self._link.take()
        if notes:
            wall_ms = self._clock.wall_ms()
            for note in notes:
                self._agent.noted(note, now_ms, wall_ms)

    def _submit(self) -> None:
        """Hand items to the core until there are none or it is busy."""
        self._busy = False
        while not self._busy:
            items = self._agent.items()
            if not items:
                return
            self._busy = self._agent.submitted(items, self._core.submit(items))

    def _restart_machine(self, target: int) -> None:
        """Start what restarts the machine; its attempt succeeds when the boot id has changed."""
        try:
            os.posix_spawn(self._reboot[0], self._reboot, os.environ, setsigmask=())
            self._log.warning("reboot.asked", argv=" ".join(self._reboot))
        except OSError as error:
            fault = f"cannot start {self._reboot[0]}: {error.strerror} (the step fails)"
            self._agent.reboot_failed(target, fault)

    # --- ending ---------------------------------------------------------------------------------

    def _weigh(self, now_ms: int) -> None:
        """Let the agent refuse tasks, or end to start anew, by the memory that it has."""
        memory = self._memory
        memory.tick(now_ms)
        if memory.reason != self._agent.full:
            told = self._log.info if memory.reason is None else self._log.warning
            told("memory.full", detail=memory.reason)
            self._agent.full = memory.reason
        if memory.restart and not self._draining:
            self._log.error("memory.restart", detail=memory.reason)
            self.restart = True
            self._drain(RESTART_PATIENCE_MS)

    def _drain(self, patience_ms: int) -> None:
        """Begin to end; a second call ends at once."""
        if self._draining:
            self._finished = True
            self._link.stop()
            return
        self._draining = True
        self._log.info("agent.draining", patience_ms=patience_ms)
        self._health.stopping(patience_ms)
        self._core.submit([Item(DRAIN, value=patience_ms)])

    def _end_in_order(self, now_ms: int) -> None:
        """When nothing runs any more: say what is left to say, then goodbye."""
        if not self._agent.drained:
            return
        if self._farewell_ms is None:
            self._agent.leave()
            self._farewell_ms = now_ms + FAREWELL_MS
            self._hand_over(now_ms)
        offline = self._link.phase != "ready"
        if offline or len(self._agent.outbox) == 0 or now_ms >= self._farewell_ms:
            self._link.stop()
            self._finished = True
