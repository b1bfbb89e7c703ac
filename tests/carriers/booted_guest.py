"""Inside the emulated machine, under systemd: what the unit and the package do with a real agent.

Started by a unit of its own; tells a JSON line for each check through the second serial port, and
powers the machine off. Runs on Python's standard library alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TELLS = "/dev/ttyS1"
UNIT = "limpet.service"
CONFIG, POLICY = Path("/etc/limpet/limpet.toml"), Path("/etc/limpet/policy.toml")
NEWER = Path("/packages/newer.deb")
MARKS, GO = Path("/root/marks"), Path("/root/go")
# How long to wait for what must come, in an emulated machine.
PATIENCE_S = 180.0

RULES = """
[[allow]]
source = "local"
tools = ["*", "exec", "shell"]
"""
TOOL = """\
name = "who"
argv = ["/usr/bin/id", "-un"]
on_interruption = "any"
user = "_limpet"
"""
DROP_IN = "[Service]\nWatchdogSec=10s\nTimeoutAbortSec=5s\n"


def run(*words: str, code: int | None = 0) -> str:
    """Run a command and return what it wrote; with `code` None any end will do."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if code is not None and done.returncode != code:
        raise AssertionError(f"{' '.join(words)} ended with {done.returncode}: {done.stdout}")
    return done.stdout


def shown(name: str) -> str:
    """Return a property of the unit."""
    return run("systemctl", "show", "--value", "--property", name, UNIT).strip()


def until(condition: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"{what} did not come: {run('systemctl', 'status', UNIT, code=None)}")


def ready() -> bool:
    return shown("ActiveState") == "active"


def submit(name: str, *steps: dict[str, Any], wait: bool = False) -> dict[str, Any]:
    """Hand the agent a task over its own socket; return its result if that is waited for."""
    file = Path("/root/task.json")
    file.write_text(json.dumps({"id": name, "steps": steps}))
    words = ["limpet", "submit", str(file), "--local", "--json"]
    told = run(*words, *(["--wait", "--timeout", "3m"] if wait else []), code=None)
    last: dict[str, Any] = json.loads(told.splitlines()[-1])
    return last


def shell(name: str, script: str, **more: object) -> dict[str, Any]:
    return {"name": name, "tool": "shell", "input": {"script": script}, **more}


def marked() -> str:
    return MARKS.read_text() if MARKS.exists() else ""


def begin(name: str, **more: object) -> None:
    """Start a task of three steps and wait until the second is at work, which waits for GO."""
    MARKS.unlink(missing_ok=True)
    GO.unlink(missing_ok=True)
    wait = f"echo long >> {MARKS}; while [ ! -e {GO} ]; do sleep 0.2; done"
    submit(
        name,
        shell("first", f"echo first >> {MARKS}"),
        shell("long", wait, **more),
        shell("last", f"echo last >> {MARKS}"),
    )
    until(lambda: "long" in marked(), f"the long step of {name}")


# --- the checks, in this order --------------------------------------------------------------------


def starts() -> None:
    """READY came from the one process there is, and the state is where the unit says."""
    until(ready, "the unit")
    pid = int(shown("MainPID"))
    assert shown("Type") == "notify" and shown("NRestarts") == "0"
    assert os.path.samefile(f"/proc/{pid}/exe", "/usr/bin/limpet")
    assert Path("/var/lib/limpet/journal").is_dir() and Path("/run/limpet/limpet.sock").exists()


def selftest() -> None:
    run("limpet", "selftest", "--state", "/var/lib")


def allows_nothing() -> None:
    """As it was installed; then we may do what the other checks need."""
    answer = submit("denied", shell("no", "true"))
    assert "not_allowed" in json.dumps(answer), answer
    POLICY.write_text(POLICY.read_text().replace('"refuse"', '"accept"') + RULES)
    Path("/etc/limpet/tools.d/who.toml").write_text(TOOL)
    drop_in = Path(f"/etc/systemd/system/{UNIT}.d/test.conf")
    drop_in.parent.mkdir()
    drop_in.write_text(DROP_IN)
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", UNIT)


def keeps_limits_by_delegated_groups() -> None:
    """The kernel's end of a step that takes too much is not the end of the service."""
    pid = shown("MainPID")
    hog = {"argv": ["/usr/bin/python3", "-c", "kept = bytearray(b'x') * (256 << 20)"]}
    result = submit(
        "groups",
        {"name": "who", "tool": "who", "input": {}},
        {"name": "hog", "tool": "exec", "input": hog, "limits": {"memory": "64MiB"}},
        wait=True,
    )
    who, ended = result["steps"]
    assert who["stdout"]["head"] == "_limpet\n", who
    assert ended["outcome"] == "out_of_memory", ended
    tiers = (ended["containment"], ended["memory"], ended["not_enforced"])
    assert tiers == ("cgroup_v2", "cgroup_v2", []), tiers
    assert ready() and shown("MainPID") == pid
    assert int(shown("MemoryMax")) < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def is_restarted_after_a_kill() -> None:
    begin("killed", on_interruption="rerun")
    pid = int(shown("MainPID"))
    os.kill(pid, signal.SIGKILL)
    until(lambda: ready() and shown("MainPID") not in ("0", str(pid)), "the restart")
    assert shown("NRestarts") == "1"
    GO.touch()
    until(lambda: marked() == "first\nlong\nlong\nlast\n", f"the end of the task ({marked()!r})")


def drains_when_it_is_stopped() -> None:
    """No step may be repeated: what runs may end, and the rest comes after the next start."""
    begin("stopped")
    stop = subprocess.Popen(["systemctl", "stop", UNIT])
    until(lambda: shown("ActiveState") == "deactivating", "the drain")
    GO.touch()
    assert stop.wait(PATIENCE_S) == 0 and shown("Result") == "success"
    assert marked() == "first\nlong\n"
    run("systemctl", "start", UNIT)
    until(lambda: marked() == "first\nlong\nlast\n", f"the end of the task ({marked()!r})")


def is_upgraded_in_mid_task() -> None:
    """By the maintainer scripts themselves, which wait for the drain."""
    before = POLICY.read_bytes()
    begin("upgraded")
    pid = shown("MainPID")
    with subprocess.Popen(["dpkg", "--install", str(NEWER)]) as upgrade:
        until(lambda: shown("ActiveState") == "deactivating", "the drain")
        GO.touch()
    assert upgrade.returncode == 0 and ready()
    assert shown("MainPID") != pid and POLICY.read_bytes() == before
    until(lambda: marked() == "first\nlong\nlast\n", f"the end of the task ({marked()!r})")


def is_restarted_by_its_watchdog() -> None:
    restarts, pid = int(shown("NRestarts")), int(shown("MainPID"))
    os.kill(pid, signal.SIGSTOP)
    until(lambda: ready() and shown("MainPID") not in ("0", str(pid)), "the restart")
    assert int(shown("NRestarts")) == restarts + 1


def does_not_start_over_and_over_with_mistakes() -> None:
    good = CONFIG.read_text()
    CONFIG.write_text(good + "[nonsense]\n")
    run("systemctl", "restart", UNIT, code=1)
    assert (shown("ActiveState"), shown("ExecMainStatus")) == ("failed", "78")
    time.sleep(5)
    assert (shown("ActiveState"), shown("NRestarts")) == ("failed", "0")
    CONFIG.write_text(good)
    run("systemctl", "restart", UNIT)
    assert ready()


CHECKS = (
    starts,
    selftest,
    allows_nothing,
    keeps_limits_by_delegated_groups,
    is_restarted_after_a_kill,
    drains_when_it_is_stopped,
    is_upgraded_in_mid_task,
    is_restarted_by_its_watchdog,
    does_not_start_over_and_over_with_mistakes,
)


def tell(what: dict[str, Any]) -> None:
    with open(TELLS, "w", encoding="utf-8") as port:
        port.write(json.dumps(what) + "\n")


def main() -> None:
    """Make every check."""
    tell({"kernel": os.uname().release, "systemd": run("systemctl", "--version").split()[1]})
    for check in CHECKS:
        failure = ""
        try:
            check()
        except Exception as error:
            log = run("journalctl", "--unit", UNIT, "--lines", "20", "--no-pager", code=None)
            failure = f"{error!r}\n{log}"
        tell({"check": check.__name__, "failure": failure})
    tell({"finished": True})


if __name__ == "__main__":
    try:
        main()
    finally:
        run("systemctl", "poweroff", "--force", "--force", code=None)
