"""The tests of containment and limits on a kernel with control groups of version 2: `make test-vm`.

Boots Debian's own kernel in an emulated machine (qemu, without acceleration: the same everywhere)
with the test programs that cargo builds here, and judges what guest.py tells. Decides what counts
as proven: in each set-up every program ran, no test failed, and none skipped but for a reason that
is part of the set-up. Writes `tests/results/vm.json`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import guest
import image

import results

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "vm"
KERNEL = "linux-image-cloud-amd64"
# The targets of cargo that start processes.
TARGETS = (
    *("process_again", "process_containment", "process_groups", "process_memory"),
    *("process_output", "process_spawn", "driver"),
)
BOOT_S = 900
# What is needed: a program, and the package of Debian that has it.
NEEDS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mke2fs": "e2fsprogs",
    "strip": "binutils",
    "setpriv": "util-linux",
    "ps": "procps",
    "apt-get": "apt",
    "dpkg": "dpkg",
    image.PYTHON: "python3",
}
QEMU = (
    *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "1024", "-smp", "2"),
    *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
)
WORDS = "console=ttyS0 root=/dev/nvme0n1 rw panic=-1 loglevel=4 init=/usr/bin/python3"


class Broken(Exception):
    """The run proves nothing: why, in one sentence."""


def check_programs(needs: dict[str, str]) -> None:
    """Name in one message the packages of all programs that are missing; `needs` has both."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    lacks = sorted(
        {package for name, package in needs.items() if not shutil.which(name, path=path)}
    )
    if lacks:
        packages = " ".join(lacks)
        raise Broken(
            f"cannot emulate: this machine lacks {packages} (nothing was changed)\n"
            f"On Debian, as root:  apt install --no-install-recommends {packages}"
        )


def check_needs() -> None:
    """Say all that is missing at once."""
    if os.uname().machine != "x86_64":
        raise Broken("cannot emulate: the programs that are built here are not for x86_64")
    check_programs(NEEDS)
    # What .venv holds for one is for no other.
    wanted = f"Python {sys.version_info.major}.{sys.version_info.minor}."
    if not _output([image.PYTHON, "--version"]).startswith(wanted):
        raise Broken(f"cannot emulate: make .venv with {image.PYTHON} (PYTHON={image.PYTHON})")


def fetch_kernel() -> Path:
    """Return Debian's newest kernel for virtual machines, unpacked once and never installed."""
    kept = sorted(BUILD.glob("vmlinuz-*"))
    if kept:
        return kept[-1]
    shown = _output(["apt-cache", "depends", KERNEL]).splitlines()
    names = [line.split()[-1] for line in shown if "Depends: linux-image" in line]
    if not names:
        raise Broken(f"cannot find the package {KERNEL}: run apt-get update as root first")
    unpacked = BUILD / "kernel"
    unpacked.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "-qq", "download", names[0]], cwd=unpacked, check=True)
    (package,) = unpacked.glob("*.deb")
    subprocess.run(["dpkg", "-x", package, unpacked], check=True)
    (found,) = unpacked.glob("boot/vmlinuz-*")
    kernel = shutil.move(found, BUILD / found.name)
    shutil.rmtree(unpacked)
    return Path(kernel)


def build_programs() -> list[Path]:
    """Build the test programs and return where they are."""
    command = ["cargo", "test", "--manifest-path", "native/Cargo.toml", "--locked", "--no-run"]
    command += ["--package", "limpet-driver", "--message-format=json-render-diagnostics"]
    command += [word for target in TARGETS for word in ("--test", target)]
    messages = [json.loads(line) for line in _output(command).splitlines()]
    found = [
        Path(message["executable"])
        for message in messages
        if message.get("executable") and message["target"]["name"] in TARGETS
    ]
    if len(found) != len(TARGETS):
        raise Broken(f"cannot build: cargo made {len(found)} of {len(TARGETS)} test programs")
    return found


def boot(kernel: Path, disk: Path, number: int) -> list[dict[str, Any]]:
    """Run one set-up in a machine of its own and return what the guest told."""
    setup = guest.SETUPS[number]
    log, told = BUILD / f"console-{number}.log", BUILD / f"told-{number}.jsonl"
    drive = f"file={disk},format=raw,if=none,id=disk,snapshot=on"
    command = [*QEMU, "-kernel", str(kernel), "-drive", drive]
    command += ["-device", "nvme,drive=disk,serial=limpet"]
    command += ["-serial", f"file:{log}", "-serial", f"file:{told}"]
    command += ["-append", f"{WORDS} {setup.words} -- /limpet/tests/vm/guest.py {number}"]
    try:
        subprocess.run(command, timeout=BOOT_S, check=True)
    except subprocess.TimeoutExpired:
        raise Broken(f"{setup.name}: the machine did not end in {BOOT_S} s: see {log}") from None
    lines = [json.loads(line) for line in told.read_text(errors="replace").splitlines() if line]
    if not lines or lines[-1] != {"finished": setup.name}:
        why = lines[-1] if lines else "nothing"
        raise Broken(f"{setup.name}: the machine told {why} last: see {log}")
    return lines


def summary(setup: guest.Setup, told: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what is kept of one set-up."""
    ends = Counter(end.partition(":")[0] for line in told for end in line["tests"].values())
    return {
        "set-up": setup.name,
        "lent": setup.lent,
        "passed": ends["ok"],
        "failed": ends["failed"],
        "skipped": ends["skipped"],
        "seconds": round(sum(line["seconds"] for line in told), 1),
        "programs": {line["program"]: line["tests"] for line in told},
    }


def unproven(setup: guest.Setup, told: list[dict[str, Any]]) -> list[str]:
    """Return everything that is wrong."""
    wrong = [
        f"{setup.name}: {target} did not run"
        for target in (*TARGETS, *(["agent"] if setup.agent else []))
        if not any(line["program"] == target and line["tests"] for line in told)
    ]
    for line in told:
        at = f"{setup.name}: {line['program']}"
        if line["status"]:
            wrong.append(f"{at} ended with status {line['status']}\n{line['output']}")
        for test, end in line["tests"].items():
            reason = end.removeprefix("skipped: ")
            if reason != end and reason not in setup.may_skip:
                wrong.append(f"{at}: {test} skipped: {reason}")
    return wrong


def _output(command: list[str]) -> str:
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


def prove() -> int:
    """Do it all; return how many things are wrong."""
    check_needs()
    BUILD.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    kernel, programs = fetch_kernel(), build_programs()
    disk = BUILD / "disk.img"
    image.make(disk, BUILD / "root", programs)
    built = time.monotonic()
    rows, wrong = [], []
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as machines:
        numbers = range(len(guest.SETUPS))
        runs = list(machines.map(lambda number: boot(kernel, disk, number), numbers))
    for setup, (_, *told, _) in zip(guest.SETUPS, runs, strict=True):
        rows.append(summary(setup, told))
        wrong += unproven(setup, told)
    for row in rows:
        counts = f"{row['passed']} passed, {row['failed']} failed, {row['skipped']} skipped"
        sys.stderr.write(f"{row['set-up']}: {counts} in {row['seconds']} s\n")
    for line in wrong:
        sys.stderr.write(f"WRONG: {line}\n")
    measured = {
        "kernel": runs[0][0]["kernel"],
        "set-ups": rows,
        "passed": sum(row["passed"] for row in rows),
        "failed": sum(row["failed"] for row in rows),
        "skipped": sum(row["skipped"] for row in rows),
        "unproven": len(wrong),
        "seconds to build": round(built - started),
        "seconds to run": round(time.monotonic() - built),
    }
    results.write("vm", "make test-vm", measured)
    return len(wrong)


def main() -> int:
    """Return 1 unless everything is proven."""
    try:
        return 1 if prove() else 0
    except Broken as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
