"""Caps under load, in little: `make capped` does it at length, and judges what the kernel kills."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import capped
import pytest
from brokers import MOSQUITTO_PROGRAM
from cage import MEMORY

NEEDED = os.geteuid() == 0 and (MEMORY / "memory.limit_in_bytes").exists()
TASKS, HOGS = 80, 16


@pytest.mark.skipif(not NEEDED, reason="needs root and the memory controller of version 1")
@pytest.mark.skipif(not MOSQUITTO_PROGRAM.exists(), reason="mosquitto is not installed")
@pytest.mark.parametrize("case", capped.CASES)
def test_everything_has_its_end_and_the_agent_lives(case: str) -> None:
    # Where others may enter: the agent inside is an ordinary user.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        told = capped.measure(Path(directory), case, tasks=TASKS, messages=400, hogs=HOGS)
    assert told["same process"]
    assert told["outcomes"]["task succeeded"] == TASKS
    # On a busy machine the kernel may come before who looks; that it need not is for the long run.
    ends = {"out_of_memory", "killed", "failed"}
    hogs = {name: count for name, count in told["outcomes"].items() if name.split()[1] in ends}
    assert sum(hogs.values()) == HOGS, told["outcomes"]
