"""Deadlines while a thread of the agent is held up: how late each was, seen from outside.

`python tests/e2e/stalls.py` holds each thread several times and writes `tests/results/stalls.json`;
tests run each scenario once and judge order and outcomes alone. An instant of evidence is what a
step's own process writes down when it is asked to go, and what the kernel says about its death.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import holds
from brokers import Broker
from fleet import PATIENCE_S, SOURCE, Controller, Device, step, task, until
from proxy import Proxy

import results
from limpet.controller import explain
from limpet.native import journal

RUNS = 5
PYTHON_HELD_S = 10.0
HELPER_HELD_S = 5.0
# The promise.
LATE_MS_MAX = 20.0
TIMEOUTS_MS = (1500, 1750, 2000)
GRACE_MS = 500

# Says when it began and when it was asked to go; goes only when it is killed. In C, so that it has
# begun before the shortest deadline, however busy the machine is.
CLOCKED = """\
#include <signal.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
static void say(FILE *file, int what) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    fprintf(file, "%d %lld\\n", what, now.tv_sec * 1000000000LL + now.tv_nsec);
    fflush(file);
}
int main(int count, char **arguments) {
    int signal;
    sigset_t term;
    FILE *file = count == 2 ? fopen(arguments[1], "w") : NULL;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    if (file == NULL || sigprocmask(SIG_BLOCK, &term, NULL) != 0)
        return 1;
    say(file, getpid());
    if (sigwait(&term, &signal) != 0)
        return 1;
    say(file, signal);
    for (;;)
        pause();
}
"""
# How late the machine wakes a process that only sleeps; ends with its input.
BASELINE = """\
import select, sys, time
late = []
while True:
    due = time.monotonic() + 0.1
    if select.select([sys.stdin], [], [], 0.1)[0]:
        break
    late.append((time.monotonic() - due) * 1000)
print(*late)
"""

Facts = dict[str, Any]
Hold = contextlib.AbstractContextManager[None]


class Clocked:
    """One process with a deadline, which asks it to go and then ends it."""

    def __init__(self, directory: Path, name: str, timeout_ms: int) -> None:
        self.name = name
        self._program = directory / "clocked"
        self._timeout_ms = timeout_ms
        self._file = directory / f"{name}.said"
        self._pidfd = -1
        self._died_ns = 0

    def step(self) -> Facts:
        argv = [str(self._program), str(self._file)]
        clocks = {"start_to_close": f"{self._timeout_ms}ms", "grace": f"{GRACE_MS}ms"}
        return step(self.name, *argv, **clocks, allow_failure=True)

    def _said(self) -> list[list[str]]:
        text = self._file.read_text() if self._file.exists() else ""
        return [line.split() for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def await_start(self) -> None:
        until(self._said, f"the start of {self.name}")
        self._pidfd = os.pidfd_open(int(self._said()[0][0]))

    def await_end(self) -> None:
        """Wait until it was asked to go and is dead."""
        death = select.poll()
        death.register(self._pidfd, select.POLLIN)
        assert death.poll(PATIENCE_S * 1000), f"{self.name} lives on"
        self._died_ns = time.time_ns()
        os.close(self._pidfd)

    def asked_ns(self) -> int:
        """Wall time at which it was asked to go."""
        (_, _began), (asked, asked_at) = self._said()
        assert int(asked) == signal.SIGTERM, asked
        return int(asked_at)

    def deadlines(self, result: Facts) -> list[Facts]:
        """Hold what was told about it against what was seen; return how late each deadline was."""
        told = next(one for one in result["steps"] if one["name"] == self.name)
        assert (told["outcome"], told["clock"]) == ("timed_out", "start_to_close"), told
        # Its clock starts before its process does: nothing is gained by a start told too late.
        due_ns = (told["started_ms"] + self._timeout_ms) * 1_000_000
        assert told["started_ms"] * 1_000_000 <= int(self._said()[0][1]), told
        killed_due_ns = due_ns + GRACE_MS * 1_000_000
        return [
            {"deadline": "TERM", "late ms": (self.asked_ns() - due_ns) / 1e6},
            {"deadline": "KILL", "late ms": (self._died_ns - killed_due_ns) / 1e6},
        ]


class Bench:
    """A broker, a network that can be cut, an agent that can be held up, and a controller."""

    def __init__(self, directory: Path, broker: Broker) -> None:
        self.directory = directory
        self.proxy = Proxy(broker.port)
        self.device = Device(directory, self.proxy, broker.protocol, host="localhost")
        holds.make_holdable(self.device)
        holds.compile_c(CLOCKED, directory / "clocked")
        self.controller = Controller(broker)

    def start(self) -> None:
        self.device.start(holds.HOLDABLE_AGENT)
        self.controller.wait_online()

    def close(self) -> None:
        self.device.stop()
        self.controller.close()
        self.proxy.close()

    def threads(self, name: str) -> Hold:
        return holds.stopped(*holds.threads(self.device, name))

    def python(self) -> Hold:
        assert self.device.process is not None
        return holds.stopped(self.device.process.pid)

    def finished_on_disk(self, task_id: str) -> bool:
        """Whether the journal says that nothing of the task is left to do."""
        records = journal.records(str(self.directory / "state" / "journal"))
        story = explain.find(records, f"{SOURCE}/{task_id}")
        return any(record["record"] == "finished" for record in story)


def python_held(bench: Bench, hold: Hold, seconds: float = 0) -> list[Facts]:
    """Five steps with references, a retry, a timeout and a `finally` run while Python does not."""
    late = Clocked(bench.directory, "late", TIMEOUTS_MS[0])
    bench.controller.send(five_steps(bench.directory, late))
    bench.controller.wait("answer", "five")
    with hold:
        end = time.monotonic() + seconds
        (bench.directory / "go").touch()
        late.await_start()
        late.await_end()
        until(lambda: bench.finished_on_disk("five"), "the durable end")
        assert (bench.directory / "cleaned").read_text() == "n is 7"
        time.sleep(max(0.0, end - time.monotonic()))
        assert bench.controller.all("result", "five") == []
    result = bench.controller.wait("result", "five")
    told = {one["name"]: one for one in result["steps"]}
    assert result["outcome"] == "succeeded", result
    outcomes = {name: (one["outcome"], one["attempts"]) for name, one in told.items()}
    once = ("succeeded", 1)
    assert outcomes == {
        "wait": once,
        "again": ("succeeded", 2),
        "late": ("timed_out", 1),
        "say": once,
        "end": once,
        "clean": once,
    }, result
    assert told["end"]["stdout"]["head"] == "late: timed_out, n is 7\n"
    return late.deadlines(result)


def five_steps(directory: Path, late: Clocked) -> Facts:
    """A task that waits for the file `go`."""
    go, tried, cleaned = (directory / name for name in ("go", "tried", "cleaned"))
    wait = f'while [ ! -e {go} ]; do sleep 0.05; done; echo \'{{"result": {{"n": 7}}}}\' >&3'
    fails_once = f'[ -e {tried} ] && echo "n is $1" && exit 0; touch {tried}; exit 1'
    retry = {"maximum_attempts": 2, "initial_interval": "200ms", "jitter": 0}
    n = "${steps.wait.result.n}"
    again = ["/bin/sh", "-c", fails_once, "again", n]
    said = "late: ${steps.late.outcome}, ${steps.say.stdout}"
    steps = [
        step("wait", "/bin/sh", "-c", wait),
        step("again", *again, retry=retry, on_interruption="rerun"),
        late.step(),
        step("say", "/bin/echo", f"n is {n}"),
        step("end", "/bin/echo", said, when={"step": "late", "outcome": "timed_out", "is": True}),
    ]
    clean = ["/bin/sh", "-c", f'printf %s "$1" > {cleaned}', "clean", "${steps.again.stdout}"]
    return task("five", steps, **{"finally": [step("clean", *clean)]})


def helper_held(bench: Bench, hold: Hold, seconds: float = 0) -> list[Facts]:
    """Three processes run into their deadlines while one of the agent's threads is held."""
    every = [Clocked(bench.directory, f"t{ms}", ms) for ms in TIMEOUTS_MS]
    for one in every:
        bench.controller.send(task(one.name, [one.step()]))
    for one in every:
        one.await_start()
    with hold:
        began_ns, end = time.time_ns(), time.monotonic() + seconds
        for one in every:
            one.await_end()
        time.sleep(max(0.0, end - time.monotonic()))
        # On a busy machine a deadline may have passed before: it says nothing about this hold.
        inside = [one for one in every if one.asked_ns() >= began_ns]
        assert not [one.name for one in inside if bench.controller.all("result", one.name)]
    late = {one: one.deadlines(bench.controller.wait("result", one.name)) for one in every}
    return [deadline for one in inside for deadline in late[one]]


Scenario = Callable[[Bench, float], list[Facts]]


def _python(hold: Callable[[Bench], Hold]) -> Scenario:
    return lambda bench, seconds: python_held(bench, hold(bench), seconds)


def _helper(hold: Callable[[Bench], Hold]) -> Scenario:
    return lambda bench, seconds: helper_held(bench, hold(bench), seconds)


def _threads(name: str) -> Scenario:
    return _helper(lambda bench: bench.threads(name))


SCENARIOS: dict[str, tuple[Scenario, float]] = {
    "a C call holds the GIL": (_python(lambda bench: holds.gil(bench.device)), PYTHON_HELD_S),
    "Python's thread is stopped": (_python(Bench.python), PYTHON_HELD_S),
    "the journal's thread is stopped": (_threads("limpet-journal"), HELPER_HELD_S),
    "the spawners' threads are stopped": (_threads("limpet-spawner"), HELPER_HELD_S),
    "the uplink's thread is stopped": (_threads("uplink"), HELPER_HELD_S),
    "the lookup of the broker's name hangs": (
        _helper(lambda bench: holds.lookup(bench.device, bench.proxy)),
        HELPER_HELD_S,
    ),
    "the broker accepts and is silent": (
        _helper(lambda bench: holds.silence(bench.proxy)),
        HELPER_HELD_S,
    ),
}


def run(name: str, broker: Broker, directory: Path, long: bool = True) -> list[Facts]:
    """Let one scenario happen; `long` as it is measured, or only as long as it needs."""
    scenario, seconds = SCENARIOS[name]
    bench = Bench(directory, broker)
    try:
        bench.start()
        return scenario(bench, seconds if long else 0)
    except BaseException:
        print(bench.device.log())
        raise
    finally:
        bench.close()


class Baseline:
    """A process beside everything else, which says how late the machine woke it each time."""

    def __init__(self) -> None:
        argv = [sys.executable, "-c", BASELINE]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def end(self) -> list[float]:
        said, _ = self._process.communicate()
        return [float(word) for word in said.split()]


def spread(late: list[float]) -> Facts:
    """Return what is told of many distances, in ms."""
    ordered = sorted(late)
    return {
        "count": len(ordered),
        "earliest ms": round(ordered[0], 1),
        "median ms": round(statistics.median(ordered), 1),
        "99 of 100 ms": round(ordered[len(ordered) * 99 // 100], 1),
        "latest ms": round(ordered[-1], 1),
        f"above {LATE_MS_MAX:g} ms": sum(ms > LATE_MS_MAX for ms in ordered),
    }


def measure(name: str) -> Facts:
    """Let one scenario happen `RUNS` times beside a baseline of the machine."""
    baseline, late = Baseline(), []
    for number in range(RUNS):
        with tempfile.TemporaryDirectory() as directory:
            broker = Broker("mosquitto", "5", Path(directory))
            broker.start()
            try:
                deadlines = run(name, broker, Path(directory))
            finally:
                broker.stop()
        late += [one["late ms"] for one in deadlines]
        sys.stderr.write(f"{name}, {number + 1} of {RUNS}: {deadlines}\n")
    held_s = SCENARIOS[name][1]
    told = {"held": name, "seconds": held_s, "runs": RUNS}
    return {**told, "deadlines": spread(late), "a process that sleeps": spread(baseline.end())}


def main() -> int:
    """Run the whole of it, or the scenarios that are named."""
    named = sys.argv[1:]
    rows = [measure(name) for name in named or SCENARIOS]
    if not named:
        results.write("stalls", "make stalls", {"late ms at most": LATE_MS_MAX, "stalls": rows})
    latest = max(row["deadlines"]["latest ms"] for row in rows)
    if latest > LATE_MS_MAX:
        sys.stderr.write(f"a deadline was {latest} ms late (the promise is {LATE_MS_MAX:g})\n")
    return int(latest > LATE_MS_MAX)


if __name__ == "__main__":
    sys.exit(main())
