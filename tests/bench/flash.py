"""What a task costs the flash: bytes and flushes of a block device that holds only the state.

The device is the soak test's: a file system on a loop device, so that nothing else is counted.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import harness
import targets
from brokers import Broker
from harness import Facts, Scene
from soak import OwnDevice


def on_device(kind: Any) -> Any:
    """Return a target like `kind` whose state lies on a device of its own."""

    class OnDevice(kind):  # type: ignore[misc]
        """It is mounted before anything is started, and unmounted when all has ended."""

        def __init__(self, directory: Path, broker: Broker) -> None:
            self.disk = OwnDevice(directory)
            super().__init__(directory, broker)

        def stop(self) -> None:
            super().stop()
            self.disk.close()

    return OnDevice


def measure(kind: Any, counts: Facts) -> Facts:
    """Return bytes and flushes per task, one after another and many at once, and at rest."""
    told: Facts = {}
    with harness.running(on_device(kind)) as scene:
        for name, what, at_once in (
            ("one step, one at a time", targets.EXEC, 1),
            ("three steps, one at a time", targets.THREE, 1),
            ("no-op, 64 at once", targets.NOOP, 64),
        ):
            told[name] = per_task(scene, what, counts["flash"], at_once)
        harness.settle(scene.target.pid)
        disk = scene.target.disk
        written, flushes, seconds = disk.written(), disk.flushes(), counts["idle"] / 2
        time.sleep(seconds)
        flushes = disk.flushes() - flushes
        told["at rest"] = {
            "seconds": seconds,
            "bytes": disk.written() - written,
            "flushes": flushes,
        }
    return told


def per_task(scene: Scene, what: str, tasks: int, at_once: int) -> Facts:
    """Run tasks and return what each cost."""
    command = scene.target.command(what, [str(harness.probe("child")), "-"])
    harness.load(scene.broker.port, command, at_once, at_once)
    disk = scene.target.disk
    written, flushes = disk.written(), disk.flushes()
    harness.load(scene.broker.port, command, tasks, at_once)
    # The last release may be on its way.
    harness.settle(scene.target.pid)
    flushes = disk.flushes() - flushes
    return {
        "tasks": tasks,
        "bytes per task": round((disk.written() - written) / tasks),
        "flushes per task": harness.significant(flushes / tasks),
    }
