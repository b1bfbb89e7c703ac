"""What several test files start from: where the vectors are, an instant, and a task's history."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
VECTORS = Path(__file__).parent / "vectors"
NOW_MS = 1_795_000_000_000


def read_vectors(name: str) -> Any:
    """Return the vectors in the file `name`."""
    return json.loads((VECTORS / name).read_text())


def step(name: str, out: str = "", err: str = "", result: object = None) -> dict[str, Any]:
    return {
        "name": name,
        "tool": "x",
        "outcome": "succeeded",
        "attempts": 1,
        "step": 0,
        "attempt": 1,
        "exit_code": 0,
        "result": result,
        "stdout": {"head": out, "tail": "", "bytes": len(out.encode())},
        "stderr": {"head": "", "tail": err, "bytes": len(err.encode())},
    }


def history(steps: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": "t-1",
        "source": "ops",
        "outcome": "succeeded",
        "step": None,
        "clock": None,
        "accepted_ms": 1,
        "ended_ms": 2,
        "sequence": 3,
        "clock_uncertain": False,
        "flags": [],
        "steps": steps,
    }
