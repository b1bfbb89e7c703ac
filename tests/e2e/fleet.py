"""A real agent process and a controller that records and checks everything said, for the tests."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from brokers import Broker
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from limpet.codec import frame

ROOT = Path(__file__).resolve().parents[2]
DEVICE = "kitchen"
SOURCE = "ops"
# How long a test waits for what must come; nothing passes or fails by being faster.
PATIENCE_S = 45.0

CONFIG = """\
[device]
name = "kitchen"
state_directory = "{directory}/state"
reboot = ["/bin/false"]
boot_id_file = "{directory}/boot_id"

[broker]
host = "{host}"
port = {port}
protocol = "{protocol}"
keepalive = "5s"
{more}
[limits]
segment = "1MiB"
tasks = 32
steps = 128
ids = 2048

[policy]
file = "{directory}/policy.toml"
tools_directory = "{directory}/tools.d"

[drain]
timeout = "1s"

[log]
level = "debug"
format = "text"

[socket]
path = "{directory}/limpet.sock"
"""

POLICY = """\
[[allow]]
source = "ops"
tools = ["exec", "shell", "sleep", "publish", "reboot"]

[clock]
untrusted = "accept"
"""

AGENT = """\
import sys
from limpet.cli import main
sys.exit(main(["run", "--config", sys.argv[1]]))
"""


def schemas() -> dict[str, Draft202012Validator]:
    """Return a validator per kind of document, from the schemas that PROTOCOL.md prints."""
    found = {}
    text = (ROOT / "PROTOCOL.md").read_text(encoding="utf-8")
    for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL):
        document = json.loads(block)
        if "$schema" in document:
            found[document["$id"].rpartition(":")[2]] = Draft202012Validator(document)
    return found


SCHEMAS = schemas()


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for `condition` and return what it returned."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"{what} did not come within {PATIENCE_S} s")


class Listening(Protocol):
    """What an agent takes for its broker."""

    port: int


class Device:
    """One agent with its directories; killed and started as a test likes."""

    def __init__(
        self,
        directory: Path,
        broker: Listening,
        protocol: str,
        more: str = "",
        host: str = "127.0.0.1",
    ) -> None:
        self.directory = directory
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT / "runtime")}
        self.process: subprocess.Popen[bytes] | None = None
        self.log_file = directory / "agent.log"
        (directory / "tools.d").mkdir()
        (directory / "policy.toml").write_text(POLICY)
        self.boot("first")
        config = CONFIG.format(
            directory=directory, host=host, port=broker.port, protocol=protocol, more=more
        )
        (directory / "limpet.toml").write_text(config)

    def start(
        self, program: str = AGENT, inside: Callable[..., list[str]] = lambda *argv: list(argv)
    ) -> None:
        """Start the agent; `inside` turns its command line into one that starts it elsewhere."""
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                inside(sys.executable, "-c", program, str(self.directory / "limpet.toml")),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def boot(self, boot_id: str) -> None:
        """Let the agent believe, when it starts, that the device is in this boot."""
        (self.directory / "boot_id").write_text(boot_id)

    def send_signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(PATIENCE_S)

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")


class Controller:
    """Sends tasks and keeps every message in the order of arrival, checked by its schema.

    With `keeps_session` the broker (of MQTT 5) keeps for it what comes while it is away.
    """

    def __init__(self, broker: Broker, name: str = SOURCE, keeps_session: bool = False) -> None:
        self.name = name
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.faults: list[str] = []
        self.ready = False
        five = broker.protocol == "5"
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"controller-{name}",
            protocol=paho.MQTTv5 if five else paho.MQTTv311,
        )
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._client.reconnect_delay_set(1, 1)
        properties = None
        if keeps_session:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = 3600
        first = not keeps_session if five else paho.MQTT_CLEAN_START_FIRST_ONLY
        self._client.connect("127.0.0.1", broker.port, clean_start=first, properties=properties)
        self._client.loop_start()
        until(lambda: self.ready, "the controller's connection")

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: paho.Client, *_: Any) -> None:
        kinds = ("answer", "state", "result", "memory")
        topics = [f"limpet/+/{kind}/{self.name}" for kind in kinds]
        topics += ["limpet/+/presence", "limpet/+/publish/#"]
        client.subscribe([(topic, 1) for topic in topics])

    def _on_subscribe(self, *_: Any) -> None:
        self.ready = True

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        kind = message.topic.split("/")[2]
        body = json.loads(message.payload)
        if kind in SCHEMAS:
            faults = SCHEMAS[kind].iter_errors(body)
            self.faults += [f"{message.topic}: {fault.message}" for fault in faults]
        self.heard.append((kind, body))

    def send(self, document: dict[str, Any], kind: str = "task") -> bytes:
        return self.send_bytes(frame(json.dumps(document).encode()), kind)

    def send_bytes(
        self, message: bytes, kind: str = "task", retain: bool = False, wait: bool = True
    ) -> bytes:
        topic = f"limpet/{DEVICE}/{kind}/{self.name}"
        sent = self._client.publish(topic, message, qos=1, retain=retain)
        if wait:
            sent.wait_for_publish(PATIENCE_S)
        return message

    def all(self, kind: str, task_id: str | None = None) -> list[dict[str, Any]]:
        same = [body for said, body in list(self.heard) if said == kind]
        return [body for body in same if task_id is None or body.get("id") == task_id]

    def wait(self, kind: str, task_id: str, count: int = 1) -> dict[str, Any]:
        """Return the newest document of `kind` once there are `count` about `task_id`."""
        until(lambda: len(self.all(kind, task_id)) >= count, f"{kind} {count} of {task_id}")
        return self.all(kind, task_id)[-1]

    def wait_online(self) -> dict[str, Any]:
        online = until(lambda: [p for p in self.all("presence") if p["online"]], "a presence")
        newest: dict[str, Any] = online[-1]
        return newest


def expiry(after_s: float) -> str:
    """Return the `expires_at` of so many seconds from now."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + after_s))


def task(task_id: str, steps: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Return a task document that expires in an hour, unless it says otherwise."""
    return {"limpet": 1, "id": task_id, "expires_at": expiry(3600), "steps": steps, **more}


def step(name: str, *argv: str, **more: Any) -> dict[str, Any]:
    """Return a step that runs `argv` with the tool `exec`."""
    return {"name": name, "tool": "exec", "input": {"argv": list(argv)}, **more}


@contextlib.contextmanager
def listening(broker: Broker) -> Iterator[Controller]:
    """Give a controller; at the end, everything it heard must have fitted PROTOCOL.md."""
    controller = Controller(broker)
    yield controller
    controller.close()
    assert controller.faults == []


def processes_with(text: str) -> list[int]:
    """Return the processes whose command line holds `text`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if text.encode() in line and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


def memory_kib(pids: list[int]) -> dict[str, int]:
    """Return what the kernel says of these processes' memory, summed: `Rss`, `Pss` and so on."""
    summed: dict[str, int] = {}
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        except (ProcessLookupError, FileNotFoundError):
            continue
        for line in lines:
            name, value, *_ = line.split()
            summed[name[:-1]] = summed.get(name[:-1], 0) + int(value)
    return summed
