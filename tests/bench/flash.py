"""What a task costs the flash: bytes by /proc/PID/io, syncs by strace, none by our own counters."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import harness
import targets
from harness import Facts, Scene

SYNCS = ("fsync", "fdatasync", "sync_file_range", "msync")


def written(pid: int) -> int:
    """Return the bytes that a process had written to any disk."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["write_bytes"])


def measure(kind: Any, counts: Facts) -> Facts:
    """Return bytes and syncs per task, one after another and many at once, and at rest."""
    told: Facts = {}
    with harness.running(kind) as scene:
        for name, what, at_once in (
            ("one step, one at a time", targets.EXEC, 1),
            ("three steps, one at a time", targets.THREE, 1),
            ("no-op, 64 at once", targets.NOOP, 64),
        ):
            if what in scene.target.kinds:
                told[name] = per_task(scene, what, counts["flash"], at_once)
        harness.settle(scene.target.pid)
        before = written(scene.target.pid)
        with Syncs(scene.target.pid) as syncs:
            time.sleep(counts["idle"] / 2)
        told["at rest"] = {
            "seconds": counts["idle"] / 2,
            "bytes": written(scene.target.pid) - before,
            "syncs": syncs.count,
        }
    return told


def per_task(scene: Scene, what: str, tasks: int, at_once: int) -> Facts:
    """Run tasks twice: once for their bytes, once under strace for their syncs."""
    command = scene.target.command(what, [str(harness.probe("child")), "-"])
    harness.load(scene.broker.port, command, at_once, at_once)
    before = written(scene.target.pid)
    harness.load(scene.broker.port, command, tasks, at_once)
    time.sleep(0.5)
    bytes_per_task = (written(scene.target.pid) - before) / tasks
    with Syncs(scene.target.pid) as syncs:
        harness.load(scene.broker.port, command, tasks, at_once)
        time.sleep(0.5)
    return {
        "tasks": tasks,
        "bytes per task": round(bytes_per_task),
        "syncs per task": harness.significant(syncs.count / tasks),
    }


class Syncs:
    """Counts the calls of a process, all threads, that make something durable."""

    def __init__(self, pid: int) -> None:
        self.count = 0
        self._pid = pid

    def __enter__(self) -> Syncs:
        calls = f"trace={','.join(SYNCS)}"
        argv = ["strace", "--summary-only", "-f", "-e", calls, "-e", "signal=none", "-p"]
        self._strace = subprocess.Popen([*argv, str(self._pid)], stderr=subprocess.PIPE, text=True)
        while not self._attached():
            time.sleep(0.01)
        return self

    def _attached(self) -> bool:
        status = Path(f"/proc/{self._pid}/status").read_text()
        return self._strace.poll() is not None or "TracerPid:\t0\n" not in status

    def __exit__(self, *_: object) -> None:
        self._strace.send_signal(signal.SIGINT)
        said = self._strace.communicate()[1]
        # A row: share, seconds, µs per call, calls, perhaps errors, name.
        for row in re.findall(r"^(.+) (\w+)$", said, re.MULTILINE):
            if row[1] in SYNCS:
                self.count += int(row[0].split()[3])
