"""Tasks while the agent is killed, its broker restarted and its network cut: what came of each.

`python tests/e2e/chaos.py` runs the whole of it and writes `tests/results/chaos.json`; a test runs
a small one. Everything is real: agent, broker, processes, disk. `SEED` repeats the order of faults,
not the instants at which they strike.
"""

from __future__ import annotations

import collections
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from brokers import Broker
from fleet import Controller, Device, processes_with, step, task, until
from proxy import Proxy

# The device has room for 32 tasks; what is refused for want of room is sent again.
OUTSTANDING_MAX = 24
RESEND_S = 4.0
# After the last outcome, for results that a broker without persistence may have lost for good.
LATE_S = 10.0
TEMPORARY = ("busy_tasks", "busy_steps", "busy_bytes", "busy_ids", "busy_memory", "draining")


class Amount(NamedTuple):
    """How much of everything."""

    tasks: int
    kills: int
    broker_restarts: int
    link_faults: int


FULL = Amount(1000, 20, 5, 10)


class Sent:
    """One task and what was heard of it."""

    def __init__(self, document: dict[str, Any], stops: list[str]) -> None:
        self.document = document
        self.stops = stops
        self.sent_at = 0.0
        self.sends = 0
        self.accepted = False
        self.outcome: str | None = None
        self.results = 0
        # The broker lost what it held when this result was not heard yet.
        self.forgotten = False
        self.told_otherwise: set[str] = set()


class Chaos:
    """One run in `directory`."""

    def __init__(self, directory: Path, amount: Amount, seed: int) -> None:
        self.amount = amount
        self.chance = random.Random(seed)
        self.directory = directory
        self.broker = Broker("mosquitto", "5", directory)
        self.broker.start()
        self.proxy = Proxy(self.broker.port)
        self.device = Device(directory, self.proxy, "5")
        self.controller = Controller(self.broker, keeps_session=True)
        self.waiting = [self._draw(number) for number in range(amount.tasks)]
        self.sent: dict[str, Sent] = {}
        self.open: dict[str, Sent] = {}
        self.counts: collections.Counter[str] = collections.Counter()
        (directory / "runs").mkdir()

    def run(self) -> dict[str, Any]:
        """Do it all; return what came of it."""
        began = time.monotonic()
        self.device.start()
        faults = self._faults()
        total = self.amount.tasks
        try:
            while self.waiting or self.open:
                ended = total - len(self.waiting) - len(self.open)
                # Faults are spread over the tasks, so that each strikes while there is work.
                while faults and ended >= total * (1 - len(faults) / self._faults_count):
                    self._strike(faults.pop())
                self._send()
                self._hear()
                time.sleep(0.005)
                assert time.monotonic() - began < 3600, f"without an end: {list(self.open)}"
            until(lambda: not processes_with(str(self.directory / "runs")), "the last process")
            self._await_late_results()
        finally:
            self.device.stop()
            self.controller.close()
            self.proxy.close()
            self.broker.stop()
        return self._judge(time.monotonic() - began)

    # --- tasks ----------------------------------------------------------------------------------

    def _draw(self, number: int) -> Sent:
        task_id, steps, stops = f"chaos-{number}", [], []
        for place in range(self.chance.randint(1, 3)):
            name = f"s{place}"
            file = self.directory / "runs" / f"{task_id}.{name}"
            pause = self.chance.choice(["0", "0.05", "0.3"])
            # Each start leaves a line: that is the evidence.
            script = f"echo started >> {file}; sleep {pause}; exit {int(number % 17 == 5)}"
            rerun = self.chance.random() < 0.5
            kind = {"on_interruption": "rerun"} if rerun else {}
            steps.append(step(name, "/bin/sh", "-c", script, **kind))
            if not rerun:
                stops.append(name)
        return Sent(task(task_id, steps), stops)

    def _send(self) -> None:
        now = time.monotonic()
        while self.waiting and len(self.open) < OUTSTANDING_MAX:
            sent = self.waiting.pop()
            self.sent[sent.document["id"]] = self.open[sent.document["id"]] = sent
        for sent in self.open.values():
            if now - sent.sent_at > RESEND_S:
                sent.sent_at = now
                sent.sends += 1
                self.controller.send(sent.document)

    def _await_late_results(self) -> None:
        """An outcome may be known from a repeated answer before its result comes."""
        end = time.monotonic() + LATE_S
        while any(not sent.results for sent in self.sent.values()) and time.monotonic() < end:
            self._hear()
            time.sleep(0.05)

    def _hear(self) -> None:
        heard = self.controller.heard
        while heard:
            kind, body = heard.pop(0)
            sent = self.sent.get(body.get("id") or "")
            if sent is None or kind not in ("answer", "result"):
                continue
            if kind == "answer" and body["answer"] == "refused":
                self.counts[f"refused {body['code']}"] += 1
                assert body["code"] in TEMPORARY, body
                continue
            sent.accepted = True
            outcome = body.get("outcome")
            if kind == "result":
                sent.results += 1
            if outcome is not None:
                sent.told_otherwise.add(outcome)
                sent.outcome = outcome
                self.open.pop(body["id"], None)

    # --- faults ---------------------------------------------------------------------------------

    def _faults(self) -> list[str]:
        amount = self.amount
        names = ["kill"] * amount.kills
        names += [("restart", "forget")[n % 2] for n in range(amount.broker_restarts)]
        names += [("cut", "half_close", "delay")[n % 3] for n in range(amount.link_faults)]
        self.chance.shuffle(names)
        self._faults_count = len(names)
        return names

    def _strike(self, name: str) -> None:
        self.counts[name] += 1
        time.sleep(self.chance.random() * 0.5)
        if name == "kill":
            self.device.kill()
            self.device.start()
        elif name in ("restart", "forget"):
            self.controller.ready = False
            self.broker.stop()
            if name == "forget":
                self.broker.forget()
                for sent in self.sent.values():
                    sent.forgotten |= not sent.results
            self.broker.start()
            until(lambda: self.controller.ready, "the controller's return")
        elif name == "cut":
            self.proxy.cut()
        elif name == "half_close":
            self.proxy.half_close()
        else:
            self.proxy.delay(0.2)
            time.sleep(1)
            self.proxy.delay(0)

    # --- what came of it ------------------------------------------------------------------------

    def _judge(self, seconds: float) -> dict[str, Any]:
        every = list(self.sent.values())
        starts = {file.name: len(file.read_text().splitlines()) for file in self._evidence()}
        twice = [
            f"{sent.document['id']}.{name}"
            for sent in every
            for name in sent.stops
            if starts.get(f"{sent.document['id']}.{name}", 0) > 1
        ]
        return {
            "tasks": len(every),
            "accepted": sum(sent.accepted for sent in every),
            "with one outcome": sum(len(sent.told_otherwise) == 1 for sent in every),
            "results heard": sum(sent.results > 0 for sent in every),
            "results lost by the broker": sum(
                sent.forgotten and not sent.results for sent in every
            ),
            "outcomes": dict(collections.Counter(str(sent.outcome) for sent in every)),
            "stop steps started twice": len(twice),
            "steps started": len(starts),
            "starts of steps": sum(starts.values()),
            "results repeated": sum(max(0, sent.results - 1) for sent in every),
            "sent again": sum(sent.sends - 1 for sent in every),
            "faults and refusals": dict(self.counts),
            "faults in documents": self.controller.faults,
            "seconds": round(seconds, 1),
        }

    def _evidence(self) -> list[Path]:
        return sorted((self.directory / "runs").iterdir())


def check(told: dict[str, Any]) -> None:
    """Hold what came of a run against what must be."""
    tasks = told["tasks"]
    assert told["accepted"] == tasks, told
    assert told["with one outcome"] == tasks, told
    assert told["results heard"] + told["results lost by the broker"] == tasks, told
    assert told["stop steps started twice"] == 0, told
    assert set(told["outcomes"]) <= {"succeeded", "failed", "uncertain"}, told
    assert told["faults in documents"] == [], told


def main() -> int:
    """Run the whole of it."""
    import results

    seed = int(os.environ.get("SEED", "1"))
    tasks = int(os.environ.get("TASKS", str(FULL.tasks)))
    with tempfile.TemporaryDirectory() as directory:
        told = Chaos(Path(directory), FULL._replace(tasks=tasks), seed).run()
    results.write("chaos", f"make chaos SEED={seed}", told)
    check(told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
