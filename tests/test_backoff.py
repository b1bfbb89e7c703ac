"""The reconnect schedule: bounded, growing, spread, and the same for the same seed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.backoff import Backoff

SEEDS = st.integers(0, 2**64 - 1)


@given(SEEDS, st.integers(2, 5_000), st.integers(5_000, 600_000))
def test_a_delay_lies_in_the_upper_half_of_an_interval_that_doubles(
    seed: int, first_ms: int, ceiling_ms: int
) -> None:
    backoff = Backoff(seed, first_ms, ceiling_ms)
    interval_ms = first_ms
    for _ in range(30):
        assert interval_ms // 2 <= backoff.failed() <= interval_ms
        interval_ms = min(interval_ms * 2, ceiling_ms)


@given(SEEDS)
def test_the_same_seed_gives_the_same_schedule(seed: int) -> None:
    first, second = Backoff(seed), Backoff(seed)
    assert [first.failed() for _ in range(20)] == [second.failed() for _ in range(20)]


def test_a_fleet_does_not_come_back_at_one_instant() -> None:
    first_delays = [Backoff(seed, 1_000).failed() for seed in range(1_000)]
    per_tenth = [0] * 10
    for delay_ms in first_delays:
        per_tenth[min((delay_ms - 500) // 50, 9)] += 1
    assert max(per_tenth) < 160


def test_a_connection_that_was_left_costs_the_first_interval_each_time() -> None:
    backoff = Backoff(7, 1_000, 60_000)
    assert all(500 <= backoff.left() <= 1_000 for _ in range(20))
    assert 500 <= backoff.failed() <= 1_000, "leaving is no failure"
    assert 500 <= backoff.left() <= 1_000 < 2 * backoff.failed()


def test_a_connection_that_lasted_starts_over() -> None:
    backoff = Backoff(7, 1_000, 60_000)
    for _ in range(10):
        backoff.failed()
    backoff.connected(60_000)
    assert backoff.failed() <= 1_000


def test_a_broker_that_accepts_and_drops_at_once_is_left_alone_all_the_same() -> None:
    backoff = Backoff(7, 1_000, 60_000)
    for _ in range(10):
        backoff.failed()
        backoff.connected(59_999)
    assert backoff.failed() >= 30_000


@pytest.mark.parametrize(("first_ms", "ceiling_ms"), [(0, 10), (1, 10), (20, 10)])
def test_an_impossible_schedule_is_a_bug(first_ms: int, ceiling_ms: int) -> None:
    with pytest.raises(AssertionError):
        Backoff(1, first_ms, ceiling_ms)
