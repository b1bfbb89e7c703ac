"""The Debian package and its unit under systemd, in an emulated machine: `make test-systemd`.

Installs the package of the frozen file into a Debian, boots that with Debian's own kernel (qemu,
without acceleration), and judges what booted_guest.py tells. Writes `tests/results/systemd.json`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import booted_guest
import emulate
import image
from debian import BUILD, Debian, build_package, fetch_debian

import results

PACKAGES = ("systemd", "systemd-sysv", "python3")
NEWER = "99.0"
BOOT_S = 1800
INIT = "/lib/systemd/systemd"
WORDS = f"console=ttyS0 root=/dev/nvme0n1 rw panic=-1 loglevel=4 init={INIT} systemd.show_status=0"
TEST = """\
[Unit]
After=limpet.service
[Service]
Type=oneshot
ExecStart=/usr/bin/python3 /packages/booted_guest.py
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
[Install]
WantedBy=multi-user.target
"""
# What a machine without devices, network and people waits for in vain.
UNUSED = ("getty.target", "serial-getty@ttyS0.service", "systemd-networkd.service", "timers.target")


def install(root: Path, package: Path, newer: Path) -> None:
    """Fill `root` with a Debian in which `package` is installed and the checks are started."""
    kept = BUILD / "debian-systemd.tar"
    if not kept.exists():
        fetch_debian(kept, *PACKAGES)
    subprocess.run(["tar", "-xf", kept, "-C", root, "--exclude=./dev/*"], check=True)
    debian = Debian(root)
    debian.install(package)
    (root / "packages").mkdir()
    shutil.copy(newer, root / booted_guest.NEWER.relative_to("/"))
    shutil.copy(booted_guest.__file__, root / "packages")
    (root / "etc/systemd/system/test.service").write_text(TEST)
    (root / "etc/hostname").write_text("board\n")
    debian.run("systemctl", "enable", "test.service")
    debian.run("systemctl", "mask", *UNUSED)


def boot(kernel: Path, disk: Path) -> list[dict[str, Any]]:
    """Run the machine and return what the guest told."""
    log, told = BUILD / "systemd-console.log", BUILD / "systemd-told.jsonl"
    command = [*emulate.QEMU, "-kernel", str(kernel), "-append", WORDS]
    command += ["-drive", f"file={disk},format=raw,if=none,id=disk"]
    command += ["-device", "nvme,drive=disk,serial=limpet"]
    command += ["-serial", f"file:{log}", "-serial", f"file:{told}"]
    try:
        subprocess.run(command, timeout=BOOT_S, check=True)
    except subprocess.TimeoutExpired:
        raise emulate.Broken(f"the machine did not end in {BOOT_S} s: see {log}") from None
    lines = [json.loads(line) for line in told.read_text(errors="replace").splitlines() if line]
    if not lines or lines[-1] != {"finished": True}:
        raise emulate.Broken(f"the machine told {lines[-1:]} last: see {log}")
    return lines


def prove(package: Path, newer: Path) -> int:
    """Do it all; return how many checks failed."""
    started = time.monotonic()
    emulate.BUILD.mkdir(parents=True, exist_ok=True)
    kernel = emulate.fetch_kernel()
    with tempfile.TemporaryDirectory(dir=BUILD) as name:
        root, disk = Path(name) / "root", Path(name) / "disk.img"
        root.mkdir()
        install(root, package, newer)
        image.write(disk, root)
        facts, *checks, _ = boot(kernel, disk)
    failed = [check for check in checks if check["failure"]]
    for check in checks:
        sys.stderr.write(f"{check['check']}: {check['failure'] or 'ok'}\n")
    missing = len(booted_guest.CHECKS) - len(checks)
    measured = {
        **facts,
        "package": package.name,
        "checks": {check["check"]: "failed" if check["failure"] else "ok" for check in checks},
        "failed": len(failed) + missing,
        "seconds": round(time.monotonic() - started),
    }
    results.write("systemd", "make test-systemd", measured)
    return len(failed) + missing


def main() -> int:
    """Return 1 unless everything is proven."""
    frozen = Path(os.environ["LIMPET_FROZEN"]).resolve(strict=True)
    try:
        emulate.check_needs()
        BUILD.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as name:
            version = subprocess.check_output([frozen, "version"], text=True).split()[1]
            made = [build_package(frozen, Path(name), each) for each in (version, NEWER)]
            return 1 if prove(*made) else 0
    except emulate.Broken as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
