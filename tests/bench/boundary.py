"""What the boundary between Python and Rust costs a task: crossings, nanoseconds, bytes.

Counted in a live agent, around the two calls that carry batches; what goes in and comes out is laid
out by Python, so its time is in the figure. The largest batch is `BATCH_MAX` of `native/core.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import harness
import targets
from harness import Facts
from targets import limpet

# Around `_cross` and `poll`; tells at exit, and begins to count when the file is there.
COUNTING = """\
import atexit, json, os, sys, time
from limpet import slim
slim.install()
from limpet.native.core import Core
told = {"submit": {}, "poll": {}, "bytes in": 0, "bytes out": 0}
def add(kind, size, ns):
    row = told[kind].setdefault(size, [0, 0])
    row[0] += 1
    row[1] += ns
def cross(self, items, original=Core._cross):
    began = time.perf_counter_ns()
    answer = original(self, items)
    add("submit", len(items), time.perf_counter_ns() - began)
    told["bytes in"] += sum(len(item.text) for item in items)
    return answer
def poll(self, original=Core.poll):
    began = time.perf_counter_ns()
    events = original(self)
    add("poll", len(events), time.perf_counter_ns() - began)
    told["bytes out"] += sum(self._events[at].length for at in range(self._count[0]))
    return events
Core._cross, Core.poll = cross, poll
def leave():
    with open(os.path.join(os.path.dirname(sys.argv[1]), "crossings.json"), "w") as file:
        json.dump(told, file)
atexit.register(leave)
"""


class Counted(limpet.Limpet):
    """limpet that counts its crossings."""

    storm = COUNTING


def measure(tasks: int, at_once: int) -> Facts:
    """Run no-op tasks; return what crossed for each."""
    with harness.running(Counted) as scene:
        command = scene.target.command(targets.NOOP, [])
        harness.load(scene.broker.port, command, tasks, at_once)
        harness.settle(scene.target.pid)
        scene.target.stop()
        counted: Facts = json.loads((Path(scene.directory) / "crossings.json").read_text())
    calls = sum(row[0] for kind in ("submit", "poll") for row in counted[kind].values())
    spent = sum(row[1] for kind in ("submit", "poll") for row in counted[kind].values())
    return {
        "tasks": tasks,
        "at once": at_once,
        "crossings per task": harness.significant(calls / tasks),
        "ns per task": round(spent / tasks),
        "bytes in per task": round(counted["bytes in"] / tasks),
        "bytes out per task": round(counted["bytes out"] / tasks),
        "by batch": {kind: by_size(counted[kind]) for kind in ("submit", "poll")},
    }


def by_size(rows: dict[str, Any]) -> Facts:
    """Return calls and ns per item of the batches of 1, of 2 to 3, of 4 to 7 and so on."""
    told: Facts = {}
    for low in (1, 2, 4, 8, 16, 32, 64):
        group = [(int(size), row) for size, row in rows.items() if low <= int(size) < 2 * low]
        calls = sum(row[0] for _, row in group)
        if calls:
            items = sum(size * row[0] for size, row in group)
            per_item = round(sum(row[1] for _, row in group) / items)
            told[str(low)] = {"calls": calls, "ns per item": per_item}
    return told
