"""A task drawn from a seed, and how its processes will behave."""

from __future__ import annotations

import random
import time
from typing import Any, NamedTuple

from limpet import codec

HOUR_MS = 3_600_000


class Behaviour(NamedTuple):
    """What one attempt's process does; `lasts_ms` None is for ever."""

    fails_to_start: bool = False
    lasts_ms: int | None = 100
    code: int = 0
    says: str = ""


class Plan:
    """One task: its document and the behaviours of each step's attempts, the last one for all more.

    `calm` is the outcome if nothing disturbs it.
    """

    def __init__(self, task_id: str, steps: list[dict[str, Any]], priority: int) -> None:
        self.id = task_id
        self.steps = steps
        self.priority = priority
        self.finally_steps: list[dict[str, Any]] = []
        self.behaviours: dict[str, list[Behaviour]] = {}
        self.calm = "succeeded"
        self.conflicts = False
        self.cancel_after_ms: int | None = None

    @property
    def stops(self) -> set[str]:
        """Names of the steps that must never run twice."""
        every = self.steps + self.finally_steps
        return {step["name"] for step in every if step.get("on_interruption", "stop") == "stop"}

    def message(self, wall_ms: int) -> bytes:
        """Return the same bytes at every call."""
        return codec.frame(codec.encode(self._document(wall_ms, self.priority)))

    def other_message(self, wall_ms: int) -> bytes:
        """Return another task that claims the same id."""
        return codec.frame(codec.encode(self._document(wall_ms, self.priority + 1)))

    def cancel_message(self, wall_ms: int) -> bytes:
        """Return a cancel by the task's source or by an operator."""
        expires_at = _instant(wall_ms + 2 * HOUR_MS)
        body = {"limpet": 1, "id": self.id, "source": "ops", "expires_at": expires_at}
        return codec.frame(codec.encode(body))

    def _document(self, wall_ms: int, priority: int) -> dict[str, Any]:
        return {
            "limpet": 1,
            "id": self.id,
            "expires_at": _instant(wall_ms + 2 * HOUR_MS),
            "priority": priority,
            "steps": self.steps,
            "finally": self.finally_steps,
        }


def draw(chance: random.Random, number: int) -> Plan:
    """Draw a task of one to four steps."""
    plan = Plan(f"t-{number}", [], chance.randint(-2, 2))
    for place in range(chance.randint(1, 4)):
        name = f"s{place}"
        if chance.random() < 0.15:
            duration = f"{chance.randint(1, 9)}s"
            sleep = {"name": name, "tool": "sleep", "input": {"duration": duration}}
            plan.steps.append({**sleep, "on_interruption": "rerun"})
            continue
        rerun = chance.random() < 0.6
        attempts = chance.randint(1, 3) if rerun else 1
        plan.steps.append(_step(plan.id, name, rerun, attempts))
        plan.behaviours[name] = _behaviours(chance, attempts)
        if plan.calm == "succeeded":
            plan.calm = _calm(plan.behaviours[name], attempts)
    if chance.random() < 0.5:
        plan.finally_steps.append(_step(plan.id, "last", chance.random() < 0.5, 1))
        plan.behaviours["last"] = [Behaviour(lasts_ms=chance.randint(1, 2_000))]
    plan.conflicts = chance.random() < 0.2
    if chance.random() < 0.2:
        plan.cancel_after_ms = chance.randint(0, 60_000)
    return plan


def _step(task_id: str, name: str, rerun: bool, attempts: int) -> dict[str, Any]:
    step: dict[str, Any] = {
        "name": name,
        "tool": "exec",
        "input": {"argv": ["/bin/step", task_id, name]},
        "start_to_close": "20s",
        "grace": "1s",
    }
    if rerun:
        step["on_interruption"] = "rerun"
        step["retry"] = {"maximum_attempts": attempts, "initial_interval": "500ms"}
    return step


def _behaviours(chance: random.Random, attempts: int) -> list[Behaviour]:
    drawn = []
    for _ in range(attempts):
        kind = chance.random()
        lasts_ms = int(1.5 ** chance.randint(1, 23))
        if kind < 0.75:
            drawn.append(Behaviour(lasts_ms=lasts_ms))
        elif kind < 0.9:
            drawn.append(Behaviour(lasts_ms=lasts_ms, code=3))
        elif kind < 0.95:
            drawn.append(Behaviour(lasts_ms=None))
        else:
            drawn.append(Behaviour(fails_to_start=True))
    return drawn


def _calm(behaviours: list[Behaviour], attempts: int) -> str:
    """Return how a task ends by a step that nothing disturbs."""
    good = (b for b in behaviours[:attempts] if b.lasts_ms is not None and not b.fails_to_start)
    return "succeeded" if any(b.code == 0 for b in good) else "failed"


def _instant(wall_ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall_ms // 1000))
