"""Caps under load, in little: `make capped` does the same at length."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import capped
import pytest
from cage import MEMORY

NEEDED = os.geteuid() == 0 and (MEMORY / "memory.limit_in_bytes").exists()


@pytest.mark.skipif(not NEEDED, reason="needs root and the memory controller of version 1")
@pytest.mark.parametrize("case", capped.CASES)
def test_nothing_is_lost_and_the_kernel_takes_nobody(case: str) -> None:
    # Where others may enter: the agent inside is an ordinary user.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        told = capped.measure(Path(directory), case, tasks=80, messages=400, hogs=16)
    capped.check_ends(told)
