"""When to try the broker again: a pure schedule, seeded, without clock or sleep.

The interval doubles from the first to the ceiling; the delay is drawn evenly from its upper half,
so that a fleet that lost its broker at one instant does not come back at one instant.
"""

from __future__ import annotations

from limpet.errors import check

MASK = (1 << 64) - 1


class Backoff:
    """The reconnect schedule of one link. Times are milliseconds."""

    __slots__ = ("_ceiling_ms", "_first_ms", "_interval_ms", "_state")

    def __init__(self, seed: int, first_ms: int = 1_000, ceiling_ms: int = 120_000) -> None:
        """Start at `first_ms`; equal seeds give equal schedules."""
        check(2 <= first_ms <= ceiling_ms, "2 <= first_ms <= ceiling_ms")
        self._state = seed & MASK
        self._first_ms = first_ms
        self._ceiling_ms = ceiling_ms
        self._interval_ms = first_ms

    def failed(self) -> int:
        """Note a lost or refused connection; return how long to wait before the next try."""
        delay_ms = self._within(self._interval_ms)
        self._interval_ms = min(self._interval_ms * 2, self._ceiling_ms)
        return delay_ms

    def left(self) -> int:
        """Return how long to wait after a connection that we ended ourselves: nothing failed."""
        return self._within(self._first_ms)

    def connected(self, up_ms: int) -> None:
        """Note a connection that ended after `up_ms`; start over if it had outlived the ceiling.

        A broker that accepts and drops at once must not reset the schedule.
        """
        if up_ms >= self._ceiling_ms:
            self._interval_ms = self._first_ms

    def _within(self, interval_ms: int) -> int:
        half_ms = interval_ms // 2
        return half_ms + self._random() % (interval_ms - half_ms + 1)

    def _random(self) -> int:
        """SplitMix64: 64 even bits from a counter, without the cost of importing `random`."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & MASK
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
        return mixed ^ (mixed >> 31)
