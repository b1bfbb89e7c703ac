"""The broker's side of MQTT 3.1.1 and 5 as bytes: what the made-up broker reads and writes.

Decides nothing; shares no code with paho. Section numbers are those of the OASIS MQTT 5.0 standard.
"""

from __future__ import annotations

from typing import NamedTuple

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK = 1, 2, 3, 4, 8, 9
PINGREQ, PINGRESP, DISCONNECT = 12, 13, 14


class Packet(NamedTuple):
    """One packet: its type, the low four bits of its first byte, and what follows its length."""

    kind: int
    flags: int
    body: bytes


class Connect(NamedTuple):
    """What CONNECT says (3.1)."""

    five: bool
    clean: bool
    client_id: str
    will: tuple[str, bytes] | None


class Publish(NamedTuple):
    """What PUBLISH says (3.3)."""

    number: int
    topic: str
    payload: bytes
    retain: bool
    repeated: bool


def split(buffer: bytearray) -> Packet | None:
    """Take one whole packet off the front of `buffer`, or return None (2.1)."""
    length = shift = 0
    for place in range(1, min(len(buffer), 5)):
        length |= (buffer[place] & 0x7F) << shift
        shift += 7
        if buffer[place] < 0x80:
            end = place + 1 + length
            if len(buffer) < end:
                return None
            packet = Packet(buffer[0] >> 4, buffer[0] & 15, bytes(buffer[place + 1 : end]))
            del buffer[:end]
            return packet
    return None


def build(kind: int, flags: int, body: bytes) -> bytes:
    """Return the bytes of a packet (2.1)."""
    length, size = b"", len(body)
    while True:
        size, digit = divmod(size, 128)
        length += bytes([digit | (0x80 if size else 0)])
        if not size:
            return bytes([kind << 4 | flags]) + length + body


class _Reader:
    """Reads fields off a body from the front."""

    def __init__(self, body: bytes) -> None:
        self.rest = body

    def take(self, size: int) -> bytes:
        taken, self.rest = self.rest[:size], self.rest[size:]
        assert len(taken) == size, "a packet ends too early"
        return taken

    def number(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def data(self) -> bytes:
        return self.take(self.number())

    def text(self) -> str:
        return self.data().decode()

    def skip_properties(self, five: bool) -> None:
        """Pass over the properties, which only MQTT 5 has (2.2.2)."""
        length = shift = 0
        more = five
        while more:
            digit = self.take(1)[0]
            length |= (digit & 0x7F) << shift
            shift, more = shift + 7, digit >= 0x80
        self.take(length)


def read_connect(packet: Packet) -> Connect:
    """Read CONNECT (3.1)."""
    reader = _Reader(packet.body)
    assert reader.text() == "MQTT"
    level, flags = reader.take(2)
    reader.number()
    five = level == 5
    reader.skip_properties(five)
    client_id = reader.text()
    will = None
    if flags & 4:
        reader.skip_properties(five)
        will = reader.text(), reader.data()
    return Connect(five, bool(flags & 2), client_id, will)


def read_subscribe(packet: Packet, five: bool) -> tuple[int, list[str]]:
    """Read the number and the filters of SUBSCRIBE (3.8)."""
    reader = _Reader(packet.body)
    number, filters = reader.number(), []
    reader.skip_properties(five)
    while reader.rest:
        filters.append(reader.text())
        reader.take(1)
    return number, filters


def read_publish(packet: Packet, five: bool) -> Publish:
    """Read PUBLISH of QoS 1 (3.3)."""
    reader = _Reader(packet.body)
    topic, number = reader.text(), reader.number()
    reader.skip_properties(five)
    retain, repeated = bool(packet.flags & 1), bool(packet.flags & 8)
    return Publish(number, topic, reader.rest, retain, repeated)


def read_puback(packet: Packet) -> int:
    """Read the number of PUBACK (3.4)."""
    return int.from_bytes(packet.body[:2], "big")


def build_connack(five: bool, session_present: bool) -> bytes:
    """Return CONNACK that accepts (3.2)."""
    return build(CONNACK, 0, bytes([session_present, 0]) + (b"\0" if five else b""))


def build_suback(five: bool, number: int, count: int) -> bytes:
    """Return SUBACK that grants QoS 1 to all (3.9)."""
    return build(SUBACK, 0, number.to_bytes(2, "big") + (b"\0" if five else b"") + b"\1" * count)


def build_publish(five: bool, publish: Publish) -> bytes:
    """Return PUBLISH of QoS 1 (3.3)."""
    topic = publish.topic.encode()
    head = len(topic).to_bytes(2, "big") + topic + publish.number.to_bytes(2, "big")
    flags = 2 | (8 if publish.repeated else 0) | (1 if publish.retain else 0)
    return build(PUBLISH, flags, head + (b"\0" if five else b"") + publish.payload)


def build_puback(number: int) -> bytes:
    """Return PUBACK of success, the same in both versions (3.4)."""
    return build(PUBACK, 0, number.to_bytes(2, "big"))
