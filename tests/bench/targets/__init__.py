"""What is measured: each target is one file, and answers a command over MQTT with its result.

A new one is a class with these members, and a line in `known`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from brokers import Broker

ROOT = Path(__file__).resolve().parents[3]
# What a target is asked to run: a process; three, one after the other; nothing, but as a task.
EXEC, THREE, NOOP = "exec", "three", "noop"
# What a process runs where only their number counts.
PROGRAM = "/bin/true"
# What a Python program begins with that is to suffer.
STORM = f"""\
import sys
sys.path.insert(0, {str(Path(__file__).resolve().parents[1])!r})
import storm
storm.brew()
"""


class Command(NamedTuple):
    """How a command goes to a target, and how its result is told; see native/bench/src/load.rs."""

    send: str
    hear: list[str]
    result: str
    success: str
    template: str


class Target(Protocol):
    """One agent with a directory of its own."""

    name: str
    # Whether a task that was taken outlives the loss of power.
    durable: bool
    # Which of EXEC, THREE and NOOP it knows.
    kinds: frozenset[str]

    def __init__(self, directory: Path, broker: Broker) -> None:
        """Prepare whatever is prepared once; start nothing."""

    def start(self) -> None:
        """Start it; whoever measures waits for its subscription."""

    def stop(self) -> None:
        """End it, and everything that it has started."""

    def pids(self) -> list[int]:
        """Return all its processes."""

    def command(self, kind: str, argv: list[str]) -> Command:
        """Return the command for a task of `kind` that runs `argv`."""


class Process:
    """A target's process with its output in a file; the base of the adapters."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process: subprocess.Popen[bytes] | None = None
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT / "runtime")}
        # A shell whose input is a socket reads its user's files, which would be measured too.
        self.environment["HOME"] = str(directory)
        # What is measured has run before: without its byte code a Python compiles at each start
        # what it imports, which takes time and leaves 0.7 MB behind.
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def launch(self, argv: list[str]) -> None:
        with (self.directory / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(
                argv,
                env=self.environment,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """End it as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def pids(self) -> list[int]:
        found = [self.pid]
        for pid in found:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                found += map(int, children.read_text().split())
        return found


def script(program: Path, stormy: bool, *arguments: str) -> list[str]:
    """Return what runs a Python program; `stormy` with a storm in the same process."""
    if not stormy:
        return [sys.executable, str(program), *arguments]
    text = (
        f"{STORM}import runpy; sys.argv[0] = {str(program)!r}\n"
        f"runpy.run_path({str(program)!r}, run_name='__main__')"
    )
    return [sys.executable, "-c", text, *arguments]


def plain(kind: str, argv: list[str], **step: Any) -> Command:
    """Return the command for the scripts, which speak alike: `naive.py` of the end-to-end tests."""
    count = {EXEC: 1, THREE: 3, NOOP: 0}[kind]
    steps = [{"name": f"s{number}", "argv": argv, **step} for number in range(count)]
    template = json.dumps({"id": "@ID@", "steps": steps}).replace('"@TIMEOUT@"', "@MS@e-3")
    topic = "fleet/kitchen/result"
    return Command("fleet/kitchen/task", [topic], topic, '"succeeded"', template)


def known() -> list[type[Target]]:
    """Return all targets that this machine can run, in the order of the report."""
    from targets import limpet, node_red, scripts

    return [*limpet.known(), scripts.Naive, scripts.Asyncio, *node_red.known()]
