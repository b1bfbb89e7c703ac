"""A broker that keeps to MQTT's letter and is as unkind as that letter allows, from one seed.

It delivers twice, out of order across topics, late, and after a cut again; it forgets sessions,
brings old ones back, and holds connections open that are dead. Knows nothing of tasks.
"""

from __future__ import annotations

import copy
import random
import socket
from collections import deque
from collections.abc import Callable

import mqtt

# What it sends before an acknowledgement: our agent asks for 16 at most.
IN_FLIGHT_MAX = 16
DELAY_MS = (0, 400)


class Session:
    """What the broker keeps for the device between connections."""

    def __init__(self) -> None:
        self.filters: list[str] = []
        self.queues: dict[str, deque[tuple[bytes, bool]]] = {}
        self.in_flight: dict[int, tuple[str, bytes, bool]] = {}
        self.number = 0


class Connection:
    """One accepted CONNECT, or one that is still awaited."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self.buffer = bytearray()
        self.five = True
        self.greeted = False
        self.will: tuple[str, bytes] | None = None
        # A half-open link: nothing arrives any more in either direction, and nobody is told.
        self.deaf = False


class Broker:
    """One client's broker; `later(ms, call)` calls in so many virtual milliseconds.

    `route` is told every publication of the device at the instant of its acknowledgement: from
    then on the device may forget it.
    """

    def __init__(
        self,
        chance: random.Random,
        later: Callable[[int, Callable[[], None]], None],
        route: Callable[[str, bytes], None],
    ) -> None:
        self.session: Session | None = None
        self.up = True
        self.retained: dict[str, bytes] = {}
        self._chance = chance
        self._later = later
        self._route = route
        self._connection: Connection | None = None
        self._saved: list[Session] = []
        # Publications whose acknowledgement is due, in order (4.6).
        self._taken: deque[tuple[Connection, mqtt.Publish]] = deque()

    # --- faults ---------------------------------------------------------------------------------

    def cut(self) -> None:
        """End the connection; the will is published."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.socket.close()
            if connection.will is not None:
                self._publish(*connection.will)

    def go_deaf(self) -> None:
        """Leave the connection half open."""
        if self._connection is not None:
            self._connection.deaf = True

    def restart(self, persistent: bool) -> None:
        """Cut, and forget the session and what is retained, unless it is persistent."""
        self.cut()
        if not persistent:
            self.session = None
            self.retained.clear()

    def save(self) -> None:
        """Take a backup of the session."""
        if self.session is not None:
            self._saved.append(copy.deepcopy(self.session))

    def restore(self) -> None:
        """Bring back a session from a backup, however old."""
        if self._saved:
            self.cut()
            self.session = copy.deepcopy(self._chance.choice(self._saved))

    def repeat(self) -> None:
        """Queue again something that is on its way already: QoS 1 is at least once."""
        if self.session is not None and self.session.in_flight:
            topic, payload, retain = self._chance.choice(list(self.session.in_flight.values()))
            self.session.queues.setdefault(topic, deque()).append((payload, retain))

    # --- traffic --------------------------------------------------------------------------------

    def accept(self, end: socket.socket) -> None:
        """Take the broker's end of a new transport connection."""
        end.setblocking(False)
        self.cut()
        self._connection = Connection(end)

    def send(self, topic: str, payload: bytes) -> bool:
        """Take a publication of a controller; False if there is nobody to keep it for."""
        if not self.up or self.session is None:
            return False
        if not any(_matches(pattern, topic) for pattern in self.session.filters):
            return False
        self.session.queues.setdefault(topic, deque()).append((payload, False))
        return True

    def turn(self) -> None:
        """Read what came and send what may be sent."""
        connection = self._connection
        if connection is None or connection.deaf:
            return
        try:
            received = connection.socket.recv(1 << 20)
        except BlockingIOError:
            received = None
        except ConnectionError:
            received = b""
        if received == b"":
            self.cut()
            return
        connection.buffer += received or b""
        while self._connection is connection:
            packet = mqtt.split(connection.buffer)
            if packet is None:
                break
            self._handle(connection, packet)
        self._deliver()

    def _handle(self, connection: Connection, packet: mqtt.Packet) -> None:
        if packet.kind == mqtt.CONNECT:
            self._greet(connection, mqtt.read_connect(packet))
        elif packet.kind == mqtt.SUBSCRIBE:
            number, filters = mqtt.read_subscribe(packet, connection.five)
            assert self.session is not None
            self.session.filters = filters
            self._say(connection, mqtt.build_suback(connection.five, number, len(filters)))
            for topic, payload in self.retained.items():
                if any(_matches(pattern, topic) for pattern in filters):
                    self.session.queues.setdefault(topic, deque()).append((payload, True))
        elif packet.kind == mqtt.PUBLISH:
            publish = mqtt.read_publish(packet, connection.five)
            self._taken.append((connection, publish))
            self._later(self._delay(), self._take)
        elif packet.kind == mqtt.PUBACK:
            assert self.session is not None
            self.session.in_flight.pop(mqtt.read_puback(packet), None)
        elif packet.kind == mqtt.PINGREQ:
            self._say(connection, mqtt.build(mqtt.PINGRESP, 0, b""))
        else:
            assert packet.kind == mqtt.DISCONNECT, packet
            connection.will = None
            self.cut()

    def _greet(self, connection: Connection, connect: mqtt.Connect) -> None:
        assert not connection.greeted and not connect.clean
        connection.greeted, connection.five = True, connect.five
        connection.will = connect.will
        present = self.session is not None
        if self.session is None:
            self.session = Session()
        self._say(connection, mqtt.build_connack(connect.five, present))
        # What was sent and never acknowledged is sent again, with its old number.
        for number, (topic, payload, retain) in self.session.in_flight.items():
            again = mqtt.Publish(number, topic, payload, retain, True)
            self._say(connection, mqtt.build_publish(connect.five, again))

    def _take(self) -> None:
        """Acknowledge and route, unless the connection has ended; a PUBACK may still be lost."""
        connection, publish = self._taken.popleft()
        if connection is not self._connection or connection.deaf:
            return
        self._publish(publish.topic, publish.payload)
        if publish.retain:
            self.retained[publish.topic] = publish.payload
        if self._chance.random() < 0.02:
            self.cut()
            return
        self._say(connection, mqtt.build_puback(publish.number))

    def _publish(self, topic: str, payload: bytes) -> None:
        self._route(topic, payload)
        self.send(topic, payload)

    def _deliver(self) -> None:
        session, connection = self.session, self._connection
        if session is None or connection is None or not connection.greeted:
            return
        while len(session.in_flight) < IN_FLIGHT_MAX:
            topics = [topic for topic, queue in session.queues.items() if queue]
            if not topics:
                return
            topic = self._chance.choice(topics)
            payload, retain = session.queues[topic].popleft()
            session.number = session.number % 0xFFFF + 1
            session.in_flight[session.number] = (topic, payload, retain)
            publish = mqtt.Publish(session.number, topic, payload, retain, False)
            self._say(connection, mqtt.build_publish(connection.five, publish))

    def _say(self, connection: Connection, data: bytes) -> None:
        try:
            connection.socket.sendall(data)
        except (BlockingIOError, ConnectionError):
            self.cut()

    def _delay(self) -> int:
        """Return how long the next acknowledgement takes."""
        return 0 if self._chance.random() < 0.7 else self._chance.randint(*DELAY_MS)


def _matches(pattern: str, topic: str) -> bool:
    """Say whether a filter of names and `+` matches a topic (4.7)."""
    ours, theirs = pattern.split("/"), topic.split("/")
    return len(ours) == len(theirs) and all(
        a in ("+", b) for a, b in zip(ours, theirs, strict=True)
    )
