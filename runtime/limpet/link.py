"""MQTT over what the uplink hands us: the only file that knows paho.

Decides the protocol version, the subscriptions, when to try again and which acknowledgements may
still be sent. Each connection has an epoch and a client of its own, so nothing of an old one can
reach a new one. Callbacks only note what happened; the loop takes the notes. Knows no document.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from limpet import packets
from limpet.channel import UNSENT_BYTES_MAX, Channel
from limpet.native.records import STAGES

if TYPE_CHECKING:
    from collections.abc import Callable

    from limpet.backoff import Backoff
    from limpet.config import Broker
    from limpet.native.records import Event

# Packets handled in one turn, so that the core and signals have theirs.
PACKETS_MAX = 32
# Tasks that the broker may send before we acknowledge one (MQTT 5; brokers have their own limit).
RECEIVE_MAXIMUM = 32
PASSWORD_BYTES_MAX = 4096
# Connections in a row that an oversized packet has ended. A broker of MQTT 3.1.1 delivers it again
# each time: then the session that holds it is given up, with whatever else waits in it.
OVERSIZED_MAX = 3
# From CONNACK to SUBACK, and how much of a keepalive passes between two looks at it.
SUBSCRIBE_TIMEOUT_MS = 15_000
KEEPALIVE_LOOKS = 4
# From the end of our socket pair to the uplink's record of why; the record is there before it.
RECORD_TIMEOUT_MS = 1_000

WAITING, DIALING, GREETING = "waiting", "dialing", "greeting"
SUBSCRIBING, READY, STOPPED = "subscribing", "ready", "stopped"

UNSUPPORTED_PROTOCOL = "Unsupported protocol version"
# Ends before CONNACK after which the other MQTT version is worth a try: some brokers only hang up.
OTHER_PROTOCOL = ("protocol_unsupported", "closed_by_broker", "closed", "packet_malformed")
# Numbers of publications are 1 to this; so many may be unacknowledged if the broker says nothing
# of it (MQTT 5, 2.2.1 and 3.2.2.3.3).
NUMBER_MAX = SEND_MAXIMUM = 65_535


class Arrived(NamedTuple):
    """A message from the broker, to be acknowledged by its epoch and number (0: never)."""

    epoch: int
    number: int
    topic: str
    payload: bytes
    retained: bool


class Ready(NamedTuple):
    """The connection is made and the subscriptions hold."""

    epoch: int


class Lost(NamedTuple):
    """The connection ended or was never made; the next try is in `delay_ms`."""

    epoch: int
    code: str
    detail: str
    delay_ms: int


class Acknowledged(NamedTuple):
    """The broker has a publication; or does not want it, with the reason it gave."""

    epoch: int
    number: int
    refused: str | None


Note = Arrived | Ready | Lost | Acknowledged


class Greeting(NamedTuple):
    """What is said of us when we vanish: the will of one connection."""

    topic: str
    payload: bytes


class _Client(paho.Client):
    """paho with a socket that is there already (its own connect would block), and one callback for
    all messages (its search for others leaves cyclic garbage behind each).

    The packets that a task is made of do not take paho's way, which costs more than the task.
    """

    channel: Channel
    five: bool
    epoch: int
    # Where it is noted what has come.
    notes: list[Note]
    # The numbers of the publications that the broker has not acknowledged.
    unacknowledged: set[int]

    def _create_socket(self) -> Any:
        return self.channel

    def send(self, topic: str, payload: bytes, retain: bool) -> int:
        """Queue a publication and return its number, which no other has now."""
        number = self._last_mid
        while (number := number % NUMBER_MAX + 1) in self.unacknowledged:
            pass
        self._last_mid = number
        self.unacknowledged.add(number)
        self.channel.push(packets.publish(topic.encode(), number, payload, retain, self.five))
        return number

    def loop_read(self, _: int = 1) -> Any:
        """Read one packet."""
        found = self.channel.packet() if self._in_packet["command"] == 0 else None
        if found is None:
            return super().loop_read()
        first, body = found
        self._last_bytes_received = paho.time_func()
        message = packets.read_publish(first, body, self.five)
        if message is not None:
            self.notes.append(Arrived(self.epoch, *message))
            return paho.MQTT_ERR_SUCCESS
        acknowledges = first == packets.PUBACK
        status = self._acknowledged(body) if acknowledges else self._handled(first, body)
        return self._loop_rc_handle(status) if status else status

    def _handled(self, first: int, body: bytes) -> Any:
        """Have paho handle a packet that was read for it."""
        self._in_packet |= {"command": first, "packet": bytearray(body), "pos": 0}
        self._in_packet["remaining_length"] = len(body)
        try:
            return self._packet_handle()
        except MalformedPacket:
            return paho.MQTT_ERR_PROTOCOL
        finally:
            self._in_packet |= {"command": 0, "packet": bytearray(), "remaining_length": 0}

    def _handle_pubackcomp(self, _: Any) -> Any:
        return self._acknowledged(bytes(self._in_packet["packet"]))

    def _acknowledged(self, body: bytes) -> Any:
        """Take a PUBACK; one of MQTT 5 may say why it is a refusal."""
        if len(body) < 2 or (len(body) > 2 and not self.five):
            return paho.MQTT_ERR_PROTOCOL
        refused = None
        if len(body) > 2 and body[2] >= packets.REFUSED:
            reason = ReasonCode(PacketTypes.PUBACK)
            try:
                reason.unpack(body[2:])
            except (KeyError, ValueError):
                # MQTT has no such reason, or not for this packet.
                return paho.MQTT_ERR_PROTOCOL
            refused = str(reason)
        number = int.from_bytes(body[:2], "big")
        if number in self.unacknowledged:
            self.unacknowledged.remove(number)
            self.notes.append(Acknowledged(self.epoch, number, refused))
        return paho.MQTT_ERR_SUCCESS

    def _handle_on_message(self, message: paho.MQTTMessage) -> None:
        if self.on_message is not None:
            self.on_message(self, None, message)


class Link:
    """One broker, connected again and again. Times are milliseconds of any steady clock."""

    def __init__(
        self,
        broker: Broker,
        filters: tuple[str, ...],
        dial: Callable[[dict[str, Any]], int],
        hang_up: Callable[[int], None],
        greet: Callable[[int], Greeting],
        backoff: Backoff,
    ) -> None:
        """`dial` and `hang_up` are the core's; `greet` gives the will of an epoch."""
        self._broker = broker
        self._filters = filters
        self._dial = dial
        self._hang_up = hang_up
        self._greet = greet
        self._backoff = backoff
        self._protocol = "5" if broker.protocol == "auto" else broker.protocol
        # How far the connection is; publications can be sent when it is `ready`.
        self.phase = WAITING
        # When `tick` is due; None while only the uplink can go on.
        self.deadline_ms: int | None = 0
        self._epoch = 0
        self._client: _Client | None = None
        self._notes: list[Note] = []
        # What callbacks leave for `_settle`, which knows the time.
        self._accepted = False
        self._subscription = 0
        self._subscribed = False
        self._fault: tuple[str, str] | None = None
        self._ready_ms = 0
        self._oversized = 0
        # What the broker takes before it acknowledges.
        self._send_maximum = SEND_MAXIMUM

    # --- what the loop asks ---------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The newest connection, 0 before the first."""
        return self._epoch

    @property
    def protocol(self) -> str:
        """The MQTT version of this connection, or of the next one."""
        return self._protocol

    @property
    def wants_write(self) -> bool:
        """Whether packets wait for room in the socket."""
        client = self._client
        return client is not None and (bool(client.channel.unsent) or client.want_write())

    @property
    def pending(self) -> bool:
        """Whether there is something to read that the descriptor does not show."""
        return self._client is not None and self._client.channel.pending() > 0

    def fileno(self) -> int | None:
        """Return the descriptor to wait for, if there is one now."""
        return None if self._client is None else self._client.channel.fileno()

    def take(self) -> list[Note]:
        """Return what happened since the last call."""
        notes = self._notes.copy()
        self._notes.clear()
        return notes

    # --- what the loop tells --------------------------------------------------------------------

    def tick(self, now_ms: int) -> None:
        """Connect if it is time to; otherwise let paho keep the connection alive."""
        if self.deadline_ms is None or now_ms < self.deadline_ms:
            return
        if self.phase == WAITING:
            self.phase, self.deadline_ms = DIALING, None
            self._epoch = self._dial(self._target())
        elif self._client is None:
            self._end(now_ms, "closed", "the connection ended")
        elif self.phase == SUBSCRIBING:
            self._end(now_ms, "subscribe_timeout", "the broker did not answer the subscription")
        else:
            self._client.loop_misc()
            if self._client.socket() is None:
                silence = f"the broker said nothing for {self._client.keepalive} s"
                self._fault = self._fault or ("keepalive_timeout", silence)
            self.deadline_ms = now_ms + self._look_ms(self._client)
            self._settle(now_ms)

    def heard(self, event: Event, now_ms: int) -> None:
        """Take what the uplink says of a connection."""
        if event.token != self._epoch or self.phase in (WAITING, STOPPED):
            if event.value >= 0:
                os.close(event.value)
        elif STAGES[event.code] == "up":
            self._begin(event.value, now_ms)
        elif STAGES[event.code] == "down":
            # What came before the end may say why: a CONNACK that refuses us, for one.
            self._read_packets()
            self._end(now_ms, str(event.text.get("code")), str(event.text.get("detail")))

    def read(self, now_ms: int) -> None:
        """Read a bounded number of packets."""
        self._read_packets()
        self._settle(now_ms)

    def write(self, now_ms: int) -> None:
        """Send what waits, as far as there is room."""
        client = self._client
        if client is not None:
            if client.want_write():
                client.loop_write()
            client.channel.flush()
            self._settle(now_ms)

    def publish(self, topic: str, payload: bytes, retain: bool) -> int | None:
        """Hand over a publication, QoS 1; return its number, or None if it cannot be taken."""
        client = self._client
        if client is None or self.phase != READY:
            return None
        # paho does not look at the broker's receive maximum.
        if len(client.unacknowledged) >= self._send_maximum:
            return None
        if len(client.channel.unsent) > UNSENT_BYTES_MAX:
            return None
        return client.send(topic, payload, retain)

    def acknowledge(self, epoch: int, number: int) -> None:
        """Acknowledge a message; a number of an older connection means another message now."""
        if self._client is not None and epoch == self._epoch and number:
            self._client.channel.push(packets.acknowledge(number))

    def again(self, now_ms: int) -> None:
        """Connect anew, so that the broker sends again what was not acknowledged."""
        if self._client is not None:
            detail = "messages beyond our receive maximum were left and are fetched now"
            self._end(now_ms, "messages_left", detail)

    def stop(self) -> None:
        """Say goodbye, so that no will is sent, and do not come back."""
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_write()
        self.phase, self.deadline_ms = STOPPED, None
        self._close()

    # --- one connection -------------------------------------------------------------------------

    def _target(self) -> dict[str, Any]:
        """Return where to connect, as the core reads it."""
        broker, tls = self._broker, self._broker.tls
        options = {"ca_file": tls.ca_file, "server_name": tls.server_name}
        return {
            "host": broker.host,
            "port": broker.port,
            "tls": options if tls.enabled else None,
            **broker.timeouts._asdict(),
            "maximum_packet_bytes": broker.maximum_packet_bytes,
        }

    def _begin(self, fd: int, now_ms: int) -> None:
        """Say CONNECT over `fd`, which is ours now."""
        channel = Channel(fd)
        try:
            password = _password(self._broker.password_file)
        except OSError as error:
            channel.close()
            self._end(now_ms, "password_unreadable", str(error))
            return
        self._accepted = self._subscribed = False
        self._send_maximum = SEND_MAXIMUM
        self.phase, self.deadline_ms = GREETING, None
        self._client = client = self._make_client(channel)
        if self._broker.username is not None:
            client.username_pw_set(self._broker.username, password)
        will = self._greet(self._epoch)
        client.will_set(will.topic, will.payload, qos=1, retain=True)
        # With this set `publish` only queues: it neither writes nor ends a connection.
        client.on_socket_register_write = lambda *_: None
        client.on_connect = self._wrapped(self._on_connect)
        client.on_subscribe = self._wrapped(self._on_subscribe)
        client.on_message = self._wrapped(self._on_message)
        client.on_disconnect = self._wrapped(self._on_disconnect)
        client.reconnect()
        self.write(now_ms)

    def _make_client(self, channel: Channel) -> _Client:
        """Make a client for one connection, in the session that the broker keeps for us; or in a
        new one, when that can only be taken up to be cut off again."""
        broker, five = self._broker, self._protocol == "5"
        anew = self._oversized >= OVERSIZED_MAX
        client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=broker.client_id,
            clean_session=None if five else anew,
            protocol=MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311,
            # paho would connect by itself, blocking, from within a callback.
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.channel, client.five, client.epoch = channel, five, self._epoch
        client.notes, client.unacknowledged = self._notes, set()
        properties = None
        if five:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = broker.session_expiry_ms // 1000
            properties.ReceiveMaximum = RECEIVE_MAXIMUM
            properties.MaximumPacketSize = broker.maximum_packet_bytes
        keepalive_s = broker.keepalive_ms // 1000
        client.connect_async(
            broker.host,
            broker.port,
            keepalive_s,
            clean_start=anew,
            properties=properties,
        )
        return client

    def _read_packets(self) -> None:
        client = self._client
        for _ in range(PACKETS_MAX):
            if client is None or client.socket() is None:
                return
            if client.loop_read() == paho.MQTT_ERR_PROTOCOL:
                fault = "the broker sent a packet that MQTT does not allow"
                self._fault = self._fault or ("packet_malformed", fault)
            if not client.channel.pending():
                return

    def _settle(self, now_ms: int) -> None:
        """Draw the conclusions of what paho's callbacks left."""
        if self._client is None:
            return
        if self._fault is not None:
            self._end(now_ms, *self._fault)
            return
        if self._client.socket() is None:
            # Read as far as its end, perhaps before the record that says why: that one decides.
            self._close()
            self.deadline_ms = now_ms + RECORD_TIMEOUT_MS
            return
        if self.phase == GREETING and self._accepted:
            if self._oversized >= OVERSIZED_MAX:
                # In MQTT 3.1.1 a session that was begun anew is not kept: it only drops the old.
                self._oversized = 0
                if self._protocol != "5":
                    self._end(now_ms, "session_dropped", "it held a packet above the maximum")
                    return
            self.phase, self.deadline_ms = SUBSCRIBING, now_ms + SUBSCRIBE_TIMEOUT_MS
        if self.phase == SUBSCRIBING and self._subscribed:
            self.phase, self.deadline_ms = READY, now_ms + self._look_ms(self._client)
            self._ready_ms = now_ms
            self._notes.append(Ready(self._epoch))

    def _look_ms(self, client: _Client) -> int:
        """Return the time between two looks at the keepalive, which the broker may have set."""
        return max(client.keepalive, 1) * 1000 // KEEPALIVE_LOOKS

    def _end(self, now_ms: int, code: str, detail: str) -> None:
        """End the connection, for what a callback noted or else for `code`; plan the next try."""
        (code, detail), self._fault = self._fault or (code, detail), None
        if code == "packet_too_large":
            self._oversized += 1
        elif self.phase == READY:
            self._oversized = 0
        if self.phase == READY:
            self._backoff.connected(now_ms - self._ready_ms)
        elif self.phase == GREETING and self._broker.protocol == "auto" and code in OTHER_PROTOCOL:
            self._protocol = "3.1.1" if self._protocol == "5" else "5"
        self._close()
        self._hang_up(self._epoch)
        delay_ms = self._delay_ms(code)
        self.phase, self.deadline_ms = WAITING, now_ms + delay_ms
        self._notes.append(Lost(self._epoch, code, detail, delay_ms))

    def _delay_ms(self, code: str) -> int:
        if code == "session_dropped":
            # Until we are back, the broker keeps nothing for us.
            return 0
        # What was left came from a broker that works, and has more for us.
        return self._backoff.left() if code == "messages_left" else self._backoff.failed()

    def _close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.channel.close()

    # --- paho's callbacks: they note and never raise, for paho would deliver again and again ------

    def _wrapped(self, callback: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            try:
                callback(*arguments)
            except Exception as error:
                self._fault = self._fault or ("bug", f"a callback failed: {error!r}")

        return call

    def _on_connect(
        self, client: paho.Client, _data: object, _flags: object, reason: ReasonCode, told: object
    ) -> None:
        if reason.is_failure:
            unsupported = reason.getName() == UNSUPPORTED_PROTOCOL
            code = "protocol_unsupported" if unsupported else "connection_refused"
            self._fault = (code, f"the broker refused the connection: {reason}")
            return
        self._accepted = True
        self._send_maximum = getattr(told, "ReceiveMaximum", SEND_MAXIMUM)
        _, number = client.subscribe([(topic, 1) for topic in self._filters])
        self._subscription = number or 0

    def _on_subscribe(
        self, _client: object, _data: object, number: int, reasons: list[ReasonCode], _p: object
    ) -> None:
        if number != self._subscription:
            return
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused or len(reasons) != len(self._filters):
            detail = f"the broker refused a subscription: {', '.join(refused)}"
            self._fault = ("subscription_refused", detail)
            return
        self._subscribed = True

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        number = message.mid if message.qos else 0
        arrived = Arrived(self._epoch, number, topic, bytes(message.payload), message.retain)
        self._notes.append(arrived)

    def _on_disconnect(
        self, _client: object, _data: object, flags: Any, reason: ReasonCode, _p: object
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._fault = self._fault or ("closed_by_broker", f"the broker said: {reason}")


def _password(file: str | None) -> str | None:
    """Read the password anew at each connect: whoever changes it need not restart the agent."""
    if file is None:
        return None
    with open(file, encoding="utf-8") as stream:
        return stream.read(PASSWORD_BYTES_MAX).rstrip("\n")
