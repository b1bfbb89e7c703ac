"""Caps under load: 32 MiB that an agent shares with its steps, and less for an agent alone.

`make capped` writes `tests/results/capped.json`, and for the single executable, which
LIMPET_FROZEN names, `make capped-frozen` writes `capped-frozen.json`. `TASKS`, `MESSAGES` and
`HOGS` are how many of each come in either case; hogs are steps that take ten times their memory,
one way or another. See `cage.py` for what is capped and what that needs.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from brokers import TlsBroker
from cage import Alone, Cage
from executable import unread_copy
from fleet import AGENT, CONFIG, DEVICE, Controller, Device, expiry, step, task, until
from liar import Front, Talk
from load import Load
from soak import nonsense

import results
from limpet.codec import frame

MIB = 1 << 20
FROZEN = os.environ.get("LIMPET_FROZEN")


class Case(NamedTuple):
    """What is capped, to how much, and whether by TLS: then the broker tells no lies in between."""

    cage: type[Cage]
    cap_bytes: int
    tls: bool = False


CASES = {
    "shared with the steps": Case(Cage, 32 * MIB),
    "the agent alone": Case(Alone, 20 * MIB, tls=True) if FROZEN else Case(Alone, 24 * MIB),
}
STEP_BYTES = 2 * MIB
OUTSTANDING_MAX = 24
EXPIRES_S = 20
SAMPLES = 40
# Between two lies of the broker.
HONEST_S = 30.0
LYING_S = 2.0
# The broker drops what it cannot keep: its queues are bounded too.
UNANSWERED_MAX = 400
CONNECTIONS_MAX = 20_000

LIMITS = """\
[limits]
segment = "1MiB"
tasks = 32
steps = 64
attempts = 4
ids = 2048

[limits.memory]
step = "2MiB"
"""

# The agent with a schedule that comes back at once: what is pressed is not its patience.
AGENT_SOON = f"""\
from limpet import backoff
backoff.Backoff.__init__.__defaults__ = (50, 100)
{AGENT}"""
KEEP = "head -c 10485760 /dev/zero | tail -n 1"
SHARE = "import mmap; m = mmap.mmap(-1, 20 << 20); m.write(bytes(20 << 20))"
# Each takes twenty MiB where it may have two.
HOGS = {
    # `tail` keeps a line until it ends, which this one never does.
    "line": ["/bin/sh", "-c", "head -c 20971520 /dev/zero | tail -n 1"],
    "word": ["/bin/sh", "-c", "x=xxxx; until [ ${#x} -gt 20000000 ]; do x=$x$x; done"],
    "share": [sys.executable, "-c", SHARE],
    "pair": ["/bin/sh", "-c", f"{KEEP} >/dev/null & {KEEP}"],
}


class Pressing(Load):
    """Counts ends by kind of task, and the nonsense that has no answer yet."""

    def __init__(self, port: int) -> None:
        # The most that steps of each kind were seen to have.
        self.peaks: dict[str, int] = {}
        self.over: set[str] = set()
        # Nonsense without an answer so far; a lie may have taken it.
        self.unanswered = 0
        super().__init__(port, "ops")

    def count(self, result: dict[str, Any]) -> None:
        self.over.add(result["id"])
        kind = result["id"].rpartition("-")[0]
        (end,) = {step["outcome"] for step in result["steps"]}
        self.ended[f"{kind} {end}"] += 1
        peaks = [step["peak_bytes"] or 0 for step in result["steps"]]
        self.peaks[kind] = max(self.peaks.get(kind, 0), *peaks)
        if end != ("out_of_memory" if kind in HOGS else "succeeded"):
            sys.stderr.write(f"{json.dumps(result)[:1500]}\n")

    def stray(self) -> None:
        self.unanswered -= 1


def document(task_id: str) -> bytes:
    """Return a task: a plain process, or a hog of the kind in its id."""
    kind = task_id.rpartition("-")[0]
    argv = HOGS.get(kind, ["/bin/true"])
    only = step("s", *argv, start_to_close="30s", on_interruption="rerun")
    return frame(json.dumps(task(task_id, [only], expires_at=expiry(EXPIRES_S))).encode())


def garbage(talk: Talk) -> None:
    """Say what is no packet at all."""
    talk.welcome()
    talk.say(os.urandom(4_000))
    talk.drain()


def flood(talk: Talk) -> None:
    """Send as fast as it goes and acknowledge nothing."""
    talk.acknowledges = False
    talk.welcome()
    for number in range(1, 3_000):
        talk.send(f"limpet/{DEVICE}/task/ops", b"x" * 8_000, number)


def announce(talk: Talk) -> None:
    """Announce a packet of 256 MiB."""
    talk.welcome()
    talk.say(b"\x30\xff\xff\xff\x7f", b"x" * 1_000_000)
    talk.drain()


LIES = (garbage, flood, announce)


class Scene:
    """The caged agent, its broker, the lies in between."""

    def __init__(self, directory: Path, case: Case) -> None:
        self._broker = TlsBroker(directory / "broker")
        self._broker.start()
        self.front = Front(self._broker.port, CONNECTIONS_MAX)
        self.lies = () if case.tls else LIES
        inner = directory / "device"
        inner.mkdir()
        self.device = Device(inner, self._broker if case.tls else self.front, "5")
        config = inner / "limpet.toml"
        settings = config.read_text()
        usual = CONFIG[CONFIG.index("[limits]") : CONFIG.index("[policy]")]
        settings = settings.replace(usual, LIMITS).replace('level = "warning"', 'level = "debug"')
        config.write_text(self._broker.secured(settings) if case.tls else settings)
        self.program = self._start(case)
        self.controller = Controller(self._broker)
        self.load = Pressing(self._broker.port)
        self.presence = self.controller.wait_online()
        self.controller.close()
        self.pid = self.cage.find(self.program)

    def _start(self, case: Case) -> str:
        """Start the agent in its cage, and return what it began as."""
        inner = self.device.directory
        if not FROZEN:
            self.cage = case.cage(inner, case.cap_bytes)
            self.device.start(AGENT_SOON, self.cage.argv)
            return sys.executable
        # Its pages are the cage's, too.
        program = str(unread_copy(Path(FROZEN), inner))
        words = ["run", "--config"]
        if self.lies:
            (inner / "soon.py").write_text(AGENT_SOON)
            words = ["worker", str(inner / "soon.py")]
        self.device.environment = {}
        self.cage = case.cage(inner, case.cap_bytes)
        self.device.start(inside=lambda *argv: self.cage.argv(program, *words, argv[-1]))
        return program

    def close(self) -> None:
        self.load.close()
        self.cage.close()
        self.front.close()
        self._broker.stop()

    def held(self) -> dict[str, int]:
        """Return what the agent's process holds just now, in KiB."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        of = dict(line.split(":", 1) for line in lines)
        return {
            "anonymous KiB": int(of["RssAnon"].split()[0]),
            "threads": int(of["Threads"]),
            "over": len(self.load.over),
        }


def names(tasks: int, hogs: int) -> list[str]:
    """Return the ids of all tasks, the hogs spread evenly among them."""
    kinds = list(HOGS)
    every = max(1, tasks // max(1, hogs))
    found: list[str] = []
    for number in range(tasks):
        found.append(f"task-{number}")
        if number % every == 0 and number // every < hogs:
            found.append(f"{kinds[number // every % len(kinds)]}-{number}")
    return found


def press(scene: Scene, tasks: int, messages: int, hogs: int) -> dict[str, Any]:
    """Keep all of it coming until every task has its result."""
    load, waiting = scene.load, names(tasks, hogs)[::-1]
    total, began, lied = len(waiting), time.monotonic(), time.monotonic()
    samples: list[dict[str, int]] = []
    nonsenses, lies, lying = 0, 0, False
    while waiting or load.open:
        assert scene.pid in scene.cage.pids(), "the agent is gone"
        now = time.monotonic()
        while waiting and len(load.open) < OUTSTANDING_MAX:
            load.open[waiting.pop()] = 0.0
        for task_id, due in list(load.open.items()):
            if now >= due:
                load.open[task_id] = now + EXPIRES_S
                load.send(document(task_id))
        target = messages * (len(load.over) + OUTSTANDING_MAX) // total
        for _ in range(min(target - nonsenses, UNANSWERED_MAX - load.unanswered)):
            load.send(nonsense(2 * nonsenses))
            load.unanswered += 1
            nonsenses += 1
        if scene.lies and now >= lied + HONEST_S:
            scene.front.tell(scene.lies[lies % len(scene.lies)])
            lies, lied, lying = lies + 1, now, True
        elif lying and now >= lied + LYING_S:
            scene.front.repent()
            lying, load.unanswered = False, 0
        if len(samples) < SAMPLES * len(load.over) // total:
            samples.append(scene.held())
            sys.stderr.write(f"{samples[-1]} {dict(load.ended)} {dict(load.refused)}\n")
        time.sleep(0.005)
    return {
        "tasks": tasks,
        "hogs": hogs,
        "messages": load.sent,
        "lies": lies,
        "outcomes": dict(sorted(load.ended.items())),
        "refused": dict(sorted(load.refused.items())),
        "peak bytes": dict(sorted(load.peaks.items())),
        "seconds": round(time.monotonic() - began),
        "samples": samples,
    }


def measure(directory: Path, case: str, tasks: int, messages: int, hogs: int) -> dict[str, Any]:
    """Start the agent in its cage and press it."""
    directory.chmod(0o755)
    (directory / "broker").mkdir()
    scene = Scene(directory, CASES[case])
    try:
        facts = scene.presence["facts"]
        told = {
            "cap bytes": CASES[case].cap_bytes,
            "memory": facts["memory"],
            "limits": facts["limits"],
        }
        told |= press(scene, tasks, messages, hogs)
        told["kernel kills"] = scene.cage.kills()
        told["peak charged bytes"] = scene.cage.peak_bytes()
        told["same process"] = scene.cage.find(scene.program) == scene.pid
        os.kill(scene.pid, signal.SIGTERM)
        until(lambda: not scene.cage.pids(), "the agent's end")
    except BaseException:
        sys.stderr.write(scene.device.log()[-4_000:])
        raise
    finally:
        scene.close()
    return told


def check(told: dict[str, Any]) -> None:
    """Hold what was measured against what is promised."""
    assert told["kernel kills"] == 0, told
    assert told["same process"], told
    assert set(told["outcomes"]) <= {"task succeeded"} | {f"{hog} out_of_memory" for hog in HOGS}
    assert sum(told["outcomes"].values()) == told["tasks"] + told["hogs"], told
    settled, last = told["samples"][len(told["samples"]) // 4], told["samples"][-1]
    assert last["anonymous KiB"] <= settled["anonymous KiB"] + 1024, told["samples"]
    assert last["threads"] == settled["threads"], told["samples"]


def main() -> int:
    """Run the whole of it."""
    counts = [int(os.environ.get(*usual)) for usual in USUAL]
    told = {}
    for case in CASES:
        with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
            told[case] = measure(Path(directory), case, *counts)
    name = "capped-frozen" if FROZEN else "capped"
    results.write(name, f"make {name}", told)
    for each in told.values():
        check(each)
    return 0


USUAL = (("TASKS", "10000"), ("MESSAGES", "200000"), ("HOGS", "500"))

if __name__ == "__main__":
    sys.exit(main())
