"""How `limpet explain` tells a journal."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from limpet.controller import explain
from limpet.controller.document import FileError


def record(kind: str, task: int = 2, **members: Any) -> dict[str, Any]:
    return {"record": kind, "task": task, "wall_ms": 1_790_000_000_000, **members}


def accepted(task: int, source: str, name: str, *steps: str) -> dict[str, Any]:
    plan = {"id": name, "source": source, "steps": [{"name": step} for step in steps]}
    return record("accepted", task, steps=len(steps), attached=plan)


STORY = [
    record("opened", 0),
    accepted(2, "ops", "app", "get", "use"),
    record("started", step=0, attempt=1, suspicions=0),
    record("opened", 0),
    record("started", step=0, attempt=1, suspicions=1),
    record("tried", step=0, attempt=1, outcome="killed", attached={"signal": 9}),
    accepted(9, "lab", "other", "x"),
    record(
        "ended",
        step=0,
        attempt=2,
        outcome="timed_out",
        clock="start_to_close",
        attached={"exit_code": None, "signal": 15, "stragglers": 2},
    ),
    record(
        "ended",
        step=1,
        attempt=1,
        outcome="refused",
        clock="none",
        attached={"reason": "not_allowed", "detail": "see /etc/limpet/policy.toml:3"},
    ),
    record("decided", outcome="failed", step=1, clock="none"),
    record("finished"),
    record("delivered", outcome="failed"),
    record("stopped", 0),
]


def test_a_story_holds_what_concerns_the_task_and_nothing_else() -> None:
    """Starts of the agent belong to it while it lives; other tasks never do."""
    kinds = [each["record"] for each in explain.find(STORY, "app")]
    assert kinds.count("opened") == 1
    assert kinds[0] == "accepted"
    assert kinds[-1] == "delivered"
    assert explain.find(STORY, "lab/other")[0]["task"] == 9


def test_clock_signal_policy_line_and_suspicion_are_told_apart() -> None:
    """Each line says what happened and why."""
    texts = [text for _, text in explain.told(explain.find(STORY, "ops/app"))]
    assert "get, attempt 1, alone: the agent died with it, times: 1" in texts
    assert "get: killed, signal 9; will be tried again" in texts
    ended = "get: timed_out, start_to_close ran out, signal 15"
    assert f"{ended}, processes left behind and killed: 2" in texts
    assert "use: refused, not_allowed: see /etc/limpet/policy.toml:3" in texts
    assert "the task failed by use" in texts


def test_what_the_journal_no_longer_has_is_said_so() -> None:
    """A reader is told where else to look."""
    with pytest.raises(FileError, match="limpet logs"):
        explain.find(STORY, "gone")
    twice = [accepted(2, "a", "app", "x"), accepted(3, "b", "app", "x")]
    with pytest.raises(FileError, match="SOURCE/app"):
        explain.find(twice, "app")


def test_a_real_journal_is_explained(tmp_path: Path) -> None:
    """From a task that ran to its timeline, in words and as JSON."""
    task = tmp_path / "task.json"
    steps = [{"name": "no", "tool": "exec", "input": {"argv": ["/bin/false"]}}]
    task.write_text(json.dumps({"id": "story", "steps": steps}))
    state = tmp_path / "state"
    limpet = [sys.executable, "-m", "limpet"]
    subprocess.run([*limpet, "try", str(task), "--state", str(state)], check=False)
    config = tmp_path / "limpet.toml"
    config.write_text(f'[device]\nname = "d"\nstate_directory = "{state}"\n')
    command = [*limpet, "explain", "story", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "no: failed, exit code 1" in done.stdout
    assert "the task failed by no" in done.stdout
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["record"] for line in lines][:2] == ["accepted", "started"]
