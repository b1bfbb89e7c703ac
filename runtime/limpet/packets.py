"""The packets that tasks are made of, as bytes: a publication of QoS 1 and its acknowledgement.

Decides what of them is simple enough to be read here; everything else is left to the MQTT client,
which takes some forty times as long for each. Knows no client and no connection.
"""

from __future__ import annotations

PUBLISH, PUBACK = 0x30, 0x40
# Of the first byte of a PUBLISH: its quality of service, and whether it is or is to be retained.
QOS, QOS_1, RETAIN = 0x06, 0x02, 0x01
KIND = 0xF0
# The first reason of a PUBACK that is a refusal.
REFUSED = 0x80
# A length is written in at most four groups of seven bits, the last one below this.
MORE = 0x80
LENGTH_BITS = 28


def bounds(buffer: bytearray, start: int, end: int) -> tuple[int, int] | None:
    """Return where the body of the packet at `start` begins and ends; None if not all is there."""
    length = shift = 0
    body = start + 1
    while body < end and shift < LENGTH_BITS:
        byte = buffer[body]
        body += 1
        if byte < MORE:
            stop = body + (length | byte << shift)
            return (body, stop) if stop <= end else None
        length |= (byte - MORE) << shift
        shift += 7
    return None


def read_publish(first: int, body: bytes, five: bool) -> tuple[int, str, bytes, bool] | None:
    """Read a PUBLISH of QoS 1 without properties: its number, topic and payload, and whether it was
    retained; None if it is anything else.
    """
    if first & (KIND | QOS) != PUBLISH | QOS_1 or len(body) < 2:
        return None
    topic_end = 2 + int.from_bytes(body[:2], "big")
    payload_start = topic_end + (3 if five else 2)
    if topic_end == 2 or len(body) < payload_start or (five and body[payload_start - 1]):
        return None
    try:
        topic = body[2:topic_end].decode()
    except UnicodeDecodeError:
        return None
    number = int.from_bytes(body[topic_end : topic_end + 2], "big")
    return number, topic, body[payload_start:], first & RETAIN != 0


def publish(topic: bytes, number: int, payload: bytes, retain: bool, five: bool) -> bytes:
    """Return a PUBLISH of QoS 1 without properties."""
    rest = len(topic) + 4 + five + len(payload)
    head = bytearray((PUBLISH | QOS_1 | (RETAIN if retain else 0),))
    while rest >= MORE:
        head.append(rest % MORE | MORE)
        rest //= MORE
    head.append(rest)
    size = len(topic).to_bytes(2, "big")
    return b"".join((head, size, topic, number.to_bytes(2, "big"), bytes(five), payload))


def acknowledge(number: int) -> bytes:
    """Return a PUBACK that says nothing but yes."""
    return bytes((PUBACK, 2, number >> 8, number & 0xFF))
