"""Measure what a release saves: `python tests/frozen/release.py ORDINARY RELEASE`.

Both files do the same work in turns, so that whatever else the machine does meets both alike: tasks
of a controller, of which the processor time of the thread that runs Python is counted, and
packaging/freeze/train.py, run as a tool. Writes `tests/results/release.json`.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from brokers import Broker
from executable import Frozen
from fleet import ROOT, listening, step, task

import results

TURNS = 9
TASKS = 200
TRAINING = ROOT / "packaging" / "freeze" / "train.py"


def tasks_ms(file: Path) -> float:
    """Return what Python's thread takes for tasks of three steps, from the first to the last."""
    with (
        tempfile.TemporaryDirectory(prefix="limpet-release-") as name,
        Broker("mosquitto", "5", Path(name)).running() as broker,
        listening(broker) as controller,
    ):
        device = Frozen(Path(name), broker, [str(file)])
        device.run()
        controller.wait_online()
        before = python_ms(device)
        for number in range(TASKS):
            steps = [step(each, "/bin/true") for each in ("one", "two", "three")]
            controller.send(task(f"t-{number}", steps))
            controller.wait("result", f"t-{number}")
        took = python_ms(device) - before
        device.stop()
        return took


def python_ms(device: Frozen) -> float:
    """Return the processor time that the agent's first thread has had."""
    assert device.process is not None
    pid = device.process.pid
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e6


def training_ms(file: Path) -> float:
    """Return what the training takes in all, its start included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([file, "worker", TRAINING, ROOT], env={"PYTHONHASHSEED": "0"}, check=True)
    return (resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before) * 1000


def main(words: list[str]) -> int:
    """Measure and write the results."""
    files = dict(zip(("ordinary", "release"), map(Path, words), strict=True))
    measured: dict[str, Any] = {"bytes": {kind: it.stat().st_size for kind, it in files.items()}}
    for work, measure in (("tasks", tasks_ms), ("training", training_ms)):
        turns = [{kind: measure(file) for kind, file in files.items()} for _ in range(TURNS)]
        measured[work] = {
            "turns": TURNS,
            **{f"{kind} ms": round(statistics.median(it[kind] for it in turns)) for kind in files},
            "release to ordinary": round(
                statistics.median(it["release"] / it["ordinary"] for it in turns), 3
            ),
        }
    measured["tasks"]["tasks"] = TASKS
    results.write("release", "make measure-release", measured)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
