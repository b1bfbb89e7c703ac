"""What must hold, judged from outside: what was sent, what ran, what was said. Shares no code with
the agent.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from plan import Behaviour, Plan

# Unclean ends of the agent in one boot, with an attempt in flight, after which a task is given up.
SUSPICIONS = 3


class Oracle:
    """The facts of one history, and the judgement of them."""

    def __init__(self) -> None:
        self.plans: dict[str, Plan] = {}
        self.answers: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.results: dict[str, list[bytes]] = defaultdict(list)
        self.spawns: dict[tuple[str, str], int] = defaultdict(int)
        # Tasks with a process that may live, how often an unclean end met one, and the tasks that
        # were alive when the agent was asked to end.
        self.in_flight: set[str] = set()
        self.met: dict[str, int] = defaultdict(int)
        self.drained: set[str] = set()
        self.cancels: set[str] = set()

    def plan(self, plan: Plan) -> None:
        """Learn of a task that will be sent."""
        self.plans[plan.id] = plan

    # --- facts ----------------------------------------------------------------------------------

    def spawned(self, task_id: str, name: str) -> Behaviour:
        """Note that a process was asked for; return how it behaves."""
        plan = self.plans[task_id]
        assert not self.results[task_id], f"{task_id} runs after its result"
        assert self._accepted(task_id) or not self._refusals(task_id), f"{task_id} was refused"
        behaviours = plan.behaviours[name]
        behaviour = behaviours[min(self.spawns[task_id, name], len(behaviours) - 1)]
        self.spawns[task_id, name] += 1
        self.in_flight.add(task_id)
        if name in plan.stops:
            assert self.spawns[task_id, name] == 1, f"{task_id} {name} must stop and ran twice"
        return behaviour

    def draining(self) -> None:
        """Note that the agent was asked to end: what does not end by itself in time is stopped."""
        self.drained |= {task_id for task_id in self.plans if not self.results[task_id]}

    def killed(self) -> None:
        """Note that the agent is gone and every process with it."""
        for task_id in self.in_flight:
            self.met[task_id] += 1
        self.in_flight.clear()

    def cancelled(self, task_id: str) -> None:
        """Note that a cancel was sent."""
        self.cancels.add(task_id)

    def heard(self, topic: str, payload: bytes) -> None:
        """Note what the device said."""
        kind = topic.split("/")[2]
        if kind not in ("answer", "result"):
            return
        body = json.loads(payload)
        if kind == "result":
            self.in_flight.discard(body["id"])
            self.results[body["id"]].append(payload)
        elif body["request"] == "task":
            self.answers[body["id"]].append(body)

    # --- judgement ------------------------------------------------------------------------------

    def answered(self, task_id: str) -> bool:
        """Say whether its controller knows that the task arrived, or that it never will."""
        return self._accepted(task_id) or bool(self._refusals(task_id))

    def settled(self) -> bool:
        """Say whether every task has all that it was promised."""
        return all(
            self.answered(task_id) and (self.results[task_id] or not self._accepted(task_id))
            for task_id in self.plans
        )

    def judge(self, plans: list[Plan], left: dict[str, int]) -> None:
        """Hold the whole history against the promises."""
        assert not any(left.values()), f"the agent still holds {left}"
        for plan in plans:
            self._judge(plan)

    def _judge(self, plan: Plan) -> None:
        assert self.answered(plan.id), f"{plan.id} was never answered"
        if not self._accepted(plan.id):
            codes = {answer["code"] for answer in self._refusals(plan.id)}
            assert codes == {"cancelled_before"} and plan.id in self.cancels, (plan.id, codes)
            assert not self.results[plan.id], f"{plan.id} was refused and has a result"
            return
        results = self.results[plan.id]
        assert results, f"{plan.id} was accepted and has no result"
        assert len(set(results)) == 1, f"{plan.id} has two results: {set(results)}"
        outcome = json.loads(results[0])["outcome"]
        allowed = {plan.calm}
        if plan.id in self.cancels:
            allowed.add("cancelled")
        if self.met[plan.id] or plan.id in self.drained:
            # Work that was cut short: told as uncertain, or done again with the next behaviour.
            allowed |= {"uncertain", "succeeded", "failed"}
        if self.met[plan.id] >= SUSPICIONS:
            allowed.add("dead")
        assert outcome in allowed, f"{plan.id} ended {outcome}, may {allowed}"

    def _accepted(self, task_id: str) -> bool:
        return any(answer["answer"] in ("accepted", "known") for answer in self.answers[task_id])

    def _refusals(self, task_id: str) -> list[dict[str, Any]]:
        """Return the refusals that are for good and about the task itself."""
        other = ("id_conflict", "expired", "draining")
        answers = [answer for answer in self.answers[task_id] if answer["answer"] == "refused"]
        return [a for a in answers if a["code"] not in other and a["code"][:5] != "busy_"]
