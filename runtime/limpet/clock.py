"""The only reader of time. Everything else gets milliseconds as arguments.

Two clocks, never mixed: boot time measures durations (it counts suspended time and never steps),
wall time names instants for people and for `expires_at`.
"""

from __future__ import annotations

import time


class Clock:
    """The system's clocks; a test passes an object with the same two methods."""

    __slots__ = ()

    def boot_ms(self) -> int:
        """Milliseconds since boot, suspended time included."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000

    def wall_ms(self) -> int:
        """Milliseconds since 1970 (UTC), as far as the device knows it."""
        return time.time_ns() // 1_000_000
