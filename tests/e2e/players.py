"""The two agents of a duel, made to look alike: limpet, and the script that everybody writes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from brokers import Broker
from fleet import AGENT, PATIENCE_S, Controller, Device, expiry, step, task, until
from naive import RESULTS, TASKS
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

HANG_S = 10
# Holds the GIL in a C call once the file `hang` is there.
HANG = f"""\
import ctypes, os, sys, threading, time
def hang(directory):
    while not os.path.exists(os.path.join(directory, "hang")):
        time.sleep(0.01)
    os.rename(os.path.join(directory, "hang"), os.path.join(directory, "hangs"))
    ctypes.PyDLL(None).sleep({HANG_S})
"""
LIMPET = f"""{HANG}
directory = os.path.dirname(sys.argv[1])
threading.Thread(target=hang, args=(directory,), daemon=True).start()
{AGENT}"""
SCRIPT = f"""{HANG}
sys.path.insert(0, {str(Path(__file__).parent)!r})
threading.Thread(target=hang, args=(sys.argv[2],), daemon=True).start()
import naive
naive.main()
"""


class Limpet:
    """The agent, with a policy that allows the controller `exec`."""

    name = "limpet"

    def __init__(self, directory: Path, broker: Broker) -> None:
        self.directory = directory
        self._device = Device(directory, broker, broker.protocol)
        self._controller = Controller(broker)

    def start(self) -> None:
        births = len(self._births())
        self._device.start(LIMPET)
        until(lambda: len(self._births()) > births, "the agent")

    def _births(self) -> list[dict[str, Any]]:
        return [said for said in self._controller.all("presence") if said["online"]]

    def kill(self) -> None:
        self._device.kill()

    def stop(self) -> None:
        self._device.stop()

    def close(self) -> None:
        self.stop()
        self._controller.close()

    def send(self, task_id: str, argv: list[str], timeout_s: float, expires_s: float) -> None:
        only = step("it", *argv, start_to_close=f"{timeout_s:g}s")
        self._controller.send(task(task_id, [only], expires_at=expiry(expires_s)))

    def flood(self, payload: bytes) -> None:
        self._controller.send_bytes(payload)

    def told(self, task_id: str) -> list[str]:
        """What was said about the end of a task, each time."""
        results = [said["steps"][0]["outcome"] for said in self._controller.all("result", task_id)]
        answers = self._controller.all("answer", task_id)
        refusals = [said["code"] for said in answers if said["answer"] == "refused"]
        return results + refusals

    @property
    def pid(self) -> int:
        assert self._device.process is not None
        return self._device.process.pid


class Script:
    """The script, and a controller for it."""

    name = "script"

    def __init__(self, directory: Path, broker: Broker) -> None:
        self.directory = directory
        self._port = broker.port
        self._process: subprocess.Popen[bytes] | None = None
        self._said: list[dict[str, Any]] = []
        self._client = paho.Client(CallbackAPIVersion.VERSION2, "fleet", clean_session=False)
        self._client.on_connect = lambda client, *_: client.subscribe(RESULTS, 1)
        self._client.on_message = lambda _client, _data, message: self._said.append(
            json.loads(message.payload)
        )
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()

    def start(self) -> None:
        argv = [sys.executable, "-c", SCRIPT, str(self._port), str(self.directory)]
        with (self.directory / "script.log").open("ab") as log:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        # It does not say when it is there.
        time.sleep(1.5)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        self.kill()

    def close(self) -> None:
        self.stop()
        self._client.disconnect()
        self._client.loop_stop()

    def send(self, task_id: str, argv: list[str], timeout_s: float, expires_s: float) -> None:
        document = {
            "id": task_id,
            "expires_at": time.time() + expires_s,
            "steps": [{"name": "it", "argv": argv, "timeout": timeout_s}],
        }
        self.flood(json.dumps(document).encode())

    def flood(self, payload: bytes) -> None:
        self._client.publish(TASKS, payload, qos=1).wait_for_publish(PATIENCE_S)

    def told(self, task_id: str) -> list[str]:
        """What was said about the end of a task, each time."""
        return [said["outcome"] for said in list(self._said) if said["id"] == task_id]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid


Player = Limpet | Script
