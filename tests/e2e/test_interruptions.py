"""What survives a kill, a broker that goes away, and a stop."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from brokers import Broker
from fleet import AGENT, Controller, Device, processes_with, step, task, until

# Takes 40 MiB when it is told to, in its first life only, and has no patience with itself.
GROWN = f"""\
import os, sys, threading, time
from limpet import memory
memory.RESTART_AFTER_MS, memory.BEYOND_LOOKS, memory.LOOK_MS = 0, 2, 100
directory = os.path.dirname(sys.argv[1])
def grow():
    global held
    while not os.path.exists(directory + "/grow"):
        time.sleep(0.01)
    held = bytearray(b"x") * (40 << 20)
if "GROWN" not in os.environ:
    os.environ["GROWN"] = "yes"
    threading.Thread(target=grow, daemon=True).start()
{AGENT}"""
WAIT = "touch $0/runs; while [ ! -e $0/go ]; do sleep 0.05; done"


def shell(name: str, script: str, **more: object) -> dict[str, object]:
    return {"name": name, "tool": "shell", "input": {"script": script}, **more}


def written(file: Path) -> str:
    """Return what stands in `file`, or nothing while it is not there."""
    return file.read_text() if file.exists() else ""


def test_a_killed_agent_goes_on_where_it_was(
    device: Device, controller: Controller, tmp_path: Path
) -> None:
    """A `rerun` step runs again with its context, and nothing of the first run is left alive."""
    controller.wait_online()
    wait = f"echo run >> {tmp_path}/runs; [ -e {tmp_path}/go ] || setsid sleep 100481"
    steps = [
        step("first", "/bin/echo", "kept"),
        shell("long", wait, on_interruption="rerun"),
        step("last", "/bin/echo", "still ${steps.first.stdout}"),
    ]
    controller.send(task("kill-1", steps))
    # The shell's own command line names the program too: what it wrote says that it is at work.
    until(lambda: written(tmp_path / "runs"), "the long step")
    device.kill()
    (tmp_path / "go").touch()
    device.start()
    result = controller.wait("result", "kill-1")
    told = {one["name"]: one for one in result["steps"]}
    assert result["outcome"] == "succeeded", result
    assert told["last"]["stdout"]["head"] == "still kept\n"
    assert (tmp_path / "runs").read_text() == "run\nrun\n"
    assert processes_with("100481") == []


def test_a_killed_stop_step_is_uncertain_and_never_runs_again(
    device: Device, controller: Controller, tmp_path: Path
) -> None:
    controller.wait_online()
    script = f"echo run >> {tmp_path}/runs; sleep 100491"
    last = [step("last", "/bin/echo", "bye")]
    controller.send(task("stop-1", [shell("once", script)], **{"finally": last}))
    until(lambda: written(tmp_path / "runs"), "the step")
    device.kill()
    device.start()
    result = controller.wait("result", "stop-1")
    told = [one["outcome"] for one in result["steps"]]
    assert (result["outcome"], told) == ("uncertain", ["uncertain", "succeeded"])
    assert (tmp_path / "runs").read_text() == "run\n"
    assert processes_with("100491") == []


def test_a_result_is_told_again_until_the_broker_has_it(
    broker: Broker, device: Device, controller: Controller, tmp_path: Path
) -> None:
    """The broker vanishes while a task runs; its result arrives when the broker is back."""
    controller.wait_online()
    script = f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"
    controller.send(task("away-1", [shell("wait", script)]))
    controller.wait("answer", "away-1")
    broker.stop()
    (tmp_path / "go").touch()
    until(lambda: "task.ended" in device.log(), "the end of the task")
    # A broker keeps nothing for a controller that is not there: the device is last to come back.
    device.send_signal(signal.SIGSTOP)
    controller.ready = False
    broker.start()
    until(lambda: controller.ready, "the controller's return")
    device.send_signal(signal.SIGCONT)
    assert controller.wait("result", "away-1")["outcome"] == "succeeded"


def test_a_stop_says_goodbye_and_ends_with_zero(device: Device, controller: Controller) -> None:
    controller.wait_online()
    assert device.stop() == 0
    gone = until(lambda: [p for p in controller.all("presence") if not p["online"]], "a goodbye")
    assert gone[-1]["nonce"] == controller.all("presence")[0]["nonce"]


def test_a_stop_leaves_a_rerun_step_for_the_next_start(
    device: Device, controller: Controller, tmp_path: Path
) -> None:
    controller.wait_online()
    script = f"[ -e {tmp_path}/go ] || sleep 100501"
    controller.send(task("drain-1", [shell("long", script, on_interruption="rerun")]))
    until(lambda: processes_with("100501"), "the step")
    assert device.stop() == 0
    assert processes_with("100501") == []
    (tmp_path / "go").touch()
    device.start()
    assert controller.wait("result", "drain-1")["outcome"] == "succeeded"


def test_a_killed_agent_is_told_offline_by_its_will(device: Device, controller: Controller) -> None:
    online = controller.wait_online()
    device.kill()
    gone = until(lambda: [p for p in controller.all("presence") if not p["online"]], "the will")
    assert gone[-1]["nonce"] == online["nonce"]
    device.start()
    again = until(lambda: controller.all("presence")[-1]["online"], "the next birth")
    assert again
    assert controller.all("presence")[-1]["nonce"] != online["nonce"]


@pytest.mark.parametrize("broker", [("mosquitto", "3.1.1")], indirect=True)
def test_an_oversized_message_does_not_make_a_device_unreachable(
    device: Device, controller: Controller
) -> None:
    """The broker would deliver it anew at each connection, before anything else."""
    controller.wait_online()
    controller.send_bytes(bytes(1024 * 1024))
    until(lambda: "link.ready" in device.log().partition("session_dropped")[2], "a new session")
    controller.send(task("after-1", [step("say", "/bin/echo", "here")]))
    assert controller.wait("result", "after-1")["outcome"] == "succeeded"


def test_an_agent_beyond_its_budget_starts_anew_in_order(
    broker: Broker, tmp_path: Path, controller: Controller
) -> None:
    """In the same process, when what ran has ended; what came meanwhile is refused for now."""
    device = Device(tmp_path, broker, broker.protocol)
    config = device.directory / "limpet.toml"
    config.write_text(config.read_text() + '\n[limits.memory]\nagent = "24MiB"\n')

    def births() -> list[dict[str, Any]]:
        return [presence for presence in controller.all("presence") if presence["online"]]

    device.start(GROWN)
    try:
        controller.wait_online()
        controller.send(task("before-1", [step("wait", "/bin/sh", "-c", WAIT, str(tmp_path))]))
        assert controller.wait("answer", "before-1")["answer"] == "accepted"
        until((tmp_path / "runs").exists, "the step")
        (tmp_path / "grow").touch()
        until(lambda: "memory.restart" in device.log(), "the end of its patience")
        controller.send(task("early-1", [step("a", "/bin/true")]))
        assert controller.wait("answer", "early-1")["code"] in ("busy_memory", "draining")
        (tmp_path / "go").touch()
        assert controller.wait("result", "before-1")["outcome"] == "succeeded"
        until(lambda: len(births()) > 1, "its second life")
        assert device.process is not None
        assert device.process.poll() is None
        controller.send(task("after-1", [step("a", "/bin/true")]))
        assert controller.wait("result", "after-1")["outcome"] == "succeeded"
        assert "restart=True" in device.log()
    finally:
        device.stop()
