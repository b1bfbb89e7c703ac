"""The agent's own memory against its budget: when to refuse tasks, to tidy up, to start anew.

Decides by how much the agent has and how hard the kernel presses, both read from /proc and its
control group. Ends nothing itself. What steps may take is the core's affair.
"""

from __future__ import annotations

import gc
import os

from limpet.units import format_rounded, format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# Parts of the budget, in hundredths: above the first no task is taken, above the second garbage is
# collected, and at the third the agent is beyond help once looks in a row have found it so.
REFUSE, TIDY, BEYOND = 80, 90, 100
BEYOND_LOOKS = 5
# A look costs two small reads. While all is well it rides on turns that happen anyway.
LOOK_MS = 1_000
TIDY_MS = 10_000
# An agent that has grown too large for its budget in less time would only do so again.
RESTART_AFTER_MS = 600_000
# Percent of the last ten seconds in which every process of the group waited for memory (the `full`
# line of pressure files, kernel Documentation/accounting/psi.rst).
PRESSED = 10.0
# Lines of /proc/self/status.
COUNTED = (b"RssAnon:", b"VmSwap:")


class Memory:
    """Watches one agent. Times are milliseconds of a steady clock."""

    __slots__ = (
        "_beyond",
        "_budget",
        "_due_ms",
        "_pressure",
        "_since_ms",
        "_tidy_ms",
        "_used",
        "deadline_ms",
        "reason",
        "restart",
    )

    def __init__(
        self,
        budget_bytes: int,
        now_ms: int,
        used: Callable[[], int],
        pressure: Callable[[], str | None],
    ) -> None:
        """`used` and `pressure` are `used_bytes` and a `Pressure`, or a test's."""
        self._budget = budget_bytes
        self._used = used
        self._pressure = pressure
        self._since_ms = self._due_ms = now_ms
        self._tidy_ms = now_ms - TIDY_MS
        self._beyond = 0
        # Why no task is to be taken now, or None.
        self.reason: str | None = None
        # When to look again for the sake of what is refused; None while nothing is.
        self.deadline_ms: int | None = None
        # Whether only a new process helps: too much for too long, and not from the start on.
        self.restart = False

    def tick(self, now_ms: int) -> None:
        """Look again, if the last look is old enough."""
        if now_ms < self._due_ms:
            return
        self._due_ms = now_ms + LOOK_MS
        used = self._used()
        if self._part(used) >= TIDY and now_ms >= self._tidy_ms + TIDY_MS:
            self._tidy_ms = now_ms
            gc.collect()
            used = self._used()
        self._beyond = self._beyond + 1 if self._part(used) >= BEYOND else 0
        grown = now_ms >= self._since_ms + RESTART_AFTER_MS
        self.restart = grown and self._beyond >= BEYOND_LOOKS
        self.reason = self._judge(used)
        self.deadline_ms = None if self.reason is None else self._due_ms

    def _part(self, used: int) -> int:
        return used * 100 // self._budget

    def _judge(self, used: int) -> str | None:
        if self._part(used) >= REFUSE:
            held, most = format_rounded(used), format_size(self._budget)
            return f"the agent has {held} of the {most} it may have"
        return self._pressure()


def used_bytes() -> int:
    """Return what this process holds that no file backs: anonymous memory, swapped or not.

    From `RssAnon` and `VmSwap` of /proc/self/status, in KiB (proc(5)).
    """
    with open("/proc/self/status", "rb") as stream:
        lines = stream.read().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(COUNTED)) * 1024


class Pressure:
    """Reads whether the kernel is short of memory for us, where it says so."""

    __slots__ = ("_events", "_file", "_ooms")

    def __init__(self, group: str | None) -> None:
        """`group` is the directory of the control group that counts our memory, if one does."""
        candidates = [f"{group}/memory.pressure"] if group else []
        candidates.append("/proc/pressure/memory")
        self._file = next((file for file in candidates if os.access(file, os.R_OK)), None)
        self._events = f"{group}/memory.events" if group else None
        self._ooms = self._count()

    def __call__(self) -> str | None:
        """Return how it is short of it, as a sentence for a person; None if it does not say so."""
        before, self._ooms = self._ooms, self._count()
        if self._ooms > before:
            return "the memory that the agent and its steps share ran out, says the kernel"
        waited = self._waited()
        if waited < PRESSED:
            return None
        return f"all wait for memory {waited:g}% of the time, says the kernel"

    def _waited(self) -> float:
        """Return percent of the last ten seconds; 0 where the kernel does not say."""
        if self._file is None:
            return 0.0
        try:
            with open(self._file, encoding="utf-8") as stream:
                return full_of(stream.read())
        except OSError:
            # Some kernels have the file and refuse to read it.
            self._file = None
            return 0.0

    def _count(self) -> int:
        """Return how often our group, of version 2, was out of memory (cgroup-v2.rst: `oom`)."""
        if self._events is None:
            return 0
        try:
            with open(self._events, encoding="utf-8") as stream:
                lines = stream.read().splitlines()
        except OSError:
            self._events = None
            return 0
        counts = [int(line[len("oom ") :]) for line in lines if line.startswith("oom ")]
        return counts[0] if counts else 0


def full_of(text: str) -> float:
    """Return `avg10` of the `full` line of a pressure file; 0 if there is none."""
    for line in text.splitlines():
        if line.startswith("full avg10="):
            number = line[len("full avg10=") :].partition(" ")[0]
            return float(number) if number.replace(".", "", 1).isdecimal() else 0.0
    return 0.0
