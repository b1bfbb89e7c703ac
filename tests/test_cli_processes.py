"""The commands as processes: with a real core, and with a real broker and agent on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from limpet.errors import (
    EXIT_OK,
    EXIT_SOFTWARE,
    EXIT_TASK,
    EXIT_TEMPORARY,
    EXIT_TIMEOUT,
    EXIT_USAGE,
)

pytest.importorskip("limpet.native._core", reason="run `make build`")
pytest.importorskip("iotcore")

from limpet.controller import demo, demo_files

PATIENCE_S = 60
COMMAND = [sys.executable, "-m", "limpet"]
BYE = [{"name": "bye", "tool": "exec", "input": {"argv": ["/bin/echo", "bye"]}}]


def limpet(*words: str) -> tuple[int, list[dict[str, Any]]]:
    """Run one command with --json; return its exit code and what it said on stdout."""
    done = subprocess.run(
        [*COMMAND, *words, "--json"], capture_output=True, text=True, timeout=PATIENCE_S
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def answers(said: list[dict[str, Any]]) -> list[str]:
    """Return the answers of what was said; states may come before them."""
    return [each["answer"] for each in said if each["kind"] == "answer"]


def until_running(process: subprocess.Popen[str]) -> None:
    """Read what `process` says until a step runs."""
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("phase") == "running":
            return
    pytest.fail("no step ever ran")


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*COMMAND, *words, "--json"], stdout=subprocess.PIPE, text=True)


def write(path: Path, steps: list[dict[str, Any]], **fields: object) -> str:
    path.write_text(json.dumps({"steps": steps, **fields}))
    return str(path)


def shell(name: str, script: str, **fields: object) -> dict[str, Any]:
    return {"name": name, "tool": "shell", "input": {"script": script}, **fields}


def test_a_trial_hands_results_from_step_to_step(tmp_path: Path) -> None:
    steps = [
        shell("ask", """echo '{"result": {"n": 7}}' >&3"""),
        {"name": "say", "tool": "exec", "input": {"argv": ["/bin/echo", "${steps.ask.result.n}"]}},
        {"name": "tell", "tool": "publish", "input": {"topic": "a/b", "payload": {"n": 1}}},
    ]
    code, said = limpet("try", write(tmp_path / "t.json", steps))
    assert code == EXIT_OK
    result = said[-1]
    assert (result["kind"], result["outcome"]) == ("result", "succeeded")
    assert result["steps"][1]["stdout"]["head"] == "7\n"
    assert [each["topic"] for each in said if each["kind"] == "publish"] == ["a/b"]


def test_a_trial_that_fails_says_so_with_its_exit_code(tmp_path: Path) -> None:
    steps = [shell("a", "exit 3"), shell("b", "true")]
    code, said = limpet("try", write(tmp_path / "t.json", steps))
    assert code == EXIT_TASK
    assert [step["outcome"] for step in said[-1]["steps"]] == ["failed", "skipped"]


def test_a_trial_never_reboots_by_itself(tmp_path: Path) -> None:
    code, said = limpet("try", write(tmp_path / "t.json", [{"name": "a", "tool": "reboot"}]))
    assert code == EXIT_TASK
    assert "--allow-reboot" in said[-1]["steps"][0]["detail"]


def test_a_trial_under_a_policy_may_only_do_what_that_allows(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[[allow]]\nsource = "local"\ntools = ["sleep"]\n')
    task = write(tmp_path / "t.json", [shell("a", "true")])
    code, said = limpet("try", task, "--policy", str(policy))
    assert (code, said) == (EXIT_TASK, [])


def test_interrupting_a_trial_cancels_its_task_and_waits_for_finally(tmp_path: Path) -> None:
    task = write(tmp_path / "t.json", [shell("long", "sleep 300")], **{"finally": BYE})
    with start("try", task) as process:
        until_running(process)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=PATIENCE_S)
    result = json.loads(rest.splitlines()[-1])
    assert process.returncode == EXIT_TASK
    assert result["outcome"] == "cancelled"
    assert [step["outcome"] for step in result["steps"]] == ["cancelled", "succeeded"]


def test_a_killed_trial_goes_on_from_its_journal(tmp_path: Path) -> None:
    nap = {"name": "nap", "tool": "sleep", "input": {"duration": "1s"}, "on_interruption": "rerun"}
    fields = {"id": "t-1", "expires_at": "2037-01-01T00:00:00Z"}
    task = write(tmp_path / "t.json", [nap], **fields)
    state = str(tmp_path / "state")
    with start("try", task, "--state", state) as process:
        until_running(process)
        process.kill()
    code, said = limpet("try", task, "--state", state)
    assert code == EXIT_OK
    assert answers(said) == ["known"]
    code, records = limpet("journal", "show", state)
    kinds = [record["record"] for record in records]
    assert code == EXIT_OK
    assert kinds.count("accepted") == 1 and kinds.count("opened") == 2


def uncertain(tmp_path: Path) -> str:
    """Return the state directory of a task that was killed where it must not be repeated."""
    nap = {"name": "nap", "tool": "sleep", "input": {"duration": "60s"}, "on_interruption": "stop"}
    fields = {"id": "t-1", "expires_at": "2037-01-01T00:00:00Z"}
    task, state = write(tmp_path / "t.json", [nap], **fields), str(tmp_path / "state")
    with start("try", task, "--state", state) as process:
        until_running(process)
        process.kill()
    assert limpet("try", task, "--state", state)[0] == EXIT_TASK
    return state


def test_an_uncertain_end_is_recorded_and_replayed(tmp_path: Path) -> None:
    """The machine that decided it is fed the same inputs again, and decides the same."""
    state = uncertain(tmp_path)
    code, said = limpet("replay", state)
    *decisions, total = said
    assert code == EXIT_OK
    assert (total["reason"], total["differ"], total["panics"]) == ("uncertain", 0, None)
    assert total["inputs"] == len(decisions)
    assert any("uncertain" in change[2] for each in decisions for change in each["changes"])
    done = subprocess.run([*COMMAND, "replay", state], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].endswith("every decision is the same")


def test_a_recording_that_decides_otherwise_fails(tmp_path: Path) -> None:
    state = uncertain(tmp_path)
    (file,) = (tmp_path / "state" / "recordings").iterdir()
    document = json.loads(file.read_text())
    document["generations"][0]["entries"][-1]["digest"] ^= 1
    file.write_text(json.dumps(document))
    code, said = limpet("replay", str(file))
    assert (code, said[-1]["differ"]) == (EXIT_SOFTWARE, 1)
    file.write_text("{}")
    done = subprocess.run([*COMMAND, "replay", state], capture_output=True, text=True)
    assert done.returncode == EXIT_USAGE
    assert done.stderr.startswith("limpet: cannot replay ")


def test_an_agent_that_may_not_come_first_says_so_and_does_not_start(tmp_path: Path) -> None:
    config = tmp_path / "limpet.toml"
    (tmp_path / "policy.toml").write_text("")
    config.write_text(
        f'device = {{ name = "late", state_directory = "{tmp_path}/state", realtime = true }}\n'
        f'policy = {{ file = "{tmp_path}/policy.toml", tools_directory = "{tmp_path}/tools.d" }}\n'
        f'socket = {{ path = "{tmp_path}/limpet.sock" }}\n'
    )
    without = ["prlimit", "--rtprio=0", "--"]
    if os.geteuid() == 0:
        without += ["setpriv", "--bounding-set=-sys_nice", "--inh-caps=-sys_nice"]
    command = [*without, *COMMAND, "run", "--config", str(config)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert ended.returncode == EXIT_TEMPORARY, ended.stderr
    assert "cannot raise the timer's priority: Operation not permitted" in ended.stderr
    assert "the agent does not start with device.realtime" in ended.stderr


def test_the_doctor_finds_a_core_that_opens() -> None:
    _, findings = limpet("doctor")
    verdicts = {each["name"]: each["verdict"] for each in findings}
    assert verdicts["core"] == "ok"
    assert "containment" in verdicts


class Fleet:
    """A broker and one agent; `command` speaks to them as a controller."""

    def __init__(self, port: int) -> None:
        self._where = ["--host", demo.LOOPBACK, "--port", str(port), "--source", demo_files.SOURCE]

    def command(self, name: str, *words: str) -> tuple[int, list[dict[str, Any]]]:
        return limpet(name, *self.words(*words))

    def words(self, *words: str) -> list[str]:
        return [*words, *self._where]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    root = str(tmp_path_factory.mktemp("device"))
    with demo.broker() as port:
        demo.write_device(root, port)
        with demo.Agent(root):
            fleet = Fleet(port)
            end = time.monotonic() + PATIENCE_S
            while not any(each["online"] for each in fleet.command("devices")[1]):
                assert time.monotonic() < end, "the agent does not come"
            yield fleet


DEVICE = ("-d", demo_files.DEVICE)


def test_a_submission_is_followed_to_its_result(fleet: Fleet, tmp_path: Path) -> None:
    task = write(tmp_path / "t.json", [{"name": "a", "tool": "facts"}])
    code, said = fleet.command("submit", task, *DEVICE, "--wait")
    assert code == EXIT_OK
    assert answers(said) == ["accepted"]
    assert said[-1]["steps"][0]["result"]["machine"] == os.uname().machine


def test_sending_the_same_bytes_again_finds_the_task_known(fleet: Fleet, tmp_path: Path) -> None:
    fields = {"id": "same", "limpet": 1, "expires_at": "2037-01-01T00:00:00Z"}
    task = write(tmp_path / "t.json", [{"name": "a", "tool": "facts"}], **fields)
    assert fleet.command("submit", task, *DEVICE, "--wait")[0] == EXIT_OK
    code, said = fleet.command("submit", task, *DEVICE, "--wait")
    assert code == EXIT_OK
    assert answers(said) == ["known"]


def test_a_refusal_is_told_and_has_its_exit_code(fleet: Fleet, tmp_path: Path) -> None:
    task = write(tmp_path / "t.json", [shell("a", "true")])
    code, said = fleet.command("submit", task, *DEVICE)
    assert code == EXIT_TASK
    assert said[0]["code"] == "not_allowed"


def test_a_device_that_is_not_there_is_a_timeout(fleet: Fleet, tmp_path: Path) -> None:
    task = write(tmp_path / "t.json", [{"name": "a", "tool": "facts"}])
    code, said = fleet.command("submit", task, "-d", "nobody", "--timeout", "1s")
    assert (code, said) == (EXIT_TIMEOUT, [])


def test_who_asks_for_the_result_alone_does_not_wait_for_an_answer(
    fleet: Fleet, tmp_path: Path
) -> None:
    task = write(tmp_path / "t.json", [{"name": "a", "tool": "facts"}], report="result")
    code, said = fleet.command("submit", task, *DEVICE, "--wait")
    assert (code, [one["kind"] for one in said]) == (EXIT_OK, ["result"])
    code, said = fleet.command("submit", task, *DEVICE)
    assert (code, [one["kind"] for one in said]) == (EXIT_OK, ["sent"])
    refused = write(tmp_path / "r.json", [shell("a", "true")], report="result")
    code, said = fleet.command("submit", refused, *DEVICE, "--wait")
    assert (code, answers(said)) == (EXIT_TASK, ["refused"])
    code, said = fleet.command("submit", task, "-d", "nobody", "--wait", "--timeout", "1s")
    assert (code, said) == (EXIT_TIMEOUT, [])


def test_a_running_task_can_be_cancelled(fleet: Fleet, tmp_path: Path) -> None:
    nap = {"name": "a", "tool": "sleep", "input": {"duration": "5m"}}
    task = write(tmp_path / "t.json", [nap], id="nap-1")
    with start("submit", *fleet.words(task, *DEVICE, "--wait")) as process:
        until_running(process)
        assert fleet.command("cancel", "nap-1", *DEVICE)[0] == EXIT_OK
        rest, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == EXIT_TASK
    assert json.loads(rest.splitlines()[-1])["outcome"] == "cancelled"


def test_a_retry_is_a_new_task_from_its_step(fleet: Fleet, tmp_path: Path) -> None:
    steps = [{"name": name, "tool": "facts"} for name in ("a", "b")]
    task = write(tmp_path / "t.json", steps, id="twice")
    code, said = fleet.command("retry", task, "--from", "b", *DEVICE, "--wait")
    assert code == EXIT_OK
    assert said[-1]["id"].startswith("twice-retry-")
    assert [step["name"] for step in said[-1]["steps"]] == ["b"]


def test_devices_tell_their_presence(fleet: Fleet) -> None:
    code, said = fleet.command("devices")
    assert code == EXIT_OK
    assert [(each["device"], each["online"]) for each in said] == [(demo_files.DEVICE, True)]


def test_the_demonstration_proves_everything_it_claims_and_leaves_nothing() -> None:
    with start("demo") as process:
        out, _ = process.communicate(timeout=2 * PATIENCE_S)
    proofs = [line for line in map(json.loads, out.splitlines()) if line["kind"] == "proof"]
    assert process.returncode == EXIT_OK
    assert proofs and all(proof["proven"] for proof in proofs)
    assert [line for line in command_lines() if b"limpet-demo-" in line] == []


def command_lines() -> Iterator[bytes]:
    """Yield the command line of every process."""
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            yield Path(f"/proc/{name}/cmdline").read_bytes()
