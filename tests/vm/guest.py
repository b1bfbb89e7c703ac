"""The first process of the emulated machine: runs the test programs in each set-up, and powers off.

Decides what the set-ups are, how each is arranged, and what must be lent in it. It is imported by
`emulate.py` too, which judges what was told; inside, it runs on Python's standard library alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

PROGRAMS = Path("/limpet/programs")
GROUPS = Path("/sys/fs/cgroup")
# The second serial port: the kernel writes to the first only.
TELLS = "/dev/ttyS1"
CONTROLLERS = ("memory", "pids", "cpu")
USER = 1000
PYTHONPATH = "/limpet/runtime:/limpet/tests/e2e"
PROGRAM_S = 240
SWAP_BYTES = 256 << 20
# linux/sockios.h, linux/if.h
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
DELEGATED = (".", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads")

NEEDS_ROOT = "needs root"
NO_MEMORY = ("no memory controller is lent here", "no control group keeps memory here")
NO_LIMITS = (
    *NO_MEMORY,
    "no control group keeps pids here",
    "no control group keeps cpu here",
)
NO_GROUPS = (*NO_LIMITS, "no control group of version 2 is lent here")


class Setup(NamedTuple):
    """What a test program finds around it."""

    name: str
    # The tiers of containment and memory, and the limits that nothing keeps: as tests name them.
    lent: str
    # The reasons for which a test may skip.
    may_skip: tuple[str, ...] = ()
    # A group of its own, as a service manager makes one; otherwise the root of all groups.
    service: bool = False
    user: int = 0
    stranger: bool = False
    read_only: bool = False
    # A whole agent is run, too.
    agent: bool = False
    # Added to the kernel's command line.
    words: str = ""


ALL = "cgroup_v2 cgroup_v2"
NOTHING = "tmpfs pids cpu"
SETUPS = (
    Setup("root in the root group", ALL),
    Setup("root in a service's group", ALL, service=True, agent=True),
    Setup("a user in a delegated group", ALL, (NEEDS_ROOT,), service=True, user=USER),
    Setup(
        "a group shared with a stranger",
        f"cgroup_v2 sampled {NOTHING}",
        NO_LIMITS,
        service=True,
        stranger=True,
    ),
    Setup("groups mounted read-only", f"marker sampled {NOTHING}", NO_GROUPS, read_only=True),
    # As the kernel of a Raspberry Pi comes.
    Setup(
        "no memory controller",
        "cgroup_v2 sampled tmpfs",
        NO_MEMORY,
        service=True,
        agent=True,
        words="cgroup_disable=memory",
    ),
)


def run_program(setup: Setup, program: str, group: Path) -> dict[str, Any]:
    """Run one test program of cargo's in `setup`."""
    command = [f"{PROGRAMS}/{program}", "--test-threads=1", "--show-output"]
    if setup.user:
        ids = [f"--reuid={setup.user}", f"--regid={setup.user}"]
        command = ["/usr/bin/setpriv", *ids, "--clear-groups", *command]
    if setup.read_only:
        again = 'mount -o remount,bind,ro /sys/fs/cgroup && exec "$0" "$@"'
        command = ["/usr/bin/unshare", "-m", "/bin/sh", "-c", again, *command]
    return run(program, command, group, {"LIMPET_TEST_LENT": setup.lent})


def run_agent(setup: Setup, group: Path) -> dict[str, Any]:
    """Run a whole agent in `setup`; only the agent itself enters the group."""
    command = ["/usr/bin/python3", "/limpet/tests/vm/agent.py", str(group), setup.lent]
    return run("agent", command, GROUPS, {"PYTHONPATH": PYTHONPATH})


def run(name: str, command: list[str], group: Path, more: dict[str, str]) -> dict[str, Any]:
    """Run one program in `group` and return what it told."""
    environment = {"PATH": "/usr/sbin:/usr/bin", "TMPDIR": "/tmp", "RUST_BACKTRACE": "1", **more}
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        preexec_fn=lambda: enter(group),
    )
    try:
        output, _ = process.communicate(timeout=PROGRAM_S)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        output += f"\nended after {PROGRAM_S} s"
    seconds = round(time.monotonic() - started, 1)
    return {
        "program": name,
        "status": process.returncode,
        "seconds": seconds,
        "tests": outcomes(output),
        "output": output if process.returncode else "",
    }


def outcomes(output: str) -> dict[str, str]:
    """Return each test's outcome: ok, failed, or the reason for which it skipped."""
    found = {
        name: "ok" if end == "ok" else "failed"
        for name, end in re.findall(r"^test (\S+) \.\.\. (\w+)$", output, re.MULTILINE)
    }
    for name, text in re.findall(r"^---- (\S+) stdout ----\n(.*?)\n\n", output, re.M | re.S):
        skipped = re.search(r"^skipped: (.*)$", text, re.MULTILINE)
        if skipped and found.get(name) == "ok":
            found[name] = f"skipped: {skipped[1]}"
    return found


def enter(group: Path) -> None:
    (group / "cgroup.procs").write_text("0")


@contextlib.contextmanager
def arranged(setup: Setup) -> Any:
    """Make the group of `setup`, and take it away with all that is left in it."""
    if not setup.service:
        yield GROUPS
        return
    group = GROUPS / "service"
    group.mkdir()
    for file in DELEGATED:
        os.chown(group / file, setup.user, setup.user)
    strangers = []
    if setup.stranger:
        strangers.append(
            subprocess.Popen(["/usr/bin/sleep", "600"], preexec_fn=lambda: enter(group))
        )
    try:
        yield group
        inside = (group / "cgroup.procs").read_text().split()
        if inside != [str(stranger.pid) for stranger in strangers]:
            raise RuntimeError(f"{inside} are in the group, not {strangers}")
    finally:
        (group / "cgroup.kill").write_text("1")
        for stranger in strangers:
            stranger.wait()
        take_away(group)


def take_away(group: Path) -> None:
    for inner in group.iterdir():
        if inner.is_dir():
            take_away(inner)
    for _ in range(500):
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.01)
        else:
            return
    raise RuntimeError(f"cannot remove {group}: {(group / 'cgroup.procs').read_text()!r}")


def tell(what: dict[str, Any]) -> None:
    with open(TELLS, "w", encoding="utf-8") as port:
        port.write(json.dumps(what) + "\n")


def mount() -> None:
    """Mount what a system has, and open the first serial port for whatever is printed."""
    for kind, place in (
        ("devtmpfs", "/dev"),
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("tmpfs", "/run"),
        ("cgroup2", str(GROUPS)),
    ):
        subprocess.run(["/usr/bin/mount", "-t", kind, kind, place], check=True)
    # What udev makes elsewhere.
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        Path(f"/dev/{name}").symlink_to(f"/proc/self/fd/{number}")
    Path("/dev/fd").symlink_to("/proc/self/fd")
    Path("/dev/shm").mkdir()
    subprocess.run(["/usr/bin/mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], check=True)
    console = os.open("/dev/ttyS0", os.O_RDWR)
    for descriptor in range(3):
        os.dup2(console, descriptor)


def raise_loopback() -> None:
    """Let the agent and its broker talk."""
    with socket.socket() as any_socket:
        request = struct.pack("16sh", b"lo", IFF_UP)
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, request + bytes(22))


def lend_swap() -> None:
    """Have something to swap to: a limit of memory must hold there too."""
    file = Path("/swap")
    file.write_bytes(bytes(SWAP_BYTES))
    file.chmod(0o600)
    for command in ("/usr/sbin/mkswap", "/usr/sbin/swapon"):
        subprocess.run([command, file], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Run every program in the set-up that the kernel's command line names by its number."""
    mount()
    raise_loopback()
    lend_swap()
    setup = SETUPS[int(sys.argv[1])]
    present = (GROUPS / "cgroup.controllers").read_text().split()
    tell({"kernel": os.uname().release, "controllers": present})
    if setup.service:
        lends = [f"+{name}" for name in present if name in CONTROLLERS]
        (GROUPS / "cgroup.subtree_control").write_text(" ".join(lends))
    for program in sorted(path.name for path in PROGRAMS.iterdir()):
        print(f"{setup.name}: {program}", flush=True)
        with arranged(setup) as group:
            told = run_program(setup, program, group)
        tell(told)
    if setup.agent:
        with arranged(setup) as group:
            tell(run_agent(setup, group))
    tell({"finished": setup.name})


if __name__ == "__main__":
    try:
        main()
    except BaseException as error:
        tell({"broken": repr(error)})
        raise
    finally:
        os.sync()
        sys.stdout.flush()
        Path("/proc/sysrq-trigger").write_text("o")
        time.sleep(60)
