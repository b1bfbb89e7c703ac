"""Who looks at this device's memory by the broker, for how long, and what a picture of it holds.

Decides who may look (whoever the policy lets do something), who is shown whose steps, and when a
picture is due. Knows no broker, and reads no memory itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limpet import task, topics
from limpet.errors import TaskError
from limpet.policy import ANY
from limpet.report import build_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from limpet.policy import Policy

# Each costs a publication a second; a fleet has one person who looks, and perhaps a dashboard.
LOOKERS_MAX = 4
# The core renews its rows so often; the first come a moment after it was asked.
INTERVAL_MS = 1_000
FIRST_MS = 250


class Looks:
    """The sources that look now. Times are milliseconds of a steady clock."""

    __slots__ = ("_due_ms", "_policy", "_until_ms", "_view")

    def __init__(self, policy: Policy, view: Callable[[], dict[str, Any]]) -> None:
        """`view` returns the newest picture, as `picture` makes it."""
        self._policy = policy
        self._view = view
        self._until_ms: dict[str, int] = {}
        self._due_ms = 0

    def begin(self, source: str, document: object, now_ms: int) -> None:
        """Let `source` look for as long as the message `document` says; TaskError refuses it."""
        for_ms = task.compile_look(document)
        if not self._may(source):
            raise TaskError("not_allowed", f"source: {source} may do nothing here")
        if source not in self._until_ms and len(self._until_ms) >= LOOKERS_MAX:
            raise TaskError("busy_looks", f"source: {LOOKERS_MAX} others look already")
        if not self._until_ms:
            self._view()
            self._due_ms = now_ms + FIRST_MS
        self._until_ms[source] = max(self._until_ms.get(source, 0), now_ms + for_ms)

    def take(self, now_ms: int) -> list[tuple[str, bytes]]:
        """Return the sources that are to be shown a picture now, each with its document."""
        if not self._until_ms or now_ms < self._due_ms:
            return []
        self._due_ms = now_ms + INTERVAL_MS
        view = self._view()
        shown = [
            (source, build_memory(source, view if self._sees_all(source) else only(view, source)))
            for source, until_ms in self._until_ms.items()
            if now_ms < until_ms
        ]
        # Whose time ends before the next picture gets none: nothing wakes the agent for it.
        self._until_ms = {
            source: until_ms
            for source, until_ms in self._until_ms.items()
            if until_ms > self._due_ms
        }
        return shown

    def end(self) -> None:
        """Show nobody anything more."""
        self._until_ms.clear()

    @property
    def deadline_ms(self) -> int | None:
        """When `take` has something next; None while nobody looks."""
        return self._due_ms if self._until_ms else None

    def _may(self, source: str) -> bool:
        """Say whether the policy lets `source` do anything; by the broker nobody is `local`."""
        rules = self._policy.table["allow"]
        allowed = any(rule["source"] in (source, ANY) and rule["tools"] for rule in rules)
        return source != topics.LOCAL and (allowed or self._sees_all(source))

    def _sees_all(self, source: str) -> bool:
        return source in self._policy.operators


def picture(
    device: str,
    opened: dict[str, Any],
    rows: dict[str, Any],
    used_bytes: int,
    refusing: str | None,
) -> dict[str, Any]:
    """Return what the agent and every attempt that runs a process have, against their limits.

    `opened` is what the core's opening found, `rows` its `memory()`, `used_bytes` what the agent
    has itself, and `refusing` why it takes no task now, or None.
    """
    steps = [_step(row) for row in rows["attempts"]]
    steps.sort(key=lambda step: (-step["used_bytes"], step["source"], step["id"]))
    budget = opened["budget"]
    return {
        "device": device,
        "tier": opened["memory"],
        "containment": opened["containment"],
        "age_ms": rows["age_ms"],
        "agent": {
            "used_bytes": used_bytes,
            "limit_bytes": budget["agent_bytes"],
            "refusing": refusing,
        },
        "pool": {
            "limit_bytes": budget["pool_bytes"],
            "held_bytes": sum(step["limit_bytes"] or 0 for step in steps),
            "used_bytes": sum(step["used_bytes"] for step in steps),
        },
        "steps": steps,
        "hidden_steps": 0,
    }


def only(view: dict[str, Any], source: str) -> dict[str, Any]:
    """Return a picture with the steps of `source` alone; the others are in its sums."""
    steps = [step for step in view["steps"] if step["source"] == source]
    return {**view, "steps": steps, "hidden_steps": len(view["steps"]) - len(steps)}


def _step(row: dict[str, Any]) -> dict[str, Any]:
    """Return one row of the core for people: whose it is instead of where its files are."""
    source, _, task_id = row["directory"].partition(".")
    return {
        # No name has a `+`: it stands for the point, so that the first point ends the source.
        "source": source.replace("+", "."),
        "id": task_id,
        "step": row["name"],
        "attempt": row["number"],
        "used_bytes": row["bytes"],
        "peak_bytes": row["peak_bytes"],
        "limit_bytes": row["limit_bytes"],
        "processes": row["processes"],
    }
