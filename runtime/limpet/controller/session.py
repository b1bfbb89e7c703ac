"""A controller's connection: the only file of this package that knows paho.

Decides how messages reach a thread that waits for them. Knows no task; a subscription outlives a
lost connection, as paho connects and we subscribe again.
"""

from __future__ import annotations

import os
import queue
from typing import TYPE_CHECKING, Any, NamedTuple

from limpet import program, slim, topics

if program.FROZEN:
    # The single executable has no OpenSSL, and nothing that looks for a proxy.
    slim.install("ssl", "urllib.request")

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from limpet.clock import Clock
from limpet.codec import decode
from limpet.errors import LinkError, TaskError

if TYPE_CHECKING:
    from types import TracebackType

    from limpet.controller.context import Context

KEEPALIVE_S = 30
CONNECT_S = 10.0
# Messages that wait for us; a device that floods the broker must not fill our memory.
WAITING_MAX = 4096
PASSWORD_BYTES_MAX = 4096


class Heard(NamedTuple):
    """One message of a device: where it came from and its document."""

    address: topics.Address
    document: dict[str, Any]


class Session:
    """An open connection; use it in a `with`, which closes it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._filters: list[str] = []
        self._acknowledged: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._heard: queue.Queue[Heard] = queue.Queue(WAITING_MAX)
        client_id = f"limpet-{context.source}-{os.urandom(4).hex()}"
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._acknowledged.put("subscribed")
        self._client.on_message = self._on_message
        if context.username:
            self._client.username_pw_set(context.username, _password(context.password_file))
        if context.tls and program.FROZEN:
            why = "the single executable speaks TLS as an agent only (nothing was sent)"
            raise LinkError(f"cannot connect to {context.host}: {why}")
        if context.tls:
            self._client.tls_set(ca_certs=context.ca_file)

    def __enter__(self) -> Session:
        where = f"{self._context.host}:{self._context.port}"
        try:
            self._client.connect_timeout = CONNECT_S
            self._client.connect(self._context.host, self._context.port, KEEPALIVE_S)
        except (OSError, ValueError) as error:
            raise LinkError(f"cannot connect to {where}: {error} (nothing was sent)") from None
        self._client.loop_start()
        said = self._wait_for(self._acknowledged, CONNECT_S)
        if said != "connected":
            self._client.loop_stop()
            cause = said or f"no answer within {CONNECT_S:.0f} s"
            raise LinkError(f"cannot log in at {where}: {cause} (nothing was sent)")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def subscribe(self, filters: list[str]) -> None:
        """Subscribe, and return once the broker has said that it did; LinkError if it does not."""
        self._filters += filters
        self._client.subscribe([(each, 1) for each in filters])
        if self._wait_for(self._acknowledged, CONNECT_S) is None:
            raise LinkError("cannot subscribe: the broker does not answer (nothing was sent)")

    def publish(self, address: topics.Address, message: bytes, timeout_s: float) -> None:
        """Publish with QoS 1 and return once the broker has it; LinkError if it does not."""
        topic = topics.build(self._context.prefix, *address)
        sent = self._client.publish(topic, message, qos=1)
        try:
            sent.wait_for_publish(timeout_s)
        except (RuntimeError, ValueError) as error:
            raise LinkError(f"cannot publish {topic}: {error} (nothing was sent)") from None
        if not sent.is_published():
            raise LinkError(f"cannot publish {topic}: no answer (it may have been sent)")

    def hear(self, timeout_s: float | None) -> Heard | None:
        """Return the next message, or None after `timeout_s` seconds without one."""
        heard: Heard | None = self._wait_for(self._heard, timeout_s)
        return heard

    def _wait_for(self, waiting: Any, timeout_s: float | None) -> Any:
        try:
            return waiting.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def _on_connect(self, client: mqtt.Client, _data: Any, _flags: Any, code: Any, _: Any) -> None:
        if code.is_failure:
            self._acknowledged.put(str(code))
            return
        if self._filters:
            client.subscribe([(each, 1) for each in self._filters])
        else:
            self._acknowledged.put("connected")

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        """Queue what is ours and readable; the rest is for another version or another program."""
        try:
            address = topics.parse(self._context.prefix, message.topic)
            document = decode(bytes(message.payload))
        except TaskError:
            return
        if isinstance(document, dict) and not self._heard.full():
            self._heard.put(Heard(address, document))


def _password(file: str | None) -> str | None:
    if file is None:
        return None
    try:
        with open(file, encoding="utf-8") as stream:
            return stream.read(PASSWORD_BYTES_MAX).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LinkError(f"cannot read {file}: {error} (nothing was sent)") from None


def seconds() -> float:
    """Return seconds since boot: what timeouts of a command are measured by."""
    return Clock().boot_ms() / 1000
