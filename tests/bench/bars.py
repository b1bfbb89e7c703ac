"""What must be shown, held against what was measured: ratios of one run, medians of its turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import harness

Facts = dict[str, Any]
STORM, REALTIME = "limpet under the storm", "limpet under the storm, realtime"
PEER = "asyncio under the storm"
SPAWN_16 = "posix_spawn, 16 at once, processes/s"
# From what is agreed to one processor's clock and one broker's mood.
SPARE_US = 1000


class Bar(NamedTuple):
    """One promise: its bound, and its figure in a run; None where that was not measured."""

    promise: str
    unit: str
    bound: float
    at_most: bool
    figure: Callable[[Facts], float | None]

    def holds(self, run: Facts) -> bool | None:
        """Say whether it holds in a run."""
        value = self.figure(run)
        if value is None:
            return None
        return value <= self.bound if self.at_most else value >= self.bound


def paired(above: list[float], below: list[float]) -> float:
    """Return the median of the ratios of two figures, turn by turn."""
    return harness.median([one / other for one, other in zip(above, below, strict=True)])


def p99s(run: Facts, subject: str, name: str = "subject") -> list[float] | None:
    """Return the p99 of each turn."""
    found = run["lateness"].get(subject)
    if not found:
        return None
    medians: list[float] = found[name]["repetitions"]
    return medians


def to_loop(subject: str, policy: str) -> Callable[[Facts], float | None]:
    """Compare a subject's lateness with that of the C loop beside it."""

    def figure(run: Facts) -> float | None:
        own, loop = p99s(run, subject), p99s(run, subject, f"C loop, {policy}")
        return paired(own, loop) if own and loop else None

    return figure


def to_peer(subject: str) -> Callable[[Facts], float | None]:
    """Say how many times better than asyncio a subject is."""

    def figure(run: Facts) -> float | None:
        own, peer = p99s(run, subject), p99s(run, PEER)
        return paired(peer, own) if own and peer else None

    return figure


def dispatch_beyond_us(run: Facts) -> float:
    """Return what a dispatch takes beyond what the machine needs for its parts."""
    machine = run["turns"]["machine"]
    parts: float = (
        2 * machine["write and fdatasync, µs"]["p50"]
        + 2 * machine["broker, there and back, µs"]["p50"]
        + machine["posix_spawn to first instruction, µs"]["p50"]
    )
    own: float = run["turns"]["targets"]["limpet"]["first instruction, 1 at once"]["p50"]
    return own - parts


def rates(run: Facts, target: str, kind: str = "exec") -> list[float]:
    """Return tasks a second, turn by turn."""
    found: list[float] = run["turns"]["targets"][target][f"{kind}, tasks/s"]["repetitions"]
    return found


def to_spawns(run: Facts) -> float:
    """Return limpet's share of what posix_spawn manages."""
    return paired(rates(run, "limpet"), run["turns"]["machine"][SPAWN_16]["repetitions"])


def to_rate(peer: str) -> Callable[[Facts], float]:
    """Say how many times as many tasks as a peer limpet runs."""
    return lambda run: paired(rates(run, "limpet"), rates(run, peer))


def mb(kib: float) -> float:
    """Return megabytes, of which a thousand thousand bytes make one."""
    return kib * 1024 / 1e6


def idle_mb(run: Facts, name: str = "limpet") -> float:
    """Return PSS at rest."""
    return mb(run["memory"]["idle"][name]["PSS"])


def flood_mb(run: Facts) -> float:
    """Return the highest PSS under a flood."""
    return mb(run["memory"]["life"]["limpet"]["flood"]["peak"]["PSS"])


def grown(run: Facts) -> float:
    """Return by how much of itself memory grew, once everything had been used once."""
    life = run["memory"]["life"]["limpet"]
    return float(life["after all"]["PSS"] / life["after a tenth"]["PSS"])


def flatness(run: Facts) -> float:
    """Return how much more a task costs with all others live than alone."""
    costs = [row["p50"] for name, row in run["growth"].items() if name.endswith("live")]
    return float(max(costs) / costs[0])


def tls_mb(run: Facts) -> float:
    """Return what TLS takes."""
    return idle_mb(run, "limpet, TLS") - idle_mb(run)


BARS = [
    Bar("Deadline lateness p99 under the storm, to the C loop's beside it", "times", 1.3, True,
        to_loop(STORM, "other")),
    Bar("The same with `realtime`, to the C loop's in SCHED_FIFO", "times", 1.3, True,
        to_loop(REALTIME, "fifo")),
    Bar("Deadline lateness p99, how much better than asyncio", "times", 20, False, to_peer(STORM)),
    Bar("The same with `realtime`", "times", 100, False, to_peer(REALTIME)),
    Bar("Publish to first instruction, median of one task at a time, beyond two fdatasyncs, two "
        "broker round trips and one spawn", "µs", SPARE_US, True, dispatch_beyond_us),
    Bar("Durable one-step tasks, to posix_spawn at 16 at once", "times", 0.6, False, to_spawns),
    Bar("The same, to `naive`, which is not durable", "times", 2, False, to_rate("naive")),
    Bar("The same, to `asyncio`, which is not durable", "times", 2, False, to_rate("asyncio")),
    Bar("No-op tasks, durable, the broker included", "tasks/s", 3000, False,
        lambda run: harness.median(rates(run, "limpet", "noop"))),
    Bar("PSS at rest", "MB", 14, True, idle_mb),
    Bar("What TLS adds to it", "MB", 1.5, True, tls_mb),
    Bar("Highest PSS under a flood of messages", "MB", 20, True, flood_mb),
    Bar("PSS after all tasks, to PSS after a tenth of them", "times", 1.03, True, grown),
    Bar("Start to subscribed, warm", "ms", 250, True,
        lambda run: float(run["start"]["warm"]["limpet"]["p50"])),
    Bar("Time of a task among the most live ones, to alone", "times", 1.3, True, flatness),
]  # fmt: skip
