"""What carriers are tested with: the frozen file, a Debian package of it, a Debian to put it in.

LIMPET_FROZEN names the frozen file. What is missing is the reason of a skip; `make test-carriers`
asks for all of it first.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "carriers"
FROZEN = os.environ.get("LIMPET_FROZEN", "")
SOURCES = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
# In a chroot that is thrown away, with what a program expects to be mounted.
INSIDE = (
    'mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && exec chroot "$@"',
    "sh",
)


def needs(*programs: str) -> None:
    """Skip unless every one of `programs` is installed and we may use them."""
    if os.geteuid():
        pytest.skip("needs root")
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    lacks = [program for program in programs if not shutil.which(program, path=path)]
    if lacks:
        pytest.skip(f"not installed: {', '.join(lacks)}")


def needs_its_processor() -> None:
    """Skip where the frozen file is for another processor: package and image start it as it is."""
    arch = FROZEN.rpartition("-")[2]
    if arch != platform.machine():
        pytest.skip(f"what is carried is for {arch} and cannot be started here")


def build_package(file: Path, directory: Path, version: str) -> Path:
    done = subprocess.run(
        [ROOT / "packaging" / "deb" / "build.sh", file, directory],
        env={**os.environ, "VERSION": version},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Path(done.stdout.strip())


def fetch_debian(target: Path, *packages: str) -> None:
    """Fetch a minimal Debian with `packages`, as an archive."""
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    sources = next((str(file) for file in SOURCES if file.exists()), "")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"part-{target.name}")
    command = [
        "mmdebstrap",
        "--quiet",
        "--variant=minbase",
        f"--include={','.join(('adduser', *packages))}",
    ]
    command += ["--aptopt=Acquire::Languages none", release, str(part), sources]
    subprocess.run(command, check=True)
    part.rename(target)


class Debian:
    """A root file system; no service manager runs in it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *words: str, code: int | None = 0) -> str:
        """Run a command inside and return what it wrote; with `code` None any end will do."""
        done = subprocess.run(
            [
                "unshare",
                "--mount",
                "--propagation=private",
                "sh",
                "-ec",
                *INSIDE,
                self.root,
                *words,
            ],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert code is None or done.returncode == code, done.stdout
        return done.stdout

    def install(self, package: Path) -> str:
        """Install or upgrade to `package`."""
        shutil.copy(package, self.root / "tmp")
        return self.run("dpkg", "--install", f"/tmp/{package.name}")
