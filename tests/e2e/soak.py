"""A long life in a short time: what an agent keeps, collects and writes over many tasks.

`python tests/e2e/soak.py` writes `tests/results/soak.json`. `TASKS=N` is how many; twice as many
messages come in, half of them nonsense. The state directory lies on a device of its own (a loop
device, so it needs root), where every block and every flush can be counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from brokers import Broker
from fleet import AGENT, CONFIG, Controller, Device, expiry, step, task, until
from load import Load

import results
from limpet.codec import frame

FILE_BYTES = 256 * 1024 * 1024
SECTOR_BYTES = 512
# Fields of /sys/block/DEVICE/stat (Documentation/block/stat.rst of the kernel), from 0.
SECTORS_WRITTEN, FLUSHES = 6, 15
COUNTED_TASKS = 100
IDLE_S = 60
OUTSTANDING_MAX = 48
# An id is remembered until its task expires: short enough that the table has room.
EXPIRES_S = 15
SAMPLES = 20

LIMITS = """\
[limits]
segment = "4MiB"
tasks = 64
steps = 256
ids = 4096
"""
# Tells at the end what the collector did once the loop ran: how often in the loop's own slot, how
# often elsewhere, and how much garbage it found.
OBSERVED = f"""\
import atexit, gc, json, os, sys
told = {{"in the chosen slot": 0, "elsewhere": 0, "objects found": 0}}
runs = []
def observe(phase, info):
    where = sys._getframe(1).f_code.co_name
    if phase == "stop" and where == "run":
        runs.append(True)
    elif phase == "stop" and runs:
        told["in the chosen slot" if where == "_wait" else "elsewhere"] += 1
        told["objects found"] += info["collected"] + info["uncollectable"]
def leave():
    with open(os.path.join(os.path.dirname(sys.argv[1]), "collections.json"), "w") as file:
        json.dump(told, file)
gc.callbacks.append(observe)
atexit.register(leave)
{AGENT}"""


class OwnDevice:
    """A file system on a loop device, mounted where the agent keeps its state."""

    def __init__(self, directory: Path) -> None:
        file, self.mounted = directory / "device", directory / "state"
        with file.open("wb") as stream:
            stream.truncate(FILE_BYTES)
        self.mounted.mkdir()
        run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(file))
        # Without the file system's own commits every few seconds: what is asked for is counted.
        run("mount", "-o", "loop,noatime,commit=600", str(file), str(self.mounted))
        source = run("findmnt", "-no", "SOURCE", str(self.mounted)).strip()
        self._stat = Path("/sys/block") / Path(source).name / "stat"

    def close(self) -> None:
        run("umount", str(self.mounted))

    def written(self) -> int:
        """Return the bytes written so far, nothing being left in memory."""
        run("sync", "-f", str(self.mounted))
        return self._field(SECTORS_WRITTEN) * SECTOR_BYTES

    def flushes(self) -> int:
        """Return how often it was told to make everything durable so far."""
        return self._field(FLUSHES)

    def _field(self, number: int) -> int:
        return int(self._stat.read_text().split()[number])


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def held(pid: int) -> dict[str, int]:
    """Return what a process holds just now; sizes in KiB."""
    process = Path(f"/proc/{pid}")
    lines = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return {
        "resident KiB": int(lines["VmRSS"].split()[0]),
        "descriptors": len(list((process / "fd").iterdir())),
        "threads": int(lines["Threads"]),
    }


def written_by(pid: int) -> int:
    """Return the bytes a process caused to be written to any disk."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["write_bytes"])


def flash(controller: Controller, device: OwnDevice) -> dict[str, float]:
    """Run three-step tasks one after another; return what each costs the disk."""
    script = 'printf \'{"result":{"text":"%0180d"}}\\n\' 7 >&3'
    steps = [
        {"name": f"s{n}", "tool": "shell", "input": {"script": script}, "on_interruption": "stop"}
        for n in range(3)
    ]
    controller.send(task("first", steps))
    result = controller.wait("result", "first")
    bytes_before, flushes_before = device.written(), device.flushes()
    for number in range(COUNTED_TASKS):
        controller.send(task(f"counted-{number}", steps))
        controller.wait("result", f"counted-{number}")
    # The last release may be on its way.
    time.sleep(1)
    flushes = device.flushes() - flushes_before
    return {
        "result bytes": len(json.dumps(result["steps"][0]["result"])),
        "bytes per task": round((device.written() - bytes_before) / COUNTED_TASKS),
        "syncs per task": flushes / COUNTED_TASKS,
    }


def idle(pid: int, device: OwnDevice) -> dict[str, int]:
    """Leave the agent alone; return what it writes meanwhile."""
    blocks, flushes, process = device.written(), device.flushes(), written_by(pid)
    time.sleep(IDLE_S)
    flushes = device.flushes() - flushes
    return {
        "seconds": IDLE_S,
        "bytes to its device": device.written() - blocks,
        "syncs": flushes,
        "bytes by the process": written_by(pid) - process,
    }


def soak(load: Load, pid: int, tasks: int) -> dict[str, Any]:
    """Keep the agent busy; return what it holds on the way."""
    began, number, sent = time.monotonic(), 0, 0
    samples: list[dict[str, int]] = []
    while number < tasks or load.open:
        while number < tasks and len(load.open) < OUTSTANDING_MAX:
            load.open[f"soak-{number}"] = 0.0
            number += 1
        now = time.monotonic()
        for task_id, due in list(load.open.items()):
            if now >= due:
                load.open[task_id] = now + EXPIRES_S
                load.send(document(task_id))
                load.send(nonsense(sent))
                sent += 2
        if len(samples) < SAMPLES * sum(load.ended.values()) // tasks:
            samples.append(held(pid))
            sys.stderr.write(f"{sum(load.ended.values())} {samples[-1]} {dict(load.refused)}\n")
        time.sleep(0.002)
    return {
        "tasks": tasks,
        "messages sent": sent,
        "messages heard": load.heard,
        "outcomes": dict(load.ended),
        "refused": dict(load.refused),
        "seconds": round(time.monotonic() - began),
        "samples": samples,
    }


def document(task_id: str) -> bytes:
    """Return a task: mostly the machine's own timer, every eighth a process."""
    number = int(task_id.rpartition("-")[2])
    sleep = {"name": "s", "tool": "sleep", "input": {"duration": "1ms"}}
    one = sleep if number % 8 else step("s", "/bin/true")
    return frame(json.dumps(task(task_id, [one], expires_at=expiry(EXPIRES_S))).encode())


def nonsense(number: int) -> bytes:
    """Return something that is refused, each time for another reason."""
    kinds = [b"\0\xff", b"{}", frame(b"{"), frame(b'{"limpet":1,"id":"x","steps":[]}'), b"x" * 900]
    return kinds[number // 2 % len(kinds)]


def measure(directory: Path, tasks: int) -> dict[str, Any]:
    """Do all of it in `directory`."""
    own, broker = OwnDevice(directory), Broker("mosquitto", "5", directory)
    broker.start()
    device = Device(directory, broker, "5")
    settings = (directory / "limpet.toml").read_text()
    before = CONFIG[CONFIG.index("[limits]") : CONFIG.index("[policy]")]
    settings = settings.replace(before, LIMITS).replace('level = "debug"', 'level = "warning"')
    (directory / "limpet.toml").write_text(settings)
    (directory / "policy.toml").write_text(
        (directory / "policy.toml").read_text().replace('source = "ops"', 'source = "*"')
    )
    device.start(OBSERVED)
    controller, load = Controller(broker), Load(broker.port, "load")
    try:
        controller.wait_online()
        assert device.process is not None
        pid = device.process.pid
        told: dict[str, Any] = {"flash": flash(controller, own), "idle": idle(pid, own)}
        controller.close()
        told["soak"] = soak(load, pid, tasks)
        device.stop()
        told["collections"] = json.loads((directory / "collections.json").read_text())
    finally:
        load.close()
        device.stop()
        broker.stop()
        until(lambda: not device.process or device.process.poll() is not None, "the agent's end")
        own.close()
    return told


def check(told: dict[str, Any]) -> None:
    """Hold what was measured against what is promised."""
    assert told["flash"]["syncs per task"] <= 4, told["flash"]
    assert told["flash"]["bytes per task"] <= 32 * 1024, told["flash"]
    assert told["idle"]["bytes to its device"] == 0, told["idle"]
    assert told["idle"]["bytes by the process"] == 0, told["idle"]
    assert told["collections"]["elsewhere"] == 0, told["collections"]
    assert told["collections"]["objects found"] == 0, told["collections"]
    assert set(told["soak"]["outcomes"]) == {"succeeded"}, told["soak"]
    # After the first tenth everything has been used once.
    settled, last = told["soak"]["samples"][2], told["soak"]["samples"][-1]
    assert last["resident KiB"] <= settled["resident KiB"] + 1024, told["soak"]
    assert last["threads"] == settled["threads"], told["soak"]
    assert last["descriptors"] <= settled["descriptors"] + 8, told["soak"]


def main() -> int:
    """Run the whole of it."""
    tasks = int(os.environ.get("TASKS", "100000"))
    with tempfile.TemporaryDirectory() as directory:
        told = measure(Path(directory), tasks)
    results.write("soak", f"make soak TASKS={tasks}", told)
    check(told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
