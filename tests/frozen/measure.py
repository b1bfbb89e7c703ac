"""Measure the single executables in dist/: size, start, memory when idle, smallest cap.

`python tests/frozen/measure.py` writes `tests/results/frozen.json`. A start is timed from `fork` to
the presence that a controller hears. Memory is that of an agent that is connected by TLS and idle,
all of its processes summed. A cap is one of a control group of version 1, without swap, on a copy
of the file whose pages nobody has read; the C library is the machine's and is charged to others.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from brokers import MOSQUITTO_PROGRAM, TlsBroker
from cage import Alone
from executable import Frozen, unread_copy
from fleet import PATIENCE_S, ROOT, Controller, Device, memory_kib, processes_with

import results

STARTS = 9
SETTLE_S = 3.0
START_CAPPED_S = 20.0
CAPS_MIB = range(20, 5, -1)
KIB, MIB = 1 << 10, 1 << 20
MACHINE = os.uname().machine


@contextlib.contextmanager
def place() -> Iterator[tuple[Path, TlsBroker, Controller]]:
    """Give a directory, a broker with and without TLS, and a controller."""
    with tempfile.TemporaryDirectory(prefix="limpet-measure-") as name:
        directory = Path(name)
        broker = TlsBroker(directory)
        broker.start()
        controller = Controller(broker)
        try:
            yield directory, broker, controller
        finally:
            controller.close()
            broker.stop()


def connected(device: Device, controller: Controller, seconds: float = PATIENCE_S) -> float | None:
    """Return how long it took from now until the device is heard to be there, in milliseconds."""
    start = time.monotonic()
    before = len(controller.all("presence"))
    assert device.process is not None
    while time.monotonic() < start + seconds and device.process.poll() is None:
        if any(said["online"] for said in controller.all("presence")[before:]):
            return (time.monotonic() - start) * 1000
        time.sleep(0.001)
    return None


def starts(command: list[str]) -> dict[str, Any]:
    """Return the starts of the file and, in turns, of the interpreter, in milliseconds."""
    found: dict[str, list[float]] = {"frozen": [], "venv": []}
    with place() as (directory, broker, controller):
        device = Frozen(directory, broker, command)
        ways = {
            "frozen": command,
            "venv": [sys.executable, "-m", "limpet"],
        }
        for turn in range(STARTS + 1):
            for name, words in ways.items():
                device.command = words
                device.environment = {} if name == "frozen" else {"PYTHONPATH": f"{ROOT}/runtime"}
                device.run()
                took = connected(device, controller)
                assert took is not None, device.log()
                device.stop()
                if turn:  # The first reads the files from the disk.
                    found[name].append(took)
    return {
        name: {"median_ms": round(statistics.median(each)), "all_ms": [round(one) for one in each]}
        for name, each in found.items()
    }


def memory(pids: list[int]) -> dict[str, Any]:
    """Return what these processes have together, in MiB."""
    summed = memory_kib(pids)
    wanted = {"rss": "Rss", "pss": "Pss", "private_dirty": "Private_Dirty"}
    found = {f"{name}_mib": round(summed[key] / KIB, 1) for name, key in wanted.items()}
    return {"processes": len(pids), **found}


def idle(command: list[str]) -> dict[str, Any]:
    """Return the memory of an agent that is connected by TLS and has nothing to do."""
    with place() as (directory, broker, controller):
        device = tls_device(directory, broker, command)
        device.run()
        assert connected(device, controller) is not None, device.log()
        time.sleep(SETTLE_S)
        found = memory(processes_with(str(directory / "limpet.toml")))
        device.stop()
        return found


def tls_device(directory: Path, broker: TlsBroker, command: list[str]) -> Frozen:
    """Return an agent that is to connect by TLS."""
    device = Frozen(directory, broker, command)
    config = directory / "limpet.toml"
    config.write_text(broker.secured(config.read_text()))
    return device


def smallest_cap(file: Path) -> int | None:
    """Return the smallest cap in MiB in which it connects by TLS, tried downwards."""
    smallest = None
    for cap_mib in CAPS_MIB:
        with place() as (directory, broker, controller):
            device = tls_device(directory, broker, [str(unread_copy(file, directory))])
            cage = Alone(directory, cap_mib * MIB)
            device.command = cage.argv(*device.command)
            device.run()
            took = connected(device, controller, START_CAPPED_S)
            if took is None:
                device.kill()
            else:
                device.stop()
            cage.close()
            if took is None:
                return smallest
            smallest = cap_mib
    return smallest


def main() -> int:
    """Measure and write the results."""
    assert MOSQUITTO_PROGRAM.exists(), f"{MOSQUITTO_PROGRAM} is not installed"
    files = {each.name.rpartition("-")[2]: each for each in sorted(ROOT.glob("dist/limpet-*"))}
    file = files[MACHINE]
    measured: dict[str, Any] = {
        "bytes": {arch: each.stat().st_size for arch, each in files.items()},
        "start": starts([str(file)]),
        "idle_with_tls": idle([str(file)]),
        "smallest_cap_mib": smallest_cap(file),
    }
    results.write("frozen", "make measure-frozen", measured)
    return 0


if __name__ == "__main__":
    sys.exit(main())
