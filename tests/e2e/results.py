"""Where a run of a proof writes what it measured: one JSON file per run, which is committed."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DIRECTORY = ROOT / "tests" / "results"


def write(name: str, command: str, measured: dict[str, Any], directory: Path = DIRECTORY) -> Path:
    """Write `measured` with how it came about; return the file."""
    directory.mkdir(exist_ok=True)
    told = {
        "command": command,
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "modified": bool(
            _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!tests/results")
        ),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"{platform.machine()}, {_cores()} cores, Linux {_kernel()}",
        "python": platform.python_version(),
        "measured": measured,
    }
    file = directory / f"{name}.json"
    file.write_text(json.dumps(told, indent=1) + "\n")
    sys.stderr.write(f"written: {file.relative_to(ROOT)}\n")
    return file


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def _kernel() -> str:
    """Return the version without what a distribution adds to it."""
    return ".".join(platform.release().split(".")[:2])


def _cores() -> int:
    return len(os.sched_getaffinity(0))
