"""The bytes of the simple packets, held against the MQTT client that reads all others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt import _packet
from paho.mqtt.enums import MQTTProtocolVersion

from limpet import packets

NUMBERS = st.integers(1, 65_535)
TOPICS = st.text("abc/", min_size=1, max_size=200)


@given(TOPICS, NUMBERS, st.binary(max_size=40_000), st.booleans(), st.booleans())
def test_a_publication_is_read_as_the_client_reads_it(
    topic: str, number: int, payload: bytes, retain: bool, five: bool
) -> None:
    packet = packets.publish(topic.encode(), number, payload, retain, five)
    buffer = bytearray(b"?" + packet + b"?")
    found = packets.bounds(buffer, 1, len(buffer))
    assert found is not None
    start, end = found
    assert end == len(buffer) - 1
    first, body = packet[0], bytes(buffer[start:end])
    protocol = MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311
    theirs = _packet.decode_publish(first, body, protocol)
    told = (theirs.mid, theirs.topic.decode(), theirs.payload, theirs.retain)
    assert packets.read_publish(first, body, five) == told
    assert (theirs.qos, theirs.dup) == (1, False)


@given(st.binary(min_size=1, max_size=400), st.integers(1, 400))
def test_a_packet_that_is_not_all_here_has_no_bounds(payload: bytes, missing: int) -> None:
    packet = packets.publish(b"t", 7, payload, False, True)
    here = max(0, len(packet) - missing)
    assert packets.bounds(bytearray(packet), 0, here) is None


@given(st.integers(0, 255), st.binary(max_size=60), st.booleans())
def test_whatever_comes_is_read_as_the_client_would_or_left_to_it(
    first: int, body: bytes, five: bool
) -> None:
    read = packets.read_publish(first, body, five)
    if read is None:
        return
    protocol = MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311
    theirs = _packet.decode_publish(first, body, protocol)
    assert read == (theirs.mid, theirs.topic.decode(), theirs.payload, theirs.retain)


@pytest.mark.parametrize("buffer", [b"", b"\x32", b"\x32\xff\xff\xff\xff\x01", b"\x32\x80"])
def test_a_length_that_has_no_end_has_no_bounds(buffer: bytes) -> None:
    assert packets.bounds(bytearray(buffer), 0, len(buffer)) is None


@given(NUMBERS)
def test_an_acknowledgement_is_read_as_the_client_reads_it(number: int) -> None:
    packet = packets.acknowledge(number)
    read = _packet.decode_puback(packet[0], packet[2:], MQTTProtocolVersion.MQTTv5)
    assert read.mid == number
    assert not read.reason.is_failure
