"""One line per event on stderr: JSON for machines, text for people, never more than its share.

Decides form, priority prefix and rate limit. Event names are literals such as `link.up`; what is
logged never includes a payload. Without `logging`, which costs 2 MB resident.
"""

from __future__ import annotations

import os

import orjson

from limpet.units import format_instant

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# sd-daemon(3): the journal takes <N> at the start of a line as its priority.
PRIORITIES = {"error": 3, "warning": 4, "info": 6, "debug": 7}

# A stuck broker must not wear out the flash of whoever keeps the log.
LINES_PER_WINDOW = 20
WINDOW_MS = 60_000
EVENTS_MAX = 128
VALUE_CHARACTERS_MAX = 512


class Log:
    """Writes lines; drops what is below `level` or above the rate, and says how many it dropped."""

    __slots__ = ("_form", "_prefix", "_threshold", "_wall_ms", "_windows", "_write")

    def __init__(
        self,
        write: Callable[[bytes], object],
        wall_ms: Callable[[], int],
        level: str = "info",
        form: str = "text",
        prefix: bool = False,
    ) -> None:
        """`form` is "json" or "text"; `prefix` puts `<N>` before each line."""
        self._write = write
        self._wall_ms = wall_ms
        self._threshold = PRIORITIES[level]
        self._form = form
        self._prefix = prefix
        # event -> [start of its window, lines in it, lines dropped since the last one written]
        self._windows: dict[str, list[int]] = {}

    def error(self, event: str, **fields: object) -> None:
        """Something failed that a person has to look at."""
        self._line("error", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Something failed that the agent deals with."""
        self._line("warning", event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Something happened that an operator wants to know."""
        self._line("info", event, fields)

    def debug(self, event: str, **fields: object) -> None:
        """Something happened that a developer wants to know."""
        self._line("debug", event, fields)

    def _line(self, level: str, event: str, fields: dict[str, object]) -> None:
        if PRIORITIES[level] > self._threshold:
            return
        now_ms = self._wall_ms()
        window = self._window(event, now_ms)
        window[1] += 1
        if window[1] > LINES_PER_WINDOW:
            window[2] += 1
            return
        shown = {name: _bounded(value) for name, value in fields.items()}
        if window[2] > 0:
            shown["dropped"], window[2] = window[2], 0
        body = _json(now_ms, level, event, shown)
        if self._form == "text":
            body = _text(now_ms, level, event, shown)
        prefix = b"<%d>" % PRIORITIES[level] if self._prefix else b""
        try:
            self._write(prefix + body + b"\n")
        except OSError:
            # The reader of stderr is gone or slow; the agent's work does not depend on it.
            window[2] += 1

    def _window(self, event: str, now_ms: int) -> list[int]:
        window = self._windows.get(event)
        if window is None:
            if len(self._windows) >= EVENTS_MAX:
                self._windows.clear()
            window = self._windows[event] = [now_ms, 0, 0]
        # Also when wall time stepped back: a window never outlives a clock that was set.
        if not 0 <= now_ms - window[0] < WINDOW_MS:
            window[0], window[1] = now_ms, 0
        return window


def stderr_log(wall_ms: Callable[[], int], level: str, form: str) -> Log:
    """Return the log of this process: `form` "auto" is text on a terminal and JSON elsewhere.

    The priority prefix appears only where stderr is the journal's own stream, so that the lines
    a container runtime collects stay plain JSON.
    """
    terminal = os.isatty(2)
    status = os.fstat(2)
    journal = os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
    if form == "auto":
        form = "text" if terminal else "json"
    return Log(lambda line: os.write(2, line), wall_ms, level, form, prefix=journal)


def _bounded(value: object) -> object:
    if value is None or isinstance(value, int | float):
        return value
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= VALUE_CHARACTERS_MAX else text[: VALUE_CHARACTERS_MAX - 3] + "..."


def _json(now_ms: int, level: str, event: str, fields: dict[str, object]) -> bytes:
    line = {"time": format_instant(now_ms), "level": level, "event": event, **fields}
    try:
        return orjson.dumps(line)
    except TypeError:
        # Lone surrogates from file names, or integers beyond 64 bits.
        return orjson.dumps({name: ascii(value) for name, value in line.items()})


def _text(now_ms: int, level: str, event: str, fields: dict[str, object]) -> bytes:
    """One line whatever the values hold: `ascii` escapes line ends and control characters."""
    parts = [format_instant(now_ms), level.upper(), event]
    for name, value in fields.items():
        plain = isinstance(value, str) and value.isascii() and value.isprintable()
        shown = value if plain and " " not in str(value) else ascii(value)
        parts.append(f"{name}={shown}")
    return " ".join(parts).encode("ascii", "backslashreplace")
