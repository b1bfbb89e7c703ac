"""The same faults for limpet and for the script that everybody writes: what happened to each.

`python tests/e2e/duel.py` writes `tests/results/duel.json`. A fault looks at the evidence outside:
lines that a step has written, processes that are there, messages that a controller has heard.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from brokers import Broker
from fleet import processes_with, until
from players import HANG_S, Limpet, Player, Script

import results

# Longest wait for something that may never come.
WAIT_S = 25.0
# After the first word about a task, for another that should not come.
QUIET_S = 6.0
PACKET_BYTES = 256 * 1000 * 1000
FOREVER_S = 3600.0

Facts = dict[str, Any]


def waited(condition: Callable[[], Any], seconds: float = WAIT_S) -> bool:
    """Say whether `condition` came to hold in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


class Step:
    """A step that leaves a line at each start, and processes that can be told by their name."""

    def __init__(self, player: Player, script: str) -> None:
        self.file = player.directory / "starts"
        # Shorter than any limit, longer than any wait here, and like no other process.
        self.mark = f"{100_000 + os.getpid() % 90_000}.{player.pid}"
        script = script.replace("MARK", self.mark)
        self.argv = ["/bin/sh", "-c", f"echo start >> {self.file}; {script}"]

    @property
    def starts(self) -> int:
        return len(self.file.read_text().splitlines()) if self.file.exists() else 0

    def processes(self) -> list[int]:
        return processes_with(self.mark)

    def end(self) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def killed_in_mid_step(player: Player, _broker: Broker) -> tuple[bool, Facts]:
    """The agent is killed while a step runs that must not run twice, and started again."""
    step = Step(player, "sleep MARK")
    player.send("t", step.argv, FOREVER_S, FOREVER_S)
    until(lambda: step.starts, "the step")
    player.kill()
    player.start()
    waited(lambda: player.told("t") or step.starts > 1)
    facts = {"starts": step.starts, "told": player.told("t"), "left": len(step.processes())}
    step.end()
    return facts["starts"] == 1 and bool(facts["told"]) and not facts["left"], facts


def redelivered(player: Player, _broker: Broker) -> tuple[bool, Facts]:
    """The same task arrives twice, as QoS 1 allows."""
    step = Step(player, "true")
    for _ in range(2):
        player.send("t", step.argv, 10, FOREVER_S)
    waited(lambda: player.told("t"))
    waited(lambda: step.starts > 1, QUIET_S)
    facts = {"starts": step.starts, "told": player.told("t")}
    return facts["starts"] == 1, facts


def outlived(player: Player, _broker: Broker) -> tuple[bool, Facts]:
    """A step is out of time, and has forked twice into a session that ignores SIGTERM."""
    step = Step(player, "(setsid sh -c 'trap \"\" TERM; sleep MARK' &); sleep MARK")
    began = time.monotonic()
    player.send("t", step.argv, 1, FOREVER_S)
    told = waited(lambda: player.told("t"))
    facts = {
        "told": player.told("t"),
        "told after s": round(time.monotonic() - began, 1) if told else None,
        "left": len(step.processes()),
    }
    step.end()
    return told and not facts["left"], facts


def oversized(player: Player, _broker: Broker) -> tuple[bool, Facts]:
    """Somebody sends 256 MB; then an ordinary task, again every five seconds until it is told."""
    before = memory_mb(player.pid, "VmRSS")
    player.flood(bytes(PACKET_BYTES))
    step = Step(player, "true")
    for _ in range(8):
        player.send("t", step.argv, 10, FOREVER_S)
        if waited(lambda: player.told("t"), 5):
            break
    grown = memory_mb(player.pid, "VmHWM") - before
    facts = {"told": player.told("t"), "memory grew MB": grown}
    return bool(facts["told"]) and grown < 32, facts


def stalled(player: Player, _broker: Broker) -> tuple[bool, Facts]:
    """Python hangs for ten seconds in a C call while a step's deadline of two seconds passes."""
    step = Step(player, "exec sleep MARK")
    player.send("t", step.argv, 2, FOREVER_S)
    until(step.processes, "the step")
    began = time.monotonic()
    (player.directory / "hang").touch()
    until((player.directory / "hangs").exists, "the hang")
    waited(lambda: not step.processes())
    late = max(0.0, time.monotonic() - began - 2)
    waited(lambda: player.told("t"))
    facts = {"told": player.told("t"), "deadline late by s": round(late, 1)}
    step.end()
    return late < 1, facts


def stale(player: Player, _broker: Broker) -> tuple[bool, Facts]:
    """A task expires while the device is away (a second stands for three days)."""
    step = Step(player, "true")
    player.stop()
    player.send("t", step.argv, 10, 1)
    time.sleep(2.5)
    player.start()
    waited(lambda: player.told("t"), 5)
    facts = {"starts": step.starts, "told": player.told("t")}
    return facts["starts"] == 0 and bool(facts["told"]), facts


def broker_restarted(player: Player, broker: Broker) -> tuple[bool, Facts]:
    """The broker, which keeps its sessions, restarts while a step runs for eight seconds."""
    step = Step(player, "sleep 8")
    player.send("t", step.argv, 60, FOREVER_S)
    until(lambda: step.starts, "the step")
    broker.stop()
    time.sleep(1)
    broker.start()
    waited(lambda: player.told("t"))
    waited(lambda: step.starts > 1, QUIET_S)
    facts = {"starts": step.starts, "told": player.told("t")}
    return facts["starts"] == 1 and bool(facts["told"]), facts


FAULTS = {
    "killed in mid-step": killed_in_mid_step,
    "the same task twice": redelivered,
    "double fork outlives a timeout": outlived,
    "a packet of 256 MB": oversized,
    f"Python hangs for {HANG_S} s": stalled,
    "a task that expired": stale,
    "broker restarted": broker_restarted,
}


def memory_mb(pid: int, field: str) -> int:
    """Return a field of the process's status, in MB; 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = dict(line.split(":", 1) for line in status.splitlines())
    return int(lines[field].split()[0]) // 1000 if field in lines else 0


def duel(faults: list[str]) -> list[Facts]:
    """Let both meet each fault with a broker of its own; return what happened."""
    told = []
    for name in faults:
        met = FAULTS[name]
        row: Facts = {"fault": name, "meaning": (met.__doc__ or "").strip()}
        for kind in (Limpet, Script):
            with tempfile.TemporaryDirectory() as directory:
                broker = Broker("mosquitto", "3.1.1", Path(directory))
                broker.start()
                player = kind(Path(directory), broker)
                player.start()
                try:
                    withstood, facts = met(player, broker)
                finally:
                    player.close()
                    broker.stop()
            row[kind.name] = {"withstood": withstood, **facts}
            sys.stderr.write(f"{name}: {kind.name}: {row[kind.name]}\n")
        told.append(row)
    return told


def main() -> int:
    """Run the whole of it, or the faults that are named."""
    named = sys.argv[1:]
    rows = duel(named or list(FAULTS))
    if not named:
        results.write("duel", "make duel", {"faults": rows})
    return int(not all(row["limpet"]["withstood"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
