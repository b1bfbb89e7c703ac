"""Every small change to native/core that cargo-mutants can think of, against the core's tests.

`make mutants-core` runs it; it takes its time. What no test notices must stand in `survivors.toml`
with the reason why none can, and what stands there must still survive: either difference ends the
run with 1. Places are compared without lines, which drift. `--again` leaves out what the last run
caught: for whoever has written tests since.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import results

ROOT = Path(__file__).resolve().parents[2]
SURVIVORS = Path(__file__).with_name("survivors.toml")
WORK = ROOT / "build" / "mutants-core"
CARGO = ROOT / "build" / "cargo" / "bin"

# The tests of the core end within seconds, of a busy machine within some more: what takes this long
# has lost its way, and is noticed.
TEST_TIMEOUT_S = 60
BUILD_TIMEOUT_S = 120
# Of the simulator: enough to notice, few enough for hundreds of runs.
SEEDS = 12
# How cargo-mutants names what came of one mutant, and how we do.
OUTCOMES = {"CaughtMutant": "caught", "MissedMutant": "survived", "Timeout": "hung"}

Mutation = tuple[str, str]


def hunt(again: bool) -> int:
    """Run cargo-mutants on the core; return its exit code."""
    if not again:
        shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True, exist_ok=True)
    # It copies the workspace alone, beneath TMPDIR; a test of the table looks beside it.
    shutil.copy(ROOT / "ARCHITECTURE.md", WORK)
    environment = {
        **os.environ,
        "PATH": f"{CARGO}:{os.environ['PATH']}",
        "TMPDIR": str(WORK),
        "SEEDS": str(SEEDS),
        "CARGO_PROFILE_DEV_DEBUG": "0",
        "CARGO_PROFILE_DEV_OPT_LEVEL": "0",
    }
    command = ["cargo", "mutants", "--package", "limpet-core", "--test-workspace=false"]
    # What is compiled for recordings only has its tests in the driver.
    command += ["--exclude", "core/src/runs.rs", "--cargo-arg=--locked", "--jobs", "2"]
    command += ["--timeout", str(TEST_TIMEOUT_S), "--build-timeout", str(BUILD_TIMEOUT_S)]
    command += ["--output", str(WORK), "--colors", "never"]
    command += ["--iterate"] if again else []
    return subprocess.run(command, cwd=ROOT / "native", env=environment).returncode


def read(outcomes: Path) -> tuple[Counter[str], Counter[Mutation]]:
    """Return how often each outcome came, and which mutants survived how often."""
    counts: Counter[str] = Counter()
    survived: Counter[Mutation] = Counter()
    for told in json.loads(outcomes.read_text())["outcomes"]:
        if told["scenario"] == "Baseline" or told["summary"] not in OUTCOMES:
            continue
        outcome = OUTCOMES[told["summary"]]
        counts[outcome] += 1
        if outcome == "survived":
            survived[named(told["scenario"]["Mutant"]["name"])] += 1
    return counts, survived


def caught_before() -> int:
    """Return how many the runs before this one have caught.

    cargo-mutants lists what did not build among them; each run adds that to a list of ours.
    """
    unviable, listed = WORK / "unviable.txt", WORK / "mutants.out" / "previously_caught.txt"
    with unviable.open("a") as file:
        file.write((WORK / "mutants.out" / "unviable.txt").read_text())
    before = set(listed.read_text().splitlines()) if listed.exists() else set()
    return len(before - set(unviable.read_text().splitlines()))


def named(name: str) -> Mutation:
    """Return file and change of what cargo-mutants calls `core/src/FILE:LINE:COLUMN: CHANGE`."""
    found = re.fullmatch(r"core/src/([^:]+):\d+:\d+: (.+)", name)
    if found is None:
        raise SystemExit(f"cannot read the mutant {name!r}: cargo-mutants names it otherwise")
    return found[1], found[2]


def explained() -> Counter[Mutation]:
    """Return which mutants may survive how often."""
    listed = tomllib.loads(SURVIVORS.read_text())["survivor"]
    return Counter({(one["file"], one["mutant"]): one.get("times", 1) for one in listed})


def main() -> int:
    """Run, compare, and write what came of it."""
    parser = argparse.ArgumentParser(description="Every small change to the core.")
    parser.add_argument("--again", action="store_true", help="leave out what was caught last time")
    again = parser.parse_args().again
    code = hunt(again)
    # 0: all were caught; 2: some survived; 3: some hung. The rest is no verdict on mutants.
    if code not in (0, 2, 3):
        return code
    counts, survived = read(WORK / "mutants.out" / "outcomes.json")
    counts["caught"] += caught_before()
    known = explained()
    for (file, mutant), times in (survived - known).items():
        print(f"survived without a reason, {times} times: {file}: {mutant}")
    for (file, mutant), times in (known - survived).items():
        print(f"has a reason and does not survive, {times} times: {file}: {mutant}")
    measured = {**counts, "survived without a reason": (survived - known).total()}
    command = "make mutants-core" + (" AGAIN=1" if again else "")
    results.write("mutants-core", command, measured)
    return int(survived != known)


if __name__ == "__main__":
    sys.exit(main())
