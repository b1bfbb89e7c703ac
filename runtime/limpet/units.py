"""The text forms of durations, sizes and instants: the only place that reads or writes them.

Knows no task and no configuration. Every reader raises ValueError with a text that fits after
`<field>: `; no other error escapes.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

DIGITS = "0123456789"
DIGITS_TO_ZERO = str.maketrans(DIGITS, "0" * len(DIGITS))

# Units from large to small, so that a writer takes the first that divides.
DURATIONS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
SIZES = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}

# 2^53: beyond it a number cannot be kept exactly by every JSON reader.
NUMBER_MAX = 1 << 53

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)  # noqa: UP017 - datetime.UTC is the same object
MILLISECOND = timedelta(milliseconds=1)
# The forms of an instant, with every ASCII digit as 0.
INSTANTS = frozenset(
    f"0000-00-00T00:00:00{fraction}{zone}"
    for fraction in ("", ".0", ".00", ".000")
    for zone in ("Z", "z", "+00:00", "-00:00")
)
INSTANT_CHARACTERS_MAX = 29


def parse_duration(text: object) -> int:
    """Read `"20m"` and the like (a whole number and ms, s, m, h or d) as milliseconds."""
    return _parse(text, DURATIONS, 'a duration such as "20m" or "500ms"')


def parse_size(text: object) -> int:
    """Read `"200MiB"` and the like (a whole number and B, KiB, MiB or GiB) as bytes."""
    return _parse(text, SIZES, 'a size such as "200MiB" or "64KiB"')


def format_duration(milliseconds: int) -> str:
    """Write milliseconds as `parse_duration` reads them, in the largest unit that is exact."""
    return _format(milliseconds, DURATIONS)


def format_size(size_bytes: int) -> str:
    """Write bytes as `parse_size` reads them, in the largest unit that is exact."""
    return _format(size_bytes, SIZES)


def format_rounded(size_bytes: int) -> str:
    """Write bytes as whole KiB or larger units, rounded down: for people, of what was measured."""
    return format_size(size_bytes >> 10 << 10)


def parse_instant(text: object) -> int:
    """Read an RFC 3339 date and time with its offset as milliseconds since 1970 (UTC).

    At most three decimals of a second; a leap second is refused, as our clocks never show one.
    """
    fault = 'must be an RFC 3339 time such as "2026-11-24T05:00:00Z", with at most three decimals'
    if not isinstance(text, str) or len(text) > INSTANT_CHARACTERS_MAX:
        raise ValueError(fault)
    if text.translate(DIGITS_TO_ZERO) not in INSTANTS:
        raise ValueError(fault)
    try:
        instant = datetime.fromisoformat(text.upper()) - EPOCH
    except (ValueError, OverflowError):
        raise ValueError(f"{fault}: there is no such day, time or offset") from None
    return instant // MILLISECOND


def format_instant(wall_ms: int) -> str:
    """Write milliseconds since 1970 as RFC 3339 in UTC with milliseconds."""
    return (EPOCH + wall_ms * MILLISECOND).strftime("%Y-%m-%dT%H:%M:%S.") + f"{wall_ms % 1000:03}Z"


def _parse(text: object, units: dict[str, int], wanted: str) -> int:
    if not isinstance(text, str):
        raise ValueError(f"must be a text with {wanted}")
    unit = text.lstrip(DIGITS)
    digits = text[: len(text) - len(unit)]
    if unit not in units or not 1 <= len(digits) <= 16:
        listed = ", ".join(units)
        raise ValueError(f'must be {wanted}, not "{text[:32]}" (units: {listed})')
    value = int(digits) * units[unit]
    if value > NUMBER_MAX:
        raise ValueError(f'is too large: "{text[:32]}"')
    return value


def _format(value: int, units: dict[str, int]) -> str:
    for unit, factor in units.items():
        if value % factor == 0 and value >= factor:
            return f"{value // factor}{unit}"
    return "0" + list(units)[-1]
