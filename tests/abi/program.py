"""The C program that calls every function of the ABI: what it finds in its directory, how it is
built. Knows nothing of what it checks.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from limpet import codec
from limpet import task as tasks
from limpet.native.ffi_build import HEADER, LIBRARIES, target_folder
from limpet.policy import Site
from manual import document, policy, settings
from samples import NOW_MS

SOURCE = Path(__file__).with_name("everything.c")
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-g", "-O1", "-Wall", "-Wextra", "-Werror"]
# A step that is a process, and one that its host does. The valgrind of Debian 12 does not know
# pidfd_open: there the first is forked, killed and has failed.
STEPS = [
    {"name": "a", "tool": "exec", "input": {"argv": ["/bin/true"]}, "allow_failure": True},
    {"name": "b", "tool": "publish", "input": {"topic": "state", "payload": "on"}},
]


def build(directory: Path) -> Path:
    """Compile the program against the library that `make build` has left; return its path."""
    program = directory / "everything"
    library = target_folder() / "release" / "liblimpet_driver.a"
    libraries = [f"-l{name}" for name in LIBRARIES]
    sources = [f"-I{HEADER.parent}", str(SOURCE), str(library)]
    subprocess.run(["cc", *FLAGS, "-o", str(program), *sources, *libraries], check=True)
    return program


def lay_out(directory: Path) -> None:
    """Write the settings, the task and its message as the program reads them."""
    for name in ("by_hand", "with_threads"):
        state = directory / name
        state.mkdir()
        site = Site("kitchen", f"{state}/tasks", 1 << 28, True, worker=["/-"], native=["/-"])
        opened = settings(state, policy(site).table)
        (directory / f"{name}.json").write_bytes(codec.encode(opened))
    body = document("t-1", steps=STEPS)
    (directory / "plan.json").write_bytes(codec.encode(tasks.compile(body, "ops", NOW_MS)))
    (directory / "message").write_bytes(codec.frame(codec.encode(body)))
