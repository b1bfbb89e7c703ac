"""The packets that tasks are made of, as bytes: a publication of QoS 1 and its acknowledgement.

Decides what of them is simple enough to be read here; everything else is left to the MQTT client,
which takes some forty times as long for each. Knows no client and no connection.
"""

from __future__ import annotations

from typing import NamedTuple

PUBLISH, PUBACK = 0x30, 0x40
# Of the first byte of a PUBLISH: its quality of service, and whether it is or is to be retained.
QOS, QOS_1, RETAIN = 0x06, 0x02, 0x01
KIND = 0xF0
# The first reason of a PUBACK that is a refusal.
REFUSED = 0x80
# A length is written in groups of seven bits, the last one below this.
MORE = 0x80
LENGTH_BYTES_MAX = 4


class Published(NamedTuple):
    """A message of QoS 1, to be acknowledged by its number."""

    topic: bytes
    number: int
    payload: bytes
    retained: bool


def bounds(buffer: bytearray, start: int, end: int) -> tuple[int, int] | None:
    """Return where the body of the packet at `start` begins and ends; None if not all is there."""
    length, at = 0, start + 1
    while at < min(end, start + 1 + LENGTH_BYTES_MAX):
        byte = buffer[at]
        length |= (byte & (MORE - 1)) << 7 * (at - start - 1)
        at += 1
        if byte < MORE:
            return (at, at + length) if at + length <= end else None
    return None


def read_publish(first: int, body: bytes, five: bool) -> Published | None:
    """Read a PUBLISH of QoS 1 without properties; None if it is anything else."""
    if first & (KIND | QOS) != PUBLISH | QOS_1 or len(body) < 2:
        return None
    topic_end = 2 + int.from_bytes(body[:2], "big")
    payload_start = topic_end + (3 if five else 2)
    if topic_end == 2 or len(body) < payload_start or (five and body[payload_start - 1]):
        return None
    number = int.from_bytes(body[topic_end : topic_end + 2], "big")
    topic, payload = body[2:topic_end], body[payload_start:]
    return Published(topic, number, payload, bool(first & RETAIN))


def publish(topic: bytes, number: int, payload: bytes, retain: bool, five: bool) -> bytes:
    """Return a PUBLISH of QoS 1 without properties."""
    rest = len(topic) + 4 + five + len(payload)
    length = bytearray()
    while rest >= MORE:
        length.append(rest % MORE | MORE)
        rest //= MORE
    length.append(rest)
    parts = (
        bytes((PUBLISH | QOS_1 | (RETAIN if retain else 0),)) + length,
        len(topic).to_bytes(2, "big") + topic,
        number.to_bytes(2, "big") + (b"\0" if five else b""),
        payload,
    )
    return b"".join(parts)


def acknowledge(number: int) -> bytes:
    """Return a PUBACK that says nothing but yes."""
    return bytes((PUBACK, 2, number >> 8, number & 0xFF))
