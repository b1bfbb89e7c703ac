"""What a controller can rely on over a real broker: tasks run, answers come, nothing twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from brokers import Broker
from fleet import Controller, Device, processes_with, step, task, until

from limpet.codec import frame


def test_a_task_runs_to_its_result(device: Device, controller: Controller) -> None:
    """Steps, a reference, a retry, a timeout that is allowed to happen, and finally."""
    controller.wait_online()
    flaky = "if [ -e tried ]; then echo again; else touch tried; exit 3; fi"
    retry = {"maximum_attempts": 3, "initial_interval": "10ms"}
    shell = {"name": "flaky", "tool": "shell", "input": {"script": flaky}}
    document = task(
        "all-1",
        [
            step("hello", "/bin/echo", "world"),
            {**shell, "on_interruption": "rerun", "retry": retry},
            step("use", "/bin/echo", "hello ${steps.hello.stdout}"),
            step("slow", "/bin/sleep", "60", start_to_close="200ms", allow_failure=True),
            {"name": "nap", "tool": "sleep", "input": {"duration": "10ms"}},
        ],
        **{"finally": [step("last", "/bin/echo", "bye")]},
    )
    controller.send(document)
    assert controller.wait("answer", "all-1")["answer"] == "accepted"
    result = controller.wait("result", "all-1")
    steps = {one["name"]: one for one in result["steps"]}
    assert result["outcome"] == "succeeded", result
    assert steps["use"]["stdout"]["head"] == "hello world\n"
    assert steps["flaky"]["attempts"] == 2
    assert (steps["slow"]["outcome"], steps["slow"]["clock"]) == ("timed_out", "start_to_close")
    assert steps["last"]["stdout"]["head"] == "bye\n"


def test_a_refusal_is_answered_once_and_acknowledged(
    device: Device, controller: Controller
) -> None:
    """Nothing that was refused comes again after a restart, and what follows is served."""
    controller.wait_online()
    controller.send(task("bad-1", [{"name": "a", "tool": "exec", "input": {}, "colour": 1}]))
    controller.send(task("bad-2", [{"name": "a", "tool": "nonesuch"}]))
    controller.send_bytes(b"no frame at all")
    controller.send(task("good-1", [step("a", "/bin/true")]))
    assert controller.wait("answer", "bad-1")["code"] == "field_unknown"
    assert controller.wait("answer", "bad-2")["code"] == "unknown_tool"
    assert controller.wait("result", "good-1")["outcome"] == "succeeded"
    assert device.stop() == 0
    device.start()
    controller.send(task("good-2", [step("a", "/bin/true")]))
    controller.wait("result", "good-2")
    answers = [(str(body["id"]), body["answer"]) for body in controller.all("answer")]
    # Acknowledgements keep the order of arrival; answers may overtake each other.
    assert sorted(answers) == [
        ("None", "refused"),
        ("bad-1", "refused"),
        ("bad-2", "refused"),
        ("good-1", "accepted"),
        ("good-2", "accepted"),
    ]


def test_the_same_bytes_run_once_and_others_conflict(
    device: Device, controller: Controller, tmp_path: Path
) -> None:
    controller.wait_online()
    script = f"echo ran >> {tmp_path}/count"
    document = task("twice-1", [{"name": "a", "tool": "shell", "input": {"script": script}}])
    message = controller.send(document)
    controller.wait("result", "twice-1")
    controller.send_bytes(message)
    known = controller.wait("answer", "twice-1", 2)
    assert (known["answer"], known["outcome"]) == ("known", "succeeded")
    controller.send({**document, "priority": 1})
    assert controller.wait("answer", "twice-1", 3)["code"] == "id_conflict"
    assert (tmp_path / "count").read_text() == "ran\n"


def test_a_retained_task_is_ignored(device: Device, controller: Controller, broker: Broker) -> None:
    """It would run again on every connect; only what is sent to a device that listens counts."""
    controller.wait_online()
    assert device.stop() == 0
    message = frame(json.dumps(task("kept-1", [step("a", "/bin/true")])).encode())
    other = Controller(broker, "monitor")
    other.send_bytes(message, retain=True)
    # The session has a copy that is not retained; it is refused by policy, and that is all.
    device.start()
    controller.send(task("after-1", [step("a", "/bin/true")]))
    controller.wait("result", "after-1")
    other.send_bytes(b"", retain=True)
    other.close()
    assert controller.all("answer", "kept-1") == []
    assert {body["code"] for body in other.all("answer", "kept-1")} <= {"not_allowed"}
    assert len(other.all("answer", "kept-1")) <= 1


def test_a_cancel_ends_a_tree_that_left_its_session(device: Device, controller: Controller) -> None:
    controller.wait_online()
    script = "setsid sh -c 'sleep 100471 & exec sleep 100472' & echo up; wait"
    steps = [{"name": "tree", "tool": "shell", "input": {"script": script}}]
    controller.send(task("tree-1", steps, **{"finally": [step("last", "/bin/echo", "bye")]}))
    until(lambda: len(processes_with("100472")) >= 2 and processes_with("100471"), "the tree")
    controller.send({"limpet": 1, "id": "tree-1"}, "cancel")
    result = controller.wait("result", "tree-1")
    steps_told = {one["name"]: one["outcome"] for one in result["steps"]}
    assert result["outcome"] == "cancelled"
    assert steps_told == {"tree": "cancelled", "last": "succeeded"}
    assert processes_with("10047") == []
    requests = [body["request"] for body in controller.all("answer", "tree-1")]
    assert requests == ["task", "cancel"]


def test_publish_reaches_the_broker_before_its_step_ends(
    device: Device, controller: Controller
) -> None:
    controller.wait_online()
    say = {"topic": "lamp/1", "payload": '{"on": true}'}
    controller.send(task("say-1", [{"name": "say", "tool": "publish", "input": say}]))
    assert controller.wait("result", "say-1")["outcome"] == "succeeded"
    kinds = [kind for kind, body in controller.heard if kind in ("publish", "result")]
    assert kinds == ["publish", "result"]


def test_state_is_told_while_a_task_runs(device: Device, controller: Controller) -> None:
    controller.wait_online()
    controller.send(task("state-1", [step("slow", "/bin/sleep", "0.3")]))
    controller.wait("result", "state-1")
    states = controller.all("state", "state-1")
    places = [(state["phase"], state["step"], state["attempt"]) for state in states]
    assert ("running", 0, 1) in places
    sequences = [state["sequence"] for state in states]
    assert sequences == sorted(sequences)


def test_a_recording_on_demand_replays_at_the_desk(device: Device, controller: Controller) -> None:
    controller.wait_online()
    controller.send(task("seen-1", [step("a", "/bin/true")]))
    controller.wait("result", "seen-1")
    limpet = [sys.executable, "-m", "limpet"]
    asked = [*limpet, "record", "--json", "--config", str(device.directory / "limpet.toml")]
    directory = json.loads(subprocess.run(asked, capture_output=True, check=True).stdout)
    recordings = Path(directory["directory"])
    until(lambda: list(recordings.glob("*-asked.json")), "a recording")
    replay = [*limpet, "replay", "--json", str(recordings)]
    said = subprocess.run(replay, capture_output=True, check=True)
    *decisions, total = [json.loads(line) for line in said.stdout.splitlines()]
    assert (total["reason"], total["differ"]) == ("asked", 0)
    assert any("Submit" in each["input"] for each in decisions)


def test_a_burst_beyond_every_window_is_answered_to_the_last_message(
    device: Device, controller: Controller
) -> None:
    """Some brokers send far beyond our receive maximum, and what we leave only at a connection."""
    controller.wait_online()
    for number in range(700):
        controller.send_bytes(b"no frame, number %d" % number, wait=False)
    controller.send(task("last-1", [step("a", "/bin/true")]))
    assert controller.wait("result", "last-1")["outcome"] == "succeeded"
    until(lambda: len(controller.all("answer")) >= 701, "an answer to each message")
