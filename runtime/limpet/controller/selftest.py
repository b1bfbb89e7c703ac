"""Proves on this very machine, without a broker, that this executable does here what it promises.

Decides what is tried and what counts as proven. Each check is a trial, with a core of its own over
one journal, which is therefore opened anew every time. Nothing is needed but this executable: the
programs of steps are tools that stand here. Knows no core and no limit.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any, NamedTuple

from limpet import __version__, program
from limpet.clock import Clock
from limpet.controller import document, trial
from limpet.controller.doctor import Finding, show
from limpet.controller.terminal import Screen, plain
from limpet.errors import EXIT_OK, EXIT_TASK, LimpetError
from limpet.units import format_rounded

if TYPE_CHECKING:
    from collections.abc import Callable

# What has not ended by then never will: whoever tests a board has no controller to cancel it.
TASK_TIMEOUT = "2m"
DEADLINE = "2s"
GRACE = "200ms"
TEXT = "limpet was here\n"

# The tools, each a program in Python with nothing imported that must be unpacked.
TOOLS = {
    "answer": """\
import os
os.write(3, b'{"result": {"pid": %d}}\\n' % os.getpid())
""",
    # It will not go, and has a child that would stay behind.
    "stubborn": """\
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork():
    os.write(1, b"%d\\n" % os.getpid())
else:
    os.setsid()
    os.write(1, b"%d\\n" % os.getpid())
time.sleep(600)
""",
    # Grows until it is ended, or to what nobody gives a step unasked.
    "hog": """\
import time
kept = []
for _ in range(512):
    kept.append(bytearray(b"x") * (1 << 20))
    time.sleep(0.002)
""",
    # Waits for ever in its first life; the second tells who that was.
    "patient": """\
import os, time
if os.path.exists("first"):
    os.write(3, b'{"result": {"first": %d}}\\n' % int(open("first").read()))
else:
    with open("first", "w") as file:
        file.write(str(os.getpid()))
    os.write(3, b'{"progress": "waiting"}\\n')
    time.sleep(600)
""",
}
DECLARATION = """\
name = "{name}"
program = "{file}"
on_interruption = "any"
"""


class Unproven(Exception):
    """A check did not show what it should have: why, in one sentence."""


class Bench(NamedTuple):
    """Where the trials take place: the state directory, and the folder of the declared tools."""

    state: str
    tools: str


def run(screen: Screen, directory: str | None) -> int:
    """Show a line per check; EXIT_TASK if one failed, LimpetError if none could be made.

    All files are in a folder of their own below `directory` (None: where temporary files go), which
    is removed: name the agent's state directory to try the disk that it will use. Takes a few
    seconds, on an emulated board a few minutes.
    """
    told = f"{__version__}, Python {platform.python_version()}, {platform.machine()}"
    show(screen, Finding("ok", "limpet", told))
    failed = 0
    try:
        place = tempfile.TemporaryDirectory(
            prefix="selftest-", dir=directory, ignore_cleanup_errors=True
        )
    except OSError as error:
        cause = f"{error.filename}: {error.strerror}"
        raise document.FileError(f"cannot make {cause} (nothing was started)") from None
    with place as root:
        bench = _furnish(root)
        for name, check in CHECKS.items():
            finding = _judge(name, check, bench)
            failed += finding.verdict == "fail"
            show(screen, finding)
    return EXIT_TASK if failed else EXIT_OK


def _furnish(root: str) -> Bench:
    """Write and declare the tools below `root`."""
    bench = Bench(os.path.join(root, "state"), os.path.join(root, "tools.d"))
    os.mkdir(bench.tools)
    for name, code in TOOLS.items():
        file = os.path.join(root, f"{name}.py")
        with open(file, "w", encoding="utf-8") as stream:
            stream.write(code)
        with open(os.path.join(bench.tools, f"{name}.toml"), "w", encoding="utf-8") as stream:
            stream.write(DECLARATION.format(name=name, file=file))
    return bench


def _judge(name: str, check: Callable[[Bench], str], bench: Bench) -> Finding:
    try:
        return Finding("ok", name, check(bench))
    except (LimpetError, Unproven) as error:
        return Finding("fail", name, plain(str(error)))


# --- the checks -----------------------------------------------------------------------------------


def _process(bench: Bench) -> str:
    """A process: this executable itself, as there may be no other program."""
    argv = program.words("version")
    (step,) = _steps(bench, "process", {"tool": "exec", "input": {"argv": argv}})
    _expect(step, "succeeded")
    said = step["stdout"]["head"]
    if said != f"limpet {__version__}\n":
        raise Unproven(f"it said {said!r}")
    return f"ran, contained by {step['containment']}"


def _native_tools(bench: Bench) -> str:
    """The tools within the executable, and a result that travels from step to step."""
    path = "${steps.write.result.path}"
    steps = _steps(
        bench,
        "native",
        {"name": "write", "tool": "write", "input": {"path": "file", "data": TEXT}},
        {"name": "hash", "tool": "hash", "input": {"path": path}},
        {"name": "read", "tool": "read", "input": {"path": path}},
        {"name": "device", "tool": "device", "input": {}},
    )
    for step in steps:
        _expect(step, "succeeded")
    write, digest, *_ = steps
    if write["result"]["sha256"] != digest["result"]["sha256"]:
        raise Unproven("what was read is not what was written")
    return "write, hash, read and device ran"


def _python_tools(bench: Bench) -> str:
    (step,) = _steps(bench, "python", {"tool": "answer"})
    _expect(step, "succeeded")
    if not isinstance(step["result"], dict) or "pid" not in step["result"]:
        raise Unproven(f"its result is {step['result']!r}")
    return f"ran and told a result, {format_rounded(step['peak_bytes'])} at most"


def _deadline(bench: Bench) -> str:
    """A process that ignores TERM ends at its deadline, with a child in another session."""
    (step,) = _steps(
        bench, "deadline", {"tool": "stubborn", "start_to_close": DEADLINE, "grace": GRACE}
    )
    _expect(step, "timed_out")
    left = [pid for pid in step["stdout"]["head"].split() if _lives(pid)]
    if left:
        raise Unproven(f"processes stayed behind: {', '.join(left)}")
    return f"ended what ignored it, and its child, after {DEADLINE} and {GRACE} of grace"


def _memory(bench: Bench) -> str:
    """A process that takes without end is ended; which tier did it is told."""
    (step,) = _steps(bench, "memory", {"tool": "hog"})
    _expect(step, "out_of_memory")
    limit = format_rounded(step["limit_bytes"])
    missing = ", ".join(step["not_enforced"])
    return f"ended at {limit} by {step['memory']}" + (
        f"; nothing keeps {missing}" if missing else ""
    )


def _restart(bench: Bench) -> str:
    """A process of limpet is killed in mid-step; the next one finds the task and ends it."""
    write = {"name": "write", "tool": "write", "input": {"path": "file", "data": TEXT}}
    wait = {"name": "wait", "tool": "patient", "on_interruption": "rerun"}
    check = {"name": "check", "tool": "hash", "input": {"path": "${steps.write.result.path}"}}
    task = _task("restart", write, wait, check)
    file = os.path.join(bench.tools, "restart.json")
    with open(file, "w", encoding="utf-8") as stream:
        json.dump(task, stream)
    _kill_in_mid_step(bench, file)
    steps = _try(bench, task)
    for step in steps:
        _expect(step, "succeeded")
    told = steps[1]["result"] or {}
    if "first" not in told:
        raise Unproven("the step that was killed did not run again")
    if _lives(str(told["first"])):
        raise Unproven(f"process {told['first']} of the killed one stayed behind")
    return "killed in mid-step; the journal was opened again and the task went on to its end"


CHECKS: dict[str, Callable[[Bench], str]] = {
    "process": _process,
    "native tools": _native_tools,
    "python tools": _python_tools,
    "deadline": _deadline,
    "memory": _memory,
    "restart": _restart,
}


# --- how a check is made --------------------------------------------------------------------------


class _Heard(Screen):
    """A screen that keeps what is recorded instead of showing it."""

    __slots__ = ("records",)

    def __init__(self) -> None:
        super().__init__(sys.stdout, sys.stderr, json=True)
        self.records: list[Any] = []

    def record(self, value: object) -> None:
        self.records.append(value)


def _task(name: str, *steps: dict[str, Any]) -> dict[str, Any]:
    named = [{"name": "only", "input": {}, **step} for step in steps]
    task = {"schedule_to_close": TASK_TIMEOUT, "steps": named}
    return document.fill(task, name, os.urandom(4).hex(), Clock().wall_ms())


def _steps(bench: Bench, name: str, *steps: dict[str, Any]) -> list[dict[str, Any]]:
    return _try(bench, _task(name, *steps))


def _try(bench: Bench, task: dict[str, Any]) -> list[dict[str, Any]]:
    """Run `task` to its end and return how its steps have ended."""
    heard = _Heard()
    compiled = document.compile(task, trial.SOURCE, Clock().wall_ms())
    trial.run(heard, compiled, None, bench.tools, bench.state, allow_reboot=False)
    result = heard.records[-1]
    if result["outcome"] == "cancelled":
        raise KeyboardInterrupt
    steps: list[dict[str, Any]] = result["steps"]
    return steps


def _kill_in_mid_step(bench: Bench, file: str) -> None:
    """Try the task in `file` in a process of its own, and kill that once a step is at work."""
    words = ["try", file, "--tools", bench.tools, "--state", bench.state, "--json"]
    heard: dict[str, Any] = {}
    with subprocess.Popen(program.words(*words), stdout=subprocess.PIPE) as process:
        if process.stdout is None:
            raise Unproven("it has no standard output")
        for line in process.stdout:
            heard = json.loads(line)
            if heard.get("progress"):
                process.kill()
                return
    for step in heard.get("steps", []):
        _expect(step, "succeeded")
    raise Unproven(f"no step came to work: it ended with {process.returncode}")


def _expect(step: dict[str, Any], outcome: str) -> None:
    if step["outcome"] == outcome:
        return
    why = step["reason"] or step["detail"] or step["stderr"]["head"].strip()
    raise Unproven(
        f"{step['name']} is {step['outcome']}, not {outcome}" + (f": {why}" if why else "")
    )


def _lives(pid: str) -> bool:
    """Whether the process `pid` is there and runs: one that only nobody has waited for does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
