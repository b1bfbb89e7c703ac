"""Memory of a target, as the kernel divides it: at rest, after tasks, under a flood, afterwards.

PSS divides a page among all who map it, and the benchmark itself is a Python: RSS, which divides
nothing, is what an agent alone on a device has at most.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import harness
import targets
from fleet import memory_kib
from harness import Facts, Scene

SAMPLE_S = 0.05
IN_FLIGHT = 200
AT_ONCE = 32


def held(pids: list[int]) -> dict[str, int]:
    """Return PSS, RSS and USS of these processes together, in KiB."""
    told = memory_kib(pids)
    private = told.get("Private_Clean", 0) + told.get("Private_Dirty", 0)
    return {"PSS": told.get("Pss", 0), "RSS": told.get("Rss", 0), "USS": private}


class Watch:
    """Looks again and again, until it is left."""

    def __init__(self, target: Any) -> None:
        self.samples: list[tuple[float, dict[str, int]]] = []
        self._target = target
        self._ended = threading.Event()
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            # A step's own processes are not the agent's memory.
            at = time.monotonic() - self._began
            self.samples.append((at, held([self._target.pid])))


def idle(kind: Any, seconds: float, tls: bool = False) -> Facts:
    """Return what a target has that is connected and has nothing to do for so long."""
    with harness.running(kind, tls) as scene:
        time.sleep(seconds)
        return {"seconds": seconds, "processes": len(scene.target.pids()), **now(scene)}


def now(scene: Scene) -> dict[str, int]:
    """Return what all its processes have together, in KiB."""
    return held(scene.target.pids())


def life(kind: Any, counts: Facts) -> Facts:
    """Return what a target has before and after many tasks and a flood of messages."""
    with harness.running(kind) as scene, Watch(scene.target) as watch:
        time.sleep(2)
        told: Facts = {"at rest": now(scene)}
        many = targets.NOOP if targets.NOOP in scene.target.kinds else targets.EXEC
        command = scene.target.command(many, [str(harness.probe("child")), "-"])
        # Who keeps nothing does a tenth, and a hundredth of what starts a process.
        share = (1 if scene.target.durable else 10) * (1 if many == targets.NOOP else 10)
        tasks = max(1, counts["many"] // share)
        part = max(1, tasks // 10)
        # A tenth first: then everything has been used once.
        for name, count in (("after a tenth", part), ("after all", tasks - part)):
            harness.load(scene.broker.port, command, count, AT_ONCE, expires_s=2)
            time.sleep(2)
            told[name] = now(scene)
        told |= {"tasks": tasks, "kind": many}
        told["flood"] = flood(scene, watch, counts["flood"])
        told["over time"] = thin(watch.samples)
    return told


def flood(scene: Scene, watch: Watch, messages: int) -> Facts:
    """Send messages that are no tasks as fast as the broker takes them; return the peak."""
    before, start = now(scene), len(watch.samples)
    figures = harness.load(scene.broker.port, harness.nonsense(scene), messages, IN_FLIGHT)
    drain(scene)
    peaks = watch.samples[start:] or watch.samples[-1:]
    after = now(scene)
    return {
        "messages": messages,
        "messages/s": round(messages / figures["seconds"]),
        "peak": {kind: max(one[kind] for _, one in peaks) for kind in before},
        "after": after,
        "KiB grown per million messages": round((after["RSS"] - before["RSS"]) / messages * 1e6),
    }


def drain(scene: Scene) -> None:
    """Wait until everything that was sent has been looked at: a task comes behind it."""
    kind = targets.NOOP if targets.NOOP in scene.target.kinds else targets.EXEC
    command = scene.target.command(kind, [str(harness.probe("child")), "-"])
    with contextlib.suppress(AssertionError):
        harness.load(scene.broker.port, command, 1, 1)
    harness.settle(scene.target.pid)


def thin(samples: list[tuple[float, dict[str, int]]], most: int = 200) -> list[list[float]]:
    """Return at most so many: seconds and RSS in KiB, each the largest of its neighbours."""
    width = -(-len(samples) // most)
    groups = [samples[at : at + width] for at in range(0, len(samples), width)]
    return [[round(group[0][0], 2), max(one["RSS"] for _, one in group)] for group in groups]
