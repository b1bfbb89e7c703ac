"""Caps around an agent: with its steps, in a container in spirit; or alone, its steps beside it.

`Cage` is what `docker run --memory=32m --read-only --cap-drop=ALL --user 1000` gives, from a
control group and `unshare`: the group has the cap and no swap, every file system but the agent's
directory is read-only, an ordinary user without capabilities, its own process ids. `Alone` is a
cap on the group `limpet.agent`, beside which root's agent makes the groups of its steps, with as
few places to write to. Both need root, and the memory controller of version 1.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from pathlib import Path

USER = 1000
MEMORY = Path("/sys/fs/cgroup/memory")
GROUP_GONE_S = 10.0

# Every file system but these, and the agent's directory.
READ_ONLY = """\
findmnt -rno TARGET | grep -v -e '^/proc' -e '^{directory}$' -e '^/dev' {but} |
    while read -r mounted; do
        mount -o remount,bind,ro "$mounted"
    done"""
# In a name space of mounts and processes of its own, still as root: make everything read-only,
# then let go of every right. The interpreter's home is one that others may not enter.
INSIDE = """\
set -e
mount --bind {directory} {directory}
mount -t proc proc /proc
if [ -n "{closed}" ]; then
    mount --bind {interpreter} /mnt
    mount -t tmpfs -o mode=755,size=64k none {closed}
    mkdir -p {interpreter}
    mount --move /mnt {interpreter}
fi
{read_only}
exec setpriv --reuid={user} --regid={user} --clear-groups --bounding-set=-all --inh-caps=-all \\
    --no-new-privs -- "$@"
"""


def own_group() -> Path:
    """Return the group that counts our own memory."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = next(line for line in lines if line.split(":")[1] == "memory")
    return MEMORY / own.split(":")[2].lstrip("/")


class Cage:
    """A control group with a cap, and the command line that starts a program inside of it."""

    def __init__(self, directory: Path, cap_bytes: int) -> None:
        """Make the group; `directory` and all in it become the user's."""
        self._directory = directory
        self._group = self._place()
        self._group.mkdir(parents=True)
        (self._group / "memory.limit_in_bytes").write_text(str(cap_bytes))
        swap = self._group / "memory.memsw.limit_in_bytes"
        if swap.exists():
            swap.write_text(str(cap_bytes))
        (self._group / "memory.swappiness").write_text("0")

    def _place(self) -> Path:
        """Return where the group with the cap is to be."""
        return own_group() / f"limpet-cage-{os.getpid()}"

    def argv(self, *program: str) -> list[str]:
        """Return what runs `program` inside; the directory is handed over to the user first."""
        for path in [self._directory, *self._directory.rglob("*")]:
            os.chown(path, USER, USER, follow_symlinks=False)
        interpreter = Path(sys.base_prefix)
        closed = [place for place in interpreter.parents if not place.stat().st_mode & 0o001]
        inside = INSIDE.format(
            directory=self._directory,
            read_only=READ_ONLY.format(directory=self._directory, but=""),
            interpreter=interpreter,
            closed=closed[-1] if closed else "",
            user=USER,
        )
        enter = f"echo $$ > {self._group}/cgroup.procs; exec " + shlex.join(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
        )
        return ["/bin/sh", "-c", f'{enter} /bin/sh -c "$0" sh "$@"', inside, *program]

    def pids(self) -> list[int]:
        """Return the processes inside, the oldest first."""
        return sorted(map(int, (self._group / "cgroup.procs").read_text().split()))

    def find(self, program: str) -> int:
        """Return the agent inside, which began as `program`, a path; not what starts it."""
        for pid in self.pids():
            argv = Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")
            if argv[0] == program and argv[-1].endswith("/limpet.toml"):
                return pid
        raise AssertionError(f"nothing runs {program}")

    def kills(self) -> int:
        """Return how many processes the kernel has killed for the cap."""
        lines = (self._group / "memory.oom_control").read_text().splitlines()
        return int(dict(line.split() for line in lines)["oom_kill"])

    def peak_bytes(self) -> int:
        """Return the most that was charged to the group, cached files included."""
        return int((self._group / "memory.max_usage_in_bytes").read_text())

    def close(self) -> None:
        """End whatever is still inside and remove the group."""
        end = time.monotonic() + GROUP_GONE_S
        while (pids := self.pids()) and time.monotonic() < end:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        self._group.rmdir()


class Alone(Cage):
    """A cap on the agent's own process; what it starts has groups of its own."""

    def _place(self) -> Path:
        return super()._place() / "limpet.agent"

    def argv(self, *program: str) -> list[str]:
        """Return what runs `program` in the capped group, where it writes to its directory only."""
        directory = self._directory
        inside = f"set -e; mount --bind {directory} {directory}\n"
        inside += READ_ONLY.format(directory=directory, but="-e '^/sys/fs/cgroup/'")
        enter = f"echo $$ > {self._group}/cgroup.procs; exec unshare --mount --propagation private"
        return [
            "/bin/sh",
            "-c",
            f'{enter} /bin/sh -c "$0" sh "$@"',
            f'{inside}\nexec "$@"',
            *program,
        ]

    def close(self) -> None:
        """End whatever is still inside and remove the groups."""
        super().close()
        # An agent that was killed has left its steps' groups beside its own.
        for group, _, _ in os.walk(self._group.parent, topdown=False):
            os.rmdir(group)
