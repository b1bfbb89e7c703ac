"""valgrind over the C program that calls every function of the ABI, and over the driver's tests.

An error or a byte that is definitely lost is a failure. `ONLY=program` leaves the driver's tests
out and writes no result. What cannot run there is named below, with why; a test target that is in
neither table is a failure too.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import program

from limpet.native.ffi_build import MANIFEST
from results import write

VALGRIND = [
    "valgrind",
    "--leak-check=full",
    "--show-leak-kinds=definite",
    "--errors-for-leak-kinds=definite",
    "--error-exitcode=9",
    # A child is what a step runs, or ends at once: neither is the driver.
    "--child-silent-after-fork=yes",
]
PIDFD = "valgrind of Debian 12 does not know pidfd_open, so no process can be started or searched"
TLS = "valgrind takes what ring's assembly computes for uninitialised"
# What is left out of a target that runs.
SKIPPED = {
    "limpet_driver": {"containment::": PIDFD},
    "limpet-tool": {},
    "models": {},
    "prepare": {},
    "process_output": {},
    "recording": {},
    "store": {},
    "tools_fetch": {},
    "tools_files": {},
    "tools_web": {"https_proves": TLS},
    "uplink": {},
    "uplink_guard": {},
    "uplink_threads": {},
}
EXCLUDED = {
    "driver": PIDFD,
    "process_again": PIDFD,
    "process_containment": PIDFD,
    "process_groups": PIDFD,
    "process_memory": PIDFD,
    "process_spawn": PIDFD,
    "uplink_tls": TLS,
}


def watch(argv: list[str], directory: Path) -> dict[str, Any]:
    """Run `argv` under valgrind; return what it and valgrind say, or end if it fails."""
    began = time.monotonic()
    with tempfile.NamedTemporaryFile("r") as log:
        # Property tests take a case in hundreds of times the usual time.
        environment = {**os.environ, "PROPTEST_CASES": "4"}
        command = [*VALGRIND, f"--log-file={log.name}", *argv]
        ran = subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, text=True
        )
        said = log.read()
    errors = re.search(r"ERROR SUMMARY: ([\d,]+) errors", said)
    lost = re.search(r"definitely lost: ([\d,]+) bytes|no leaks are possible", said)
    if ran.returncode or errors is None or lost is None:
        sys.exit(f"{ran.stdout}{ran.stderr}{said}{argv[0]}: status {ran.returncode}")
    return {
        "errors": _number(errors[1]),
        "bytes definitely lost": _number(lost[1] or "0"),
        "seconds": round(time.monotonic() - began, 1),
        "said": ran.stdout,
    }


def _number(text: str) -> int:
    return int(text.replace(",", ""))


def watch_program() -> dict[str, Any]:
    """Run the C program; return what came of it and how many functions it called."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        program.lay_out(directory)
        told = watch([str(program.build(directory))], directory)
    functions = set(told.pop("said").split())
    return {**told, "functions": len(functions)}


def watch_tests() -> dict[str, dict[str, Any]]:
    """Run each target of the driver's tests that can run; return what came of each."""
    targets = _targets()
    unknown = set(targets) ^ (set(SKIPPED) | set(EXCLUDED))
    if unknown:
        sys.exit(f"cannot watch every test: {sorted(unknown)} is not told of (add it to a table)")
    told = {}
    for name, skipped in SKIPPED.items():
        skips = [f"--skip={pattern}" for pattern in skipped]
        argv = [targets[name], "--test-threads=1", *skips]
        told[name] = watch(argv, MANIFEST.parent / "driver")
        told[name]["tests"] = sum(map(int, re.findall(r"(\d+) passed", told[name].pop("said"))))
        print(f"{name}: {told[name]}", flush=True)
    return told


def _targets() -> dict[str, str]:
    """Build the driver's tests; return the executable of each target."""
    command = ["cargo", "test", "--no-run", "--locked", "--package", "limpet-driver"]
    built = subprocess.run(
        [*command, "--manifest-path", str(MANIFEST), "--message-format", "json"],
        stdout=subprocess.PIPE,
        check=True,
    )
    artifacts = map(json.loads, built.stdout.splitlines())
    return {
        artifact["target"]["name"]: artifact["executable"]
        for artifact in artifacts
        if artifact.get("executable") and artifact["profile"]["test"]
    }


def main() -> int:
    """Watch both; write what was measured."""
    measured: dict[str, Any] = {"program": watch_program()}
    print(f"program: {measured['program']}", flush=True)
    if os.environ.get("ONLY") == "program":
        return 0
    measured["tests"] = watch_tests()
    version = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=True)
    measured["left out"] = EXCLUDED | {
        f"{name}: {pattern}": why
        for name, skipped in SKIPPED.items()
        for pattern, why in skipped.items()
    }
    write("valgrind", "make valgrind", {"version": version.stdout.strip(), **measured})
    return 0


if __name__ == "__main__":
    sys.exit(main())
