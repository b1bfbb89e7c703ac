"""Decides which files the emulated machine has: those of a few packages of the machine that builds
it, the libraries they are linked with, and the programs to test.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable
from pathlib import Path

# What tests start, and what guest.py needs.
PACKAGES = ("coreutils", "dash", "grep", "mount", "procps", "sed", "util-linux")
# Its folders are left out where no test needs them.
PYTHON = "/usr/bin/python3"
LEFT_OUT = re.compile(
    r"^/usr/share/|/(test|idlelib|ensurepip|lib2to3|pydoc_data|tkinter|turtledemo"
    r"|(dist|site)-packages|config-[^/]*)(/|$)|^/(etc|var|lib/systemd)/"
)
TREE = Path(__file__).resolve().parents[2]
FILES = (
    *("PROTOCOL.md", "tests/e2e/brokers.py", "tests/e2e/fleet.py"),
    *("tests/vm/agent.py", "tests/vm/guest.py"),
)
# What .venv holds and neither the agent nor its broker nor fleet.py imports, and is large.
UNUSED = {"hypothesis", "mypy", "mypyc", "pip", "pygments", "ruff", "setuptools"}
FOLDERS = ("dev", "proc", "sys", "run", "root", "var", "tmp", "etc", "limpet/programs")
ACCOUNTS = {
    "etc/passwd": "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n"
    "nobody:x:65534:65534::/:/bin/false\n",
    "etc/group": "root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n",
}
BYTES = 768 << 20


def make(image: Path, root: Path, programs: Iterable[Path]) -> None:
    """Write a file system with everything in it to `image`, by way of the folder `root`."""
    shutil.rmtree(root, ignore_errors=True)
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    for link in ("bin", "lib", "lib64", "sbin"):
        (root / "usr" / link).mkdir(parents=True)
        (root / link).symlink_to(f"usr/{link}")
    for file, text in ACCOUNTS.items():
        (root / file).write_text(text)
    placed = [_place(root, path) for path in _packaged()]
    for program in programs:
        # The name cargo gives ends in a hash.
        stripped = root / "limpet" / "programs" / program.name.rpartition("-")[0]
        subprocess.run(["strip", "-o", stripped, program], check=True)
        placed.append(stripped)
    placed += _agent(root)
    for library in _libraries(placed):
        _place(root, library)
    write(image, root)


def _agent(root: Path) -> Iterable[Path]:
    """Place this tree's own Python, and what it imports; return what is linked with libraries."""
    shutil.copytree(TREE / "runtime", root / "limpet" / "runtime")
    for file in FILES:
        target = root / "limpet" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(TREE / file, target)
    # Where Debian's Python looks without being told.
    site = root / "usr" / "lib" / "python3" / "dist-packages"
    site.mkdir(parents=True)
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if path.name not in UNUSED:
            if path.is_dir():
                shutil.copytree(path, site / path.name)
            else:
                shutil.copy(path, site)
    inside = (*(root / "limpet").rglob("*"), *site.rglob("*"))
    return [path for path in inside if path.suffix in ("", ".so")]


def _packaged() -> Iterable[str]:
    base = subprocess.run(
        [PYTHON, "-c", "import sys; print(f'lib/python3.{sys.version_info.minor}')"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    told = subprocess.run(["dpkg", "-L", *PACKAGES], capture_output=True, text=True, check=True)
    # It tells of diversions too; and a machine may have left out what it needs not.
    lines = filter(os.path.lexists, told.stdout.splitlines())
    yield from (line for line in lines if not LEFT_OUT.search(line))
    yield PYTHON
    yield os.path.realpath(PYTHON)
    for folder, _, names in os.walk(f"/usr/{base}"):
        yield from (
            path for name in names if not LEFT_OUT.search(path := os.path.join(folder, name))
        )


def _place(root: Path, path: str) -> Path:
    """Copy a file or link to where it is, behind links of folders."""
    folder, name = os.path.split(path)
    source = Path(os.path.realpath(folder), name)
    target = root / source.relative_to("/")
    if not source.is_dir() or source.is_symlink():
        target.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(target):
            shutil.copy2(source, target, follow_symlinks=False)
    return target


def _libraries(paths: Iterable[Path]) -> set[str]:
    """Return the libraries that programs and libraries are linked with, links and what they are."""
    linked = [path for path in paths if path.is_file() and path.open("rb").read(4) == b"\x7fELF"]
    told = subprocess.run(["ldd", *linked], capture_output=True, text=True, check=False).stdout
    found = set(re.findall(r"(?:=> |^\t)(/\S+) \(0x", told, re.MULTILINE))
    return found | {os.path.realpath(path) for path in found}


def write(image: Path, root: Path) -> None:
    """Write the files below `root` to `image`, as root's."""
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(BYTES)
    options = ["-q", "-t", "ext4", "-E", "root_owner=0:0", "-d", str(root)]
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    subprocess.run(["mke2fs", *options, str(image)], check=True, env=environment)
