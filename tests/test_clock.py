"""The clock reads the two clocks it says it reads."""

from __future__ import annotations

import time

from limpet.clock import Clock


def test_boot_time_never_runs_back_and_counts_milliseconds_since_boot() -> None:
    clock = Clock()
    before_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
    readings = [clock.boot_ms() for _ in range(100)]
    after_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
    assert [before_ms, *readings, after_ms] == sorted([before_ms, *readings, after_ms])


def test_wall_time_is_milliseconds_since_1970() -> None:
    before_ms = time.time_ns() // 1_000_000
    assert before_ms <= Clock().wall_ms() <= time.time_ns() // 1_000_000
