"""A board whose network is down: everything by the local socket of a real agent, no broker."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import Broker, free_port
from fleet import (
    PATIENCE_S,
    POLICY,
    ROOT,
    SCHEMAS,
    Controller,
    Device,
    Listening,
    step,
    task,
    until,
)

from limpet.errors import EXIT_OK, EXIT_TASK, EXIT_UNREACHABLE, EXIT_USAGE

ALLOW_LOCAL = '\n[[allow]]\nsource = "local"\ntools = ["exec", "sleep"]\n'

# So many results the core tells before the first of them is delivered.
RESULTS_MAX = 32


class NoBroker:
    """A port that nothing listens on."""

    def __init__(self) -> None:
        self.port = free_port()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with launched(tmp_path, NoBroker()) as device:
        yield device


@contextlib.contextmanager
def launched(directory: Path, broker: Listening) -> Iterator[Device]:
    """Run an agent whose policy allows `local`; its log is shown when the test fails."""
    device = Device(directory, broker, "5")
    settings = Path(config(device))
    # For as many results and a task behind them.
    room = settings.read_text().replace("tasks = 32", f"tasks = {RESULTS_MAX + 1}")
    settings.write_text(room.replace('segment = "1MiB"', 'segment = "4MiB"'))
    (directory / "policy.toml").write_text(POLICY + ALLOW_LOCAL)
    try:
        launch(device)
        yield device
    finally:
        device.stop()
        print(device.log())


def launch(device: Device) -> None:
    device.start()
    until(lambda: limpet(device, "tasks")[0] == EXIT_OK, "the agent's socket")


@contextlib.contextmanager
def start(device: Device, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run one command on the device; it does not outlive a test that fails."""
    with subprocess.Popen(
        [sys.executable, "-m", "limpet", *words, "--json", "--config", config(device)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "runtime")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def config(device: Device) -> str:
    return str(device.directory / "limpet.toml")


def limpet(device: Device, *words: str) -> tuple[int, list[dict[str, Any]]]:
    """Run one command on the device; its documents must fit PROTOCOL.md."""
    with start(device, *words) as process:
        out, _ = process.communicate(timeout=PATIENCE_S)
    said = [json.loads(line) for line in out.splitlines()]
    for document in said:
        if document.get("kind") in ("answer", "state", "result"):
            body = {key: value for key, value in document.items() if key != "device"}
            assert list(SCHEMAS[document["kind"]].iter_errors(body)) == []
    return process.returncode, said


def write(device: Device, document: dict[str, Any]) -> str:
    path = device.directory / f"{document['id']}.json"
    path.write_text(json.dumps(document))
    return str(path)


def running(device: Device) -> list[str]:
    _, said = limpet(device, "tasks")
    return [each["id"] for each in said if each["state"] == "running"]


def probe(device: Device, number: int) -> bool:
    file = write(device, task(f"probe-{number}", [step("say", "/bin/true")]))
    return limpet(device, "submit", file, "--wait")[0] == EXIT_OK


def heard(process: subprocess.Popen[str]) -> bool:
    """Say whether `process` has written something."""
    assert process.stdout is not None
    return bool(select.select([process.stdout], [], [], 0)[0])


def test_a_task_goes_its_whole_way_without_a_broker(device: Device) -> None:
    file = write(device, task("t-1", [step("say", "/bin/echo", "hello")]))
    code, said = limpet(device, "submit", file, "--wait")
    assert code == EXIT_OK
    assert [each["answer"] for each in said if each["kind"] == "answer"] == ["accepted"]
    result = said[-1]
    assert (result["source"], result["outcome"]) == ("local", "succeeded")
    assert result["steps"][0]["stdout"]["head"] == "hello\n"
    code, said = limpet(device, "submit", file, "--wait")
    assert (code, said[-1]["answer"], said[-1]["outcome"]) == (EXIT_OK, "known", "succeeded")


def test_more_tasks_end_than_the_table_holds(device: Device) -> None:
    """No result waits for the broker: each frees its place."""
    for number in range(40):
        file = write(device, task(f"t-{number}", [step("say", "/bin/true")]))
        assert limpet(device, "submit", file)[0] == EXIT_OK
    until(lambda: limpet(device, "tasks") == (EXIT_OK, []), "the last end")


def test_tasks_are_listed_watched_and_cancelled(device: Device) -> None:
    file = write(device, task("long", [step("nap", "/bin/sleep", "300")]))
    with start(device, "watch") as watcher:
        numbers = itertools.count()
        until(lambda: probe(device, next(numbers)) and heard(watcher), "the watcher's first word")
        with start(device, "submit", file, "--wait") as waiter:
            until(lambda: running(device) == ["long"], "the step")
            assert limpet(device, "cancel", "long")[0] == EXIT_OK
            out, _ = waiter.communicate(timeout=PATIENCE_S)
        assert waiter.returncode == EXIT_TASK
        assert json.loads(out.splitlines()[-1])["outcome"] == "cancelled"
        assert watcher.stdout is not None
        kinds: list[str] = []
        while "result" not in kinds:
            said = json.loads(watcher.stdout.readline())
            kinds += [said["kind"]] if said["id"] == "long" else []
    assert "state" in kinds


def test_a_killed_agent_still_tells_how_an_accepted_task_ended(device: Device) -> None:
    nap = {"name": "nap", "tool": "sleep", "input": {"duration": "1s"}, "on_interruption": "rerun"}
    file = write(device, task("t-1", [nap]))
    with start(device, "submit", file, "--wait") as waiter:
        until(lambda: running(device) == ["t-1"], "the step")
        device.kill()
        _, errors = waiter.communicate(timeout=PATIENCE_S)
    assert waiter.returncode == EXIT_UNREACHABLE
    assert "limpet explain" in errors
    launch(device)
    code, said = limpet(device, "submit", file, "--wait")
    assert code == EXIT_OK
    assert said[0]["answer"] == "known"
    assert said[-1]["outcome"] == "succeeded"


def test_what_is_not_allowed_is_refused_by_the_line_that_would_allow_it(device: Device) -> None:
    document = task("t-1", [{"name": "tell", "tool": "publish", "input": {"topic": "a"}}])
    code, said = limpet(device, "submit", write(device, document))
    assert (code, said[-1]["code"]) == (EXIT_TASK, "not_allowed")
    assert "policy.toml" in said[-1]["detail"]
    code, said = limpet(device, "cancel", "t-2", "--owner", "ops")
    assert (code, said[-1]["code"]) == (EXIT_TASK, "not_owner")


def test_a_broker_and_the_socket_are_not_mixed(device: Device) -> None:
    assert limpet(device, "watch", "--host", "example.org")[0] == EXIT_USAGE


def test_a_result_behind_those_for_the_broker_says_so_and_comes_after_them(tmp_path: Path) -> None:
    broker = Broker("iotcore", "5", tmp_path)
    broker.start()
    gate = tmp_path / "gate"
    script = f"while [ ! -e {gate} ]; do sleep 0.05; done"
    with launched(tmp_path, broker) as device:
        controller = Controller(broker)
        controller.wait_online()
        for number in range(RESULTS_MAX):
            controller.send(task(f"t-{number}", [step("wait", "/bin/sh", "-c", script)]))
            controller.wait("answer", f"t-{number}")
        controller.close()
        broker.stop()
        gate.touch()
        until(lambda: limpet(device, "tasks") == (EXIT_OK, []), "the ends of the others")
        file = write(device, task("mine", [step("say", "/bin/true")]))
        with start(device, "submit", file, "--wait") as waiter:
            assert waiter.stdout is not None
            while json.loads(waiter.stdout.readline()).get("phase") != "reporting":
                pass
            broker.start()
            out, _ = waiter.communicate(timeout=PATIENCE_S)
        broker.stop()
    assert waiter.returncode == EXIT_OK
    assert json.loads(out.splitlines()[-1])["outcome"] == "succeeded"
