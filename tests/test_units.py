"""Durations, sizes and instants have one text form, which reads back to the same number."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.units import (
    NUMBER_MAX,
    format_duration,
    format_instant,
    format_size,
    parse_duration,
    parse_instant,
    parse_size,
)

JUST_BELOW_YEAR_10000_MS = 253_402_300_799_999
ANYTHING = st.one_of(st.text(), st.none(), st.integers(), st.floats(), st.lists(st.none()))


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [("0s", 0), ("1ms", 1), ("90s", 90_000), ("20m", 1_200_000), ("2h", 7_200_000)],
)
def test_a_duration_is_read_in_milliseconds(text: str, expected_ms: int) -> None:
    assert parse_duration(text) == expected_ms


@pytest.mark.parametrize(
    ("text", "expected"), [("1B", 1), ("200MiB", 200 << 20), ("1GiB", 1 << 30)]
)
def test_a_size_is_read_in_bytes(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "10",
        " 1s",
        "1 s",
        "1s ",
        "-1s",
        "+1s",
        "1.5h",
        "1h30m",
        "1M",
        "1S",
        "٣s",
        "9" * 17 + "s",
    ],
)
def test_a_duration_in_any_other_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_duration(text)


def test_a_size_in_thousands_is_refused_with_the_units() -> None:
    with pytest.raises(ValueError, match="GiB, MiB, KiB, B"):
        parse_size("200MB")


def test_a_duration_beyond_the_number_range_is_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        parse_duration("999999999999999d")


@given(st.integers(0, NUMBER_MAX))
def test_what_is_written_reads_back(value: int) -> None:
    assert parse_duration(format_duration(value)) == value
    assert parse_size(format_size(value)) == value


@given(st.integers(0, JUST_BELOW_YEAR_10000_MS))
def test_an_instant_reads_back(wall_ms: int) -> None:
    assert parse_instant(format_instant(wall_ms)) == wall_ms


@given(st.datetimes(timezones=st.just(UTC), min_value=datetime(1971, 1, 1)))
def test_an_instant_agrees_with_the_standard_library(instant: datetime) -> None:
    whole = instant.replace(microsecond=0)
    assert parse_instant(whole.strftime("%Y-%m-%dT%H:%M:%SZ")) == whole.timestamp() * 1000


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01T00:00:00.5Z", 500),
        ("1970-01-01T00:00:00.012-00:00", 12),
        ("2026-11-24T05:00:00z", 1_795_496_400_000),
    ],
)
def test_every_form_of_an_instant_is_read(text: str, expected_ms: int) -> None:
    assert parse_instant(text) == expected_ms


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-24",
        "2026-11-24T05:00:00",
        "2026-11-24 05:00:00Z",
        "2026-11-24T05:00Z",
        "2026-02-30T05:00:00Z",
        "2026-11-24T25:00:00Z",
        "2026-11-24T05:00:60Z",
        "2026-11-24T05:00:00.1234Z",
        "2026-11-24T05:00:00.Z",
        "2026-11-24T05:00:00+1:00",
        "2026-11-24T05:00:00+99:00",
        "0000-01-01T00:00:00Z",
        "٢٠٢٦-11-24T05:00:00Z",
    ],
)
def test_any_other_instant_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="RFC 3339"):
        parse_instant(text)


@given(ANYTHING)
def test_a_reader_raises_nothing_but_value_error(value: object) -> None:
    for parse in (parse_duration, parse_size, parse_instant):
        try:
            assert isinstance(parse(value), int)
        except ValueError as error:
            assert str(error)
