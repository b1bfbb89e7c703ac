"""How late deadlines are while Python suffers, beside a C loop on the same processors.

A child that ignores SIGTERM has a second, and between 1 and 50 ms more before it is killed. What is
measured is from that deadline to the return of the signal call. The C loops run in those seconds.
"""

from __future__ import annotations

import random
import subprocess
from typing import Any

import harness
from harness import Facts, Scene

BEFORE_MS = 1000
# Of the deadlines, how many must have come to be.
KEPT_MIN = 0.95
LONGEST_MS = 50
AT_ONCE = 48
FLOOD_PER_S = 300
POLICIES = ("other", "fifo")


def subjects() -> list[Any]:
    """Return who is measured."""
    from targets import limpet, scripts

    return [limpet.Stormy, limpet.StormyRealtime, scripts.StormyAsyncio]


def repetition(kind: Any, deadlines: int, seed: int) -> dict[str, list[float]]:
    """Return µs of lateness of the subject, and of C loops beside it, under one storm."""
    with harness.running(kind) as scene:
        nonsense = harness.nonsense(scene)
        flood = harness.beside(scene.broker.port, nonsense, 10_000_000, rate=FLOOD_PER_S)
        loops = {
            policy: subprocess.Popen(
                [harness.probe("deadlines"), policy, str(deadlines), str(seed)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for policy in POLICIES
        }
        with flood:
            late = measure(scene, max(1, deadlines // kind.slowness), seed)
            beside = {policy: loop.communicate()[0] for policy, loop in loops.items()}
    told = {f"C loop, {name}": numbers_us(said) for name, said in beside.items()}
    return {"subject": late, **told}


def numbers_us(said: str) -> list[float]:
    """Return microseconds of lines of nanoseconds."""
    return [int(line) / 1e3 for line in said.split()]


def measure(scene: Scene, deadlines: int, seed: int) -> list[float]:
    """Let children overstay; return how late each was killed, as the target tells it."""
    drawn = random.Random(seed)
    child = [str(harness.probe("child")), "TERM"]
    command, added_ms = scene.target.deadline(child, BEFORE_MS)
    figures = harness.load(
        scene.broker.port,
        command,
        deadlines,
        AT_ONCE,
        milliseconds=[drawn.randint(1, LONGEST_MS) + added_ms for _ in range(deadlines)],
        reads='"late_us":',
    )
    late: list[float] = figures["read"]
    # A child that the storm kept from ignoring SIGTERM in time ended by it, without a deadline.
    assert len(late) >= deadlines * KEPT_MIN, (len(late), deadlines)
    return late


def all_of(repetitions: list[dict[str, list[float]]]) -> Facts:
    """Return figures of one subject over its repetitions."""
    told: Facts = {}
    for name in repetitions[0]:
        every = [value for one in repetitions for value in one[name]]
        p99s = [harness.rank(sorted(one[name]), 0.99) for one in repetitions]
        told[name] = harness.summary(every, "µs", p99s) | {"histogram": harness.histogram(every)}
    return told
