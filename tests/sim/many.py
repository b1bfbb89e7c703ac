"""Many simulated histories: of the machine alone, and a twentieth as many of the whole agent.

`SEEDS=N` is how many, `SEED=N` replays one of each. A run of at least `PROOF_SEEDS` that went well
is a result.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

from results import ROOT, write

PROOF_SEEDS = 10_000
# How many turns of a tiny machine are gone through in every way.
DEPTH = "9"
MACHINE = ["cargo", "test", "--locked", "--release", "--package", "limpet-core", "--test", "sim"]
# So many worlds of the whole agent take longer than a test may.
PATIENT = ["-o", "faulthandler_timeout=0"]
AGENT = [sys.executable, "-m", "pytest", "-q", "-s", *PATIENT, "tests/sim"]


def run(command: list[str], environment: dict[str, str]) -> dict[str, dict[str, int]]:
    """Run the tests, show what they say, and return what they have measured; end if they fail."""
    started = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    measured = {}
    for line in started.stdout:
        print(line, end="", flush=True)
        if found := re.search(r"measured ([a-z ]+): (.*)", line):
            pairs = re.findall(r"(\w+)=(\d+)", found[2])
            measured[found[1]] = {name: int(count) for name, count in pairs}
    if started.wait():
        sys.exit(started.returncode)
    return measured


def main() -> int:
    """Run both."""
    seeds = int(os.environ.get("SEEDS", "600"))
    machine = [*MACHINE, "--manifest-path", "native/Cargo.toml", "--", "--nocapture"]
    measured: dict[str, Any] = {**run(machine, {"SEEDS": str(seeds), "DEPTH": DEPTH})}
    worlds = "1" if "SEED" in os.environ else str(-(-seeds // 20))
    measured |= run(AGENT, {"SEEDS": worlds})
    if seeds >= PROOF_SEEDS and "SEED" not in os.environ:
        write("sim", f"make sim SEEDS={seeds}", measured)
    return 0


if __name__ == "__main__":
    sys.exit(main())
