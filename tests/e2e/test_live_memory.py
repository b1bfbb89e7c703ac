"""`limpet top` shows what a real step holds, by socket and broker; hostile looks show nothing."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import Broker
from fleet import PATIENCE_S, POLICY, ROOT, Controller, Device, step, task, until
from test_socket import NoBroker, config, launched, limpet, write

from limpet.codec import FRAME_HEADER
from limpet.errors import EXIT_OK, EXIT_TASK
from limpet.looks import LOOKERS_MAX

MIB = 1 << 20
HELD_BYTES = 30 * MIB
LIMIT_BYTES = 64 * MIB
HOLD = f"kept = bytearray(b'x') * {HELD_BYTES}; import time; time.sleep(300)"
HOLDS = step("hold", "/usr/bin/python3", "-c", HOLD, limits={"memory": "64MiB"})
OPERATOR = '\n[[operator]]\nsource = "admin"\n'


def until_held(top: Callable[[], dict[str, Any]], source: str) -> dict[str, Any]:
    """Look until the step holds its memory; return that picture."""

    def look() -> dict[str, Any] | None:
        picture = top()
        held = [each for each in picture["steps"] if each["used_bytes"] >= HELD_BYTES]
        return picture if held else None

    picture: dict[str, Any] = until(look, "the step's memory")
    (held,) = picture["steps"]
    assert (held["source"], held["id"], held["step"]) == (source, "big-1", "hold")
    assert (held["attempt"], held["processes"]) == (1, 1)
    assert HELD_BYTES <= held["used_bytes"] <= held["peak_bytes"] < LIMIT_BYTES
    assert held["limit_bytes"] == LIMIT_BYTES
    pool, agent = picture["pool"], picture["agent"]
    assert (pool["held_bytes"], pool["used_bytes"]) == (LIMIT_BYTES, held["used_bytes"])
    assert 4 * MIB < agent["used_bytes"] < agent["limit_bytes"]
    assert agent["refusing"] is None
    return picture


def test_the_socket_shows_what_a_step_holds(tmp_path: Path) -> None:
    def top() -> dict[str, Any]:
        code, said = limpet(device, "top", "--once")
        assert (code, len(said)) == (EXIT_OK, 1)
        return said[0]

    with launched(tmp_path, NoBroker()) as device:
        assert top()["steps"] == []
        assert limpet(device, "submit", write(device, task("big-1", [HOLDS])))[0] == EXIT_OK
        until_held(top, "local")
        code, said = limpet(device, "status")
        assert (code, said[0]["memory"]["pool"]["held_bytes"]) == (EXIT_OK, LIMIT_BYTES)
        code, said = limpet(device, "top", "--count", "3")
        assert (code, len(said)) == (EXIT_OK, 3)
        drawn_and_left(device)


def drawn_and_left(device: Device) -> None:
    """On a terminal it draws over what it has drawn; Ctrl-C gives the terminal back."""
    ours, theirs = pty.openpty()
    # As on a terminal: whoever started the tests in the background had them ignore Ctrl-C.
    heed = ["env", "--default-signal=INT", sys.executable]
    command = [*heed, "-m", "limpet", "top", "--config", config(device)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "runtime"), "TERM": "xterm"}
    with subprocess.Popen(command, env=environment, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said, end, interrupted = b"", time.monotonic() + PATIENCE_S, False
        try:
            while time.monotonic() < end and select.select([ours], [], [], PATIENCE_S)[0]:
                said += os.read(ours, 65536)
                if said.count(b"\x1b[H") >= 2 and not interrupted:
                    process.send_signal(signal.SIGINT)
                    interrupted = True
        except OSError:
            # The other side is closed: that is how a terminal says so. It ends a moment later.
            process.wait(PATIENCE_S)
        finally:
            process.kill()
    os.close(ours)
    assert process.returncode == EXIT_OK, said
    assert b"big-1" in said and "█".encode() in said
    assert said.endswith(b"\x1b[?25h\x1b[?1049l")


def by_broker(broker: Broker, source: str, *words: str) -> tuple[int, list[dict[str, Any]], str]:
    """Run `limpet top` as `source`; return its exit code, its documents and what it complains."""
    where = ["-d", "kitchen", "--host", "127.0.0.1", "--port", str(broker.port)]
    done = subprocess.run(
        [sys.executable, "-m", "limpet", "top", *where, "--source", source, "--json", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT / "runtime")},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.fixture
def admins(broker: Broker, tmp_path: Path) -> Iterator[Device]:
    """An agent whose policy names an operator; `limpet top` reaches its broker."""
    if (broker.kind, broker.protocol) == ("iotcore", "5"):
        pytest.skip("this broker takes one version, and the command line speaks MQTT 3.1.1")
    device = Device(tmp_path, broker, broker.protocol)
    (tmp_path / "policy.toml").write_text(POLICY + OPERATOR)
    device.start()
    yield device
    device.stop()
    print(device.log())


def test_the_broker_shows_what_a_step_holds_to_whom_it_concerns(
    admins: Device, broker: Broker, controller: Controller
) -> None:
    """Its source and an operator see the step, another source is not let in, and it ends."""

    def top() -> dict[str, Any]:
        code, said, errors = by_broker(broker, "ops", "--once")
        assert (code, len(said)) == (EXIT_OK, 1), errors
        return said[0]

    controller.wait_online()
    controller.send(task("big-1", [HOLDS]))
    controller.wait("answer", "big-1")
    assert until_held(top, "ops")["hidden_steps"] == 0
    code, said, _ = by_broker(broker, "admin", "--once")
    assert (code, [each["id"] for each in said[0]["steps"]]) == (EXIT_OK, ["big-1"])
    code, said, errors = by_broker(broker, "stranger", "--once")
    assert (code, said) == (EXIT_TASK, [])
    assert "not_allowed" in errors


def test_a_look_ends_by_itself(device: Device, controller: Controller) -> None:
    controller.wait_online()
    controller.send({"limpet": 1, "for": "2s"}, "look")
    until(lambda: len(controller.all("memory")) >= 2, "two pictures")
    time.sleep(3)
    assert len(controller.all("memory")) == 2


def test_hostile_looks_are_refused_and_leave_the_agent_well(
    device: Device, broker: Broker, controller: Controller
) -> None:
    bodies = [
        b"no frame",
        FRAME_HEADER,
        FRAME_HEADER + b"{",
        FRAME_HEADER + b'{"limpet": 1, "for": "9999999999999999d"}',
        FRAME_HEADER + b'{"limpet": 1, "for": {"for": "1s"}}',
        FRAME_HEADER + b'{"limpet": 1, "limpet": 1}',
        FRAME_HEADER + b'{"limpet": 1, "for": "\\u0000s"}',
        FRAME_HEADER + b"[" * 5_000,
        FRAME_HEADER + b'{"limpet": 1, "id": "x"}',
        FRAME_HEADER + b'"' + b"x" * 100_000 + b'"',
    ]
    controller.wait_online()
    for body in bodies:
        controller.send_bytes(body, "look")
    until(lambda: len(controller.all("answer")) >= len(bodies), "every answer")
    told = controller.all("answer")
    assert {each["request"] for each in told} == {"look"}
    assert {each["answer"] for each in told} == {"refused"}
    # However often one source asks, it has one place and one picture a second.
    for _ in range(20 * LOOKERS_MAX):
        controller.send({"limpet": 1, "for": "3s"}, "look")
    controller.send(task("after-1", [step("a", "/bin/true")]))
    assert controller.wait("result", "after-1")["outcome"] == "succeeded"
    until(lambda: len(controller.all("answer")) > len(bodies) + 20 * LOOKERS_MAX, "the answers")
    time.sleep(1)
    assert 1 <= len(controller.all("memory")) <= 30
