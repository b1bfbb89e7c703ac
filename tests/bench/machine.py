"""What the machine itself can do: nobody's agent is faster than this, in the same minutes."""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path

import harness
import targets
from harness import Facts

# Nothing but the broker: what is published comes back to whoever published it.
ECHO = targets.Command("echo", ["echo"], "echo", "id", '{"id":"@ID@"}')
SPAWNS_AT_ONCE = (1, 16)


def readings(file: Path, count: int) -> list[int]:
    """Return what `child` wrote down, by number."""
    return list(struct.unpack(f"={count}q", file.read_bytes()[: count * 8]))


def blank(directory: Path, count: int) -> Path:
    """Return a new file with room for what `count` children write down."""
    file = directory / "readings"
    file.write_bytes(bytes(count * 8))
    return file


def repetition(counts: Facts) -> dict[str, list[float]]:
    """Measure everything once; each figure by its name, in its unit."""
    with harness.place() as directory:
        syncs = harness.numbers(harness.probe("syncs"), directory / "synced", counts["syncs"])
        told: dict[str, list[float]] = {"write and fdatasync, µs": [ns / 1e3 for ns in syncs]}
        child, spawns = harness.probe("child"), harness.probe("spawns")
        count = counts["spawns"]
        file = blank(directory, count)
        *began, _ = harness.numbers(spawns, 1, count, child, file, "@N@")
        first = [read - begun for read, begun in zip(readings(file, count), began, strict=True)]
        told["posix_spawn to first instruction, µs"] = [ns / 1e3 for ns in first]
        for at_once in SPAWNS_AT_ONCE:
            *_, all_ns = harness.numbers(spawns, at_once, count * 2, targets.PROGRAM)
            told[f"posix_spawn, {at_once} at once, processes/s"] = [count * 2 / all_ns * 1e9]
        with harness.broker(directory) as broker:
            echo = harness.load(broker.port, ECHO, counts["echoes"], 1)
            told["broker, there and back, µs"] = [ns / 1e3 for ns in echo["latency_ns"]]
            many = harness.load(broker.port, ECHO, counts["echoes"] * 10, 64)
            told["broker, 64 under way, messages/s"] = [many["results"] / many["seconds"]]
    for policy in ("other", "fifo"):
        late = harness.numbers(harness.probe("deadlines"), policy, counts["loops"], 1)
        told[f"C loop at rest, {policy}, µs"] = [ns / 1e3 for ns in late]
    return told


def cyclictest(seconds: int) -> Facts:
    """Return what rt-tests' own loop says of this machine, in SCHED_FIFO."""
    with harness.place() as directory:
        file = directory / "cyclic.json"
        argv = [
            "cyclictest",
            "-m",
            "-p50",
            "-i1000",
            f"-D{seconds}",
            "-h20000",
            "-q",
            f"--json={file}",
        ]
        subprocess.run(argv, check=True, capture_output=True)
        thread = json.loads(file.read_text())["thread"]["0"]
    late = [float(us) for us, count in thread["histogram"].items() for _ in range(count)]
    return harness.summary([*late, float(thread["max"])], "µs")
