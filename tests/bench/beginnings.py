"""How long a start takes: warm, cold, with a full journal to read; and what each import costs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import harness
import targets
import ways
from harness import Facts

DROP = Path("/proc/sys/vm/drop_caches")
# What it costs to import everything that a running agent has.
AGENT_MODULES = "limpet.slim; limpet.slim.install(); import limpet.app, limpet.agent, limpet.link"
MORE_MODULES = ", limpet.loop, limpet.native.core, limpet.local, limpet.memory, limpet.health"
SHOWN = 25


def warm(kind: Any, repetitions: int) -> Facts:
    """Return ms from exec to the subscription, everything being in memory."""
    return starts(kind, repetitions, lambda: None)


def cold(kind: Any, repetitions: int) -> Facts | None:
    """Return the same with nothing in memory; nothing where the kernel does not let us."""
    return starts(kind, repetitions, drop_caches) if os.access(DROP, os.W_OK) else None


def drop_caches() -> None:
    """Have the kernel forget every file it has read."""
    subprocess.run(["sync"], check=True)
    DROP.write_text("3\n")


def starts(kind: Any, repetitions: int, before: Any) -> Facts:
    """Start a target again and again."""
    times = []
    with harness.running(kind) as scene:
        for _ in range(repetitions):
            scene.target.stop()
            before()
            times.append(harness.restart(scene) * 1e3)
    return harness.summary(times, "ms", times)


def recovery(kind: Any, counts: Facts) -> Facts:
    """Kill an agent that has many live tasks, and start it again."""
    with harness.running(kind) as scene:
        ways.left_alone(scene, counts["live"] - 1)
        times = []
        for _ in range(3):
            scene.target.kill()
            times.append(harness.restart(scene) * 1e3)
        size = sum(file.stat().st_size for file in (scene.target.state / "journal").iterdir())
        told = {"live tasks": counts["live"] - 1, "journal bytes": size}
        return told | harness.summary(times, "ms", times)


def imports() -> list[Facts]:
    """Return the modules that take longest to import by themselves, and all of them together."""
    argv = [sys.executable, "-X", "importtime", "-c", f"import {AGENT_MODULES}{MORE_MODULES}"]
    environment = {**os.environ, "PYTHONPATH": str(targets.ROOT / "runtime")}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    pattern = r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)$"
    found = [(int(us), name) for us, name in re.findall(pattern, done.stderr, re.MULTILINE)]
    rows = [{"module": "all", "µs": sum(us for us, _ in found), "modules": len(found)}]
    return rows + [{"module": name, "µs": us} for us, name in sorted(found, reverse=True)[:SHOWN]]
