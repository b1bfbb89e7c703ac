"""What it costs to look at the memory of steps, how far one passes its limit, how long starts take.

`python tests/e2e/sampled.py` runs the ignored tests of `process_memory.rs` one by one and writes
`tests/results/memory-sampled.json`. A program counts what it has taken in a file that outlives it;
another writes down when its first instruction ran.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from typing import Any

import results

COMMAND = "python tests/e2e/sampled.py"
TEST = ("--test", "process_memory", "--", "--ignored", "--nocapture", "--test-threads", "1")
RATES = {"1e9": "1 GB/s", "1e12": "as fast as it can"}


def measure() -> list[list[str]]:
    """Run the tests, and return the words of each line that it tells."""
    manifest = str(results.ROOT / "native" / "Cargo.toml")
    command = ["cargo", "test", "--manifest-path", manifest, "--locked"]
    ran = subprocess.run(
        [*command, "-p", "limpet-driver", *TEST], check=True, stdout=subprocess.PIPE, text=True
    )
    return [line.split() for line in ran.stdout.splitlines()]


def summary(lines: list[list[str]], load: float) -> dict[str, Any]:
    """Return what is told of all runs."""
    passed: dict[tuple[int, str], list[tuple[int, int]]] = {}
    costs, starts = [], []
    for words in lines:
        if words[:1] == ["overshoot"]:
            limit, rate = int(words[1]), RATES[words[2]]
            passed.setdefault((limit, rate), []).append((int(words[3]), int(words[4])))
        if words[:1] == ["cost"]:
            share = round(int(words[3]) / 10_000, 2)
            costs.append({"steps": int(words[1]), "limit bytes": int(words[2]), "percent": share})
        if words[:1] == ["start"]:
            tier = f"{words[2]}, memory {words[3]}"
            begun, known = int(words[4]), int(words[5])
            told = {"pause ms": int(words[1]), "tier": tier}
            starts.append(told | {"begun microseconds": begun, "known microseconds": known})
    rows = [
        {
            "limit bytes": limit,
            "rate": rate,
            "runs": len(runs),
            "median bytes": int(statistics.median(run[0] for run in runs)),
            "most bytes": max(run[0] for run in runs),
            "bar bytes": max(8 << 20, limit // 10),
        }
        for (limit, rate), runs in passed.items()
    ]
    return {"load before": load, "overshoot": rows, "cost": costs, "start": starts}


def main() -> int:
    """Measure and write it down."""
    load = round(os.getloadavg()[0], 1)
    results.write("memory-sampled", COMMAND, summary(measure(), load))
    return 0


if __name__ == "__main__":
    sys.exit(main())
