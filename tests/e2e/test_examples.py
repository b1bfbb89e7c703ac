"""The three jobs that users bring first, each over a real broker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from brokers import Broker
from fleet import Controller, Device, step, task, until

ONE_LANE = pytest.mark.parametrize("broker", [("mosquitto", "5")], indirect=True, ids=["5"])

SENSOR = """\
name = "sensor"
argv = ["{program}", {{ param = "kind" }}]
on_interruption = "any"

[params.kind]
type = "choice"
choices = ["temperature"]
required = true

[ceilings]
start_to_close = "10s"
"""


def steps_of(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in result["steps"]}


def update(task_id: str, root: Path) -> dict[str, Any]:
    """Install a version, restart the device, look at it, and go back if it is not well."""
    install = f"cp {root}/version {root}/version.old; echo new > {root}/version"
    rollback = f"cp {root}/version.old {root}/version"
    return task(
        task_id,
        [
            {"name": "install", "tool": "shell", "input": {"script": install}},
            {"name": "boot", "tool": "reboot"},
            step("check", "/usr/bin/test", "-e", f"{root}/healthy", allow_failure=True),
            {
                "name": "rollback",
                "tool": "shell",
                "input": {"script": rollback},
                "when": {"step": "check", "outcome": "succeeded", "is": False},
            },
        ],
        **{"finally": [step("log", "/bin/cat", f"{root}/version")]},
    )


@ONE_LANE
@pytest.mark.parametrize(("healthy", "version"), [(False, "old\n"), (True, "new\n")])
def test_install_reboot_verify_rollback(
    device: Device, controller: Controller, tmp_path: Path, healthy: bool, version: str
) -> None:
    """A reboot succeeds by the change of the boot id; what follows it depends on the check."""
    (tmp_path / "version").write_text("old\n")
    if healthy:
        (tmp_path / "healthy").touch()
    controller.wait_online()
    controller.send(update("update", tmp_path))
    running = {"phase": "running", "step": 1}
    until(
        lambda: [s for s in controller.all("state", "update") if running.items() <= s.items()],
        "the step that restarts the device",
    )
    device.kill()
    device.boot("second")
    device.start()
    result = controller.wait("result", "update")
    steps = steps_of(result)
    assert result["outcome"] == "succeeded", result
    assert steps["boot"]["outcome"] == "succeeded"
    assert steps["rollback"]["outcome"] == ("skipped" if healthy else "succeeded")
    assert steps["log"]["stdout"]["head"] == version


@ONE_LANE
@pytest.mark.parametrize(("value", "alerts"), [(81, 1), (20, 0)])
def test_read_a_sensor_and_publish_an_alert(
    broker: Broker, controller: Controller, tmp_path: Path, value: int, alerts: int
) -> None:
    """The user's own script reports what it read; an alert goes out only when it is too high."""
    level = "high" if value > 60 else "normal"
    reported = json.dumps({"result": {"value": value, "level": level}})
    program = tmp_path / "read-sensor"
    program.write_text(f"#!/bin/sh\necho '{reported}' >&3\n")
    program.chmod(0o755)
    device = Device(tmp_path, broker, broker.protocol)
    (tmp_path / "tools.d" / "sensor.toml").write_text(SENSOR.format(program=program))
    with (tmp_path / "policy.toml").open("a") as policy:
        policy.write('[[allow]]\nsource = "ops"\ntools = ["sensor"]\n')
    device.start()
    try:
        controller.wait_online()
        alert = {"value": "${steps.read.result.value}", "device": "${device.name}"}
        steps = [
            {
                "name": "read",
                "tool": "sensor",
                "start_to_close": "5s",
                "input": {"kind": "temperature"},
            },
            {
                "name": "alert",
                "tool": "publish",
                "input": {"topic": "alerts/temperature", "payload": alert},
                "when": {"step": "read", "result.level": "high", "is": True},
            },
        ]
        controller.send(task("sensor", steps))
        result = controller.wait("result", "sensor")
        assert result["outcome"] == "succeeded", result
        assert steps_of(result)["alert"]["outcome"] == ("succeeded" if alerts else "skipped")
        expected = [{"value": value, "device": "kitchen"}] * alerts
        assert controller.all("publish") == expected
    finally:
        device.stop()
        print(device.log())


def planner(wanted: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a step whose result asks for further steps."""
    script = f"echo '{json.dumps({'result': {'next': wanted}})}' >&3"
    return {"name": "plan", "tool": "shell", "input": {"script": script}}


@ONE_LANE
def test_a_planner_whose_steps_come_from_results(
    device: Device, controller: Controller, tmp_path: Path
) -> None:
    """Added steps run before what follows, survive the agent's death, and see earlier results."""
    controller.wait_online()
    slow = f"echo begun >> {tmp_path}/begun; sleep 1; echo slow"
    wanted = [
        {
            "name": "slow",
            "tool": "shell",
            "on_interruption": "rerun",
            "input": {"script": slow},
        },
        step("last", "/bin/echo", "added"),
    ]
    document = task(
        "plan",
        [planner(wanted), step("after", "/bin/echo", "after")],
        plan={"steps": 4, "tools": ["shell", "exec"]},
    )
    controller.send(document)
    until((tmp_path / "begun").exists, "the first added step")
    device.kill()
    device.start()
    result = controller.wait("result", "plan")
    steps = steps_of(result)
    assert result["outcome"] == "succeeded", result
    assert steps["slow"]["stdout"]["head"] == "slow\n"
    assert steps["last"]["stdout"]["head"] == "added\n"
    assert steps["after"]["stdout"]["head"] == "after\n"
    assert (tmp_path / "begun").read_text() == "begun\n" * 2


@ONE_LANE
def test_a_plan_beyond_its_ceilings_fails_its_task(device: Device, controller: Controller) -> None:
    """A result cannot use a tool, or more steps, than the task had set aside."""
    controller.wait_online()
    for name, ceilings in (("tool", {"steps": 4, "tools": ["sleep"]}), ("none", None)):
        more = {"plan": ceilings} if ceilings else {}
        controller.send(task(name, [planner([step("x", "/bin/true")])], **more))
        result = controller.wait("result", name)
        assert result["outcome"] == "failed", result
        assert "x" not in steps_of(result)
