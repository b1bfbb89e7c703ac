"""The proof: limpet beside what people run today, and beside what the machine can do at all.

`python tests/bench/bench.py` writes `tests/results/bench.json`; with `quick` it measures with small
counts and writes `build/bench/bench.json`. Who is compared is measured in turns: a repetition is
one turn of everybody. A figure is told with its unit, samples and percentiles, never judged here.
"""

from __future__ import annotations

import argparse
import collections
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import beginnings
import boundary
import flash
import footprint
import harness
import lateness
import machine
import targets
import ways
from harness import Facts, say
from targets import limpet

import results

FULL = {
    "repetitions": 5,
    # Of the machine.
    **{"syncs": 200, "spawns": 200, "echoes": 1000, "loops": 100, "cyclic": 10},
    # Of each target in each repetition: for rates of processes what takes a second or so.
    **{"warm": 20, "dispatch": 60, "exec": 1500, "three": 400, "noop": 3000},
    # Deadlines of each subject in each repetition: 2,000 in all.
    "deadlines": 400,
    # Memory.
    **{"idle": 60, "many": 100_000, "flood": 10000},
    **{"live": 1000, "grown": 200, "waiting": 4000, "flash": 100, "starts": 5, "batches": 3000},
}
QUICK = {
    "repetitions": 2,
    **{"syncs": 50, "spawns": 50, "echoes": 200, "loops": 20, "cyclic": 2},
    **{"warm": 3, "dispatch": 10, "exec": 80, "three": 20, "noop": 300},
    "deadlines": 48,
    **{"idle": 4, "many": 1000, "flood": 1000},
    **{"live": 128, "grown": 40, "waiting": 500, "flash": 20, "starts": 2, "batches": 300},
}
# As little as shows that everything runs.
TINY = {
    "repetitions": 1,
    **{"syncs": 5, "spawns": 5, "echoes": 10, "loops": 3, "cyclic": 1},
    **{"warm": 1, "dispatch": 2, "exec": 3, "three": 2, "noop": 5},
    "deadlines": 4,
    **{"idle": 0.5, "many": 20, "flood": 50},
    **{"live": 4, "grown": 5, "waiting": 10, "flash": 3, "starts": 1, "batches": 10},
}
# By the names of Debian's packages.
PROGRAMS = {
    "mosquitto": "mosquitto",
    "npm": "npm",
    "openssl": "openssl",
    "rt-tests": "cyclictest",
}
SIZES = {"full": FULL, "quick": QUICK, "tiny": TINY}


def gathered(repetitions: list[dict[str, list[float]]]) -> Facts:
    """Return a summary of each figure over its repetitions; its unit stands in its name."""
    every = collections.defaultdict(list)
    for one in repetitions:
        for name, values in one.items():
            every[name].append(values)
    told: Facts = {}
    for name, rounds in every.items():
        values = [value for part in rounds for value in part]
        unit = name.rpartition(", ")[2] if not name.endswith("at once") else "µs"
        told[name] = harness.summary(values, unit, [harness.median(part) for part in rounds])
        if unit == "µs":
            told[name]["histogram"] = harness.histogram(values)
    return told


def in_turns(counts: Facts, peers: list[Any]) -> Facts:
    """Measure the machine and every target, one repetition after the other."""
    machines, by_target = [], collections.defaultdict(list)
    for number in range(counts["repetitions"]):
        say(f"turn {number + 1} of {counts['repetitions']}: the machine")
        machines.append(machine.repetition(counts))
        # Nobody is always the first after somebody else.
        for kind in peers[number % len(peers) :] + peers[: number % len(peers)]:
            say(f"turn {number + 1}: {kind.name}")
            with harness.running(kind) as scene:
                told = ways.repetition(scene, counts)
            if targets.NOOP in kind.kinds:
                # No agent remembers the ids of all of these.
                with harness.running(kind) as scene:
                    told |= ways.rates(scene, [targets.NOOP], counts)
            by_target[kind.name].append(told)
    return {
        "machine": gathered(machines),
        "targets": {kind.name: gathered(by_target[kind.name]) for kind in peers},
    }


def deadlines(counts: Facts) -> Facts:
    """Measure who is late under the storm, one repetition after the other."""
    told = collections.defaultdict(list)
    subjects = lateness.subjects()
    for number in range(counts["repetitions"]):
        for kind in subjects:
            say(f"deadlines, turn {number + 1}: {kind.name}")
            told[kind.name].append(lateness.repetition(kind, counts["deadlines"], number))
    return {name: lateness.all_of(rounds) for name, rounds in told.items()}


def memory(counts: Facts, peers: list[Any]) -> Facts:
    """Measure what everybody has at rest and under load."""
    told: Facts = {"idle": {}, "life": {}}
    for kind in peers:
        say(f"memory at rest: {kind.name}")
        seconds = counts["idle"] if kind.durable else counts["idle"] / 3
        told["idle"][kind.name] = footprint.idle(limpet.as_shipped(kind), seconds)
    say("memory at rest: limpet with TLS")
    told["idle"]["limpet, TLS"] = footprint.idle(limpet.AsShipped, counts["idle"] / 2, tls=True)
    for kind in peers:
        say(f"memory under load: {kind.name}")
        told["life"][kind.name] = footprint.life(limpet.as_shipped(kind), counts)
    return told


def start(counts: Facts, peers: list[Any]) -> Facts:
    """Measure starts."""
    say("starts")
    shipped = {kind.name: limpet.as_shipped(kind) for kind in peers}
    warm = {name: beginnings.warm(kind, counts["starts"]) for name, kind in shipped.items()}
    few = min(3, counts["starts"])
    cold = {name: beginnings.cold(kind, few) for name, kind in shipped.items()}
    recovery = beginnings.recovery(limpet.Roomy, counts)
    return {"warm": warm, "cold": cold, "recovery": recovery, "imports": beginnings.imports()}


def sections(counts: Facts, peers: list[Any]) -> dict[str, Callable[[], Facts]]:
    """Return what there is to measure, in order; what needs a quiet machine least comes last."""
    durable = [kind for kind in peers if kind.durable]
    return {
        "lateness": lambda: deadlines(counts),
        "turns": lambda: in_turns(counts, peers),
        "growth": lambda: ways.growth(limpet.Roomy, counts),
        "memory": lambda: memory(counts, peers),
        "start": lambda: start(counts, peers),
        "flash": lambda: {kind.name: flash.measure(kind, counts) for kind in durable},
        "boundary": lambda: {
            str(at_once): boundary.measure(counts["batches"], at_once) for at_once in (1, 256)
        },
    }


def noise() -> Facts:
    """Return what else the machine does just now."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    ticks = dict(zip(names, map(int, fields), strict=False))
    return {"load": os.getloadavg()[0], "ticks": ticks}


def versions() -> Facts:
    """Return what took part."""

    def said(*argv: str) -> str:
        try:
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return "missing"
        return (done.stdout + done.stderr).strip().splitlines()[0]

    from importlib import metadata

    packages = {name: metadata.version(name) for name in ("paho-mqtt", "orjson", "aiomqtt")}
    return {
        **packages,
        "python": platform.python_version(),
        "mosquitto": said("/usr/sbin/mosquitto", "-h"),
        "node": said("node", "--version"),
        "node-red": targets.node_red.VERSION,
        "cargo": said("cargo", "--version"),
        "kernel": platform.release().partition("-")[0],
    }


def demand_programs() -> None:
    """Say at once what this machine lacks, with the packages that have it."""
    lacks = [package for package, program in PROGRAMS.items() if shutil.which(program) is None]
    if lacks or os.geteuid() != 0:
        how = f"apt install {' '.join(lacks)}" if lacks else "be root"
        raise SystemExit(f"cannot measure here: {how} (nothing is measured)")


def main() -> int:
    """Run the whole of it, or the sections that are named."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--size", choices=SIZES, default="full")
    asked.add_argument("sections", nargs="*")
    wanted = asked.parse_args()
    counts, began = SIZES[wanted.size], time.monotonic()
    harness.BUILT.mkdir(parents=True, exist_ok=True)
    harness.refuse_memory(harness.BUILT)
    demand_programs()
    peers = targets.known()
    told: Facts = {"size": wanted.size, "counts": counts, "noise": {"before": noise()}}
    told["machine's own loop"] = machine.cyclictest(counts["cyclic"])
    took = {}
    for name, measure in sections(counts, peers).items():
        if not wanted.sections or name in wanted.sections:
            since = time.monotonic()
            told[name] = measure()
            took[name] = round(time.monotonic() - since)
            say(f"{name} took {took[name]} s")
            # What was measured so far, if the rest goes wrong.
            results.write("so-far", "make bench", told, harness.BUILT)
    told["noise"]["after"] = noise()
    told |= {"seconds": round(time.monotonic() - began), "took": took, "versions": versions()}
    full = wanted.size == "full" and not wanted.sections
    command = "make bench" if wanted.size == "full" else f"make bench BENCH={wanted.size}"
    results.write("bench", command, told, results.DIRECTORY if full else harness.BUILT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
