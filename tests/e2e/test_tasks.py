"""What a controller can rely on over a real broker: tasks run, answers come, nothing twice."""

from __future__ import annotations

from fleet import Controller, Device, step, task


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
