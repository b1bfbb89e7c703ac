"""What several test files start from: where the vectors are, an instant, and a task's history."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from limpet import looks

# What the opening of a core finds, as far as pictures of the memory tell of it.
OPENED = {
    "memory": "sampled",
    "containment": "marker",
    "budget": {"agent_bytes": 64 << 20, "pool_bytes": 512 << 20},
}
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


def row(directory: str, size_bytes: int, limit_bytes: int | None = 64 << 20) -> dict[str, Any]:
    """Return what the core tells of the memory of one attempt."""
    return {
        "attempt": 7,
        "task": 3,
        "step": 0,
        "name": "hold",
        "number": 1,
        "directory": directory,
        "bytes": size_bytes,
        "peak_bytes": size_bytes + 4096,
        "limit_bytes": limit_bytes,
        "processes": 2,
    }


def pictured(*rows: dict[str, Any], refusing: str | None = None) -> dict[str, Any]:
    """Return a picture of an agent of 20 MiB and of `rows`."""
    told = {"age_ms": 40, "attempts": list(rows)}
    return looks.picture("kitchen", OPENED, told, 20 << 20, refusing)
