"""Run the tests of a single executable: `python tests/frozen/prove.py dist/limpet-ARCH`.

For another processor than this machine's all of it happens under emulation, and seldom: what came
of it is written to `tests/results/frozen-ARCH.json`, with what cannot be seen so. Decides nothing
about what is tested.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fleet import ROOT

import results

VERIFY = ROOT / "packaging" / "verify"
EMULATOR = '. packaging/freeze/target.sh && "$qemu-static" --version'


class Ends:
    """Notes how each test ended: `passed`, `failed`, or the reason for which it was skipped."""

    def __init__(self) -> None:
        self.tests: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take what pytest says of one phase of a test."""
        if report.when != "call" and report.passed:
            return
        end: str = report.outcome
        if report.skipped and isinstance(report.longrepr, tuple):
            end = report.longrepr[2].removeprefix("Skipped: ")
        self.tests[report.nodeid.rpartition("::")[2]] = end


def verified(file: Path) -> dict[str, str]:
    """Return what `packaging/verify` found, by the names of its checks."""
    told = subprocess.run([VERIFY, file], stdout=subprocess.PIPE, text=True, check=True).stdout
    return dict(re.findall(r"^ok +\S+: ([^:]+): (.*)$", told, re.MULTILINE))


def emulator(arch: str) -> str:
    """Return its name and version."""
    command, environment = ["bash", "-euc", EMULATOR], {**os.environ, "ARCH": arch}
    told = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return told.stdout.split("\n", 1)[0].partition(" (")[0].replace(" version", "")


def main(name: str) -> int:
    """Test the file; return the exit code."""
    file = Path(name)
    arch = file.name.rpartition("-")[2]
    os.environ["LIMPET_FROZEN"] = name
    ends = Ends()
    code = int(pytest.main([str(ROOT / "tests" / "frozen")], plugins=[ends]))
    if code == 0 and arch != platform.machine():
        passed = [test for test, end in ends.tests.items() if end == "passed"]
        measured: dict[str, Any] = {
            "bytes": file.stat().st_size,
            "emulated by": emulator(arch),
            "verified": verified(file),
            "passed": passed,
            "not seen under emulation": {
                test: end for test, end in ends.tests.items() if test not in passed
            },
        }
        results.write(f"frozen-{arch}", f"make test-frozen ARCH={arch}", measured)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
