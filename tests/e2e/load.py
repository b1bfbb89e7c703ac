"""A client that keeps an agent busy: sends without looking, and counts what comes back."""

from __future__ import annotations

import collections
import json
import time
from typing import Any

from fleet import DEVICE
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

# Before a refused task is sent again.
PAUSE_S = 0.5


class Load:
    """Keeps tasks open until their results come; a test decides what a result and a stray mean."""

    def __init__(self, port: int, source: str) -> None:
        self.ended: collections.Counter[str] = collections.Counter()
        self.refused: collections.Counter[str] = collections.Counter()
        # Each with the time at which it is to be sent, or sent again.
        self.open: dict[str, float] = {}
        self.sent = self.heard = 0
        self._topic = f"limpet/{DEVICE}/task/{source}"
        self._client = paho.Client(CallbackAPIVersion.VERSION2, "load")
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", port)
        self._client.subscribe([(f"limpet/+/{kind}/{source}", 1) for kind in ("answer", "result")])
        self._client.loop_start()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def send(self, payload: bytes) -> None:
        self.sent += 1
        self._client.publish(self._topic, payload, qos=1)

    def count(self, result: dict[str, Any]) -> None:
        """Count the first result of a task."""
        self.ended[result["outcome"]] += 1

    def stray(self) -> None:
        """Hear of a refusal that is of no open task."""

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        self.heard += 1
        body = json.loads(message.payload)
        if "/result/" in message.topic:
            if self.open.pop(body["id"], None) is not None:
                self.count(body)
        elif body["answer"] == "refused":
            self.refused[body["code"]] += 1
            if body["id"] in self.open:
                self.open[body["id"]] = time.monotonic() + PAUSE_S
            else:
                self.stray()
