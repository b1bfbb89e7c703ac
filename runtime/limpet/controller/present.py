"""States and results as lines of text. Pure: documents in, lines out, no stream and no clock.

Decides what a person needs to see of a document. A state that tells a person nothing new gives no
line.
"""

from __future__ import annotations

from typing import Any

from limpet.codec import encode
from limpet.controller.terminal import plain
from limpet.units import SIZES

CELL_CHARACTERS_MAX = 72
QUOTED_LINES_MAX = 8
COLOUR_OF_OUTCOME = {
    "succeeded": "green",
    "skipped": "dim",
    "cancelled": "yellow",
    "uncertain": "yellow",
}
# What each phase means to a person; one that is not listed passes too fast to be told.
PHASES = {
    "queued": "waits for its turn",
    "running": "runs",
    "stopping": "is being stopped",
    "killing": "is being killed",
    "backoff": "failed, will be tried again",
    "planning": "asks for more steps",
    "recovering": "is found again after a restart",
    "reporting": "has ended; its result waits for room behind those for the broker",
}
QUIET = ("queued",)


def span(milliseconds: int) -> str:
    """Write a duration for people: `0.25s`, `12.3s`, `3m05s`, `2h07m`."""
    seconds = max(0, milliseconds) / 1000
    if seconds < 10:
        return f"{seconds:.2f}s"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    return f"{minutes // 60}h{minutes % 60:02}m"


def size(size_bytes: int | None) -> str:
    """Write a size for people: `640 KiB`, `30.9 MiB`, `1.5 GiB`; `-` for none."""
    if size_bytes is None:
        return "-"
    for unit in ("GiB", "MiB"):
        if size_bytes >= SIZES[unit]:
            return f"{size_bytes / SIZES[unit]:.1f} {unit}"
    return f"{size_bytes >> 10} KiB"


def outcome_colour(outcome: str) -> str:
    """Return the colour that an outcome is shown in."""
    return COLOUR_OF_OUTCOME.get(outcome, "red")


class Follower:
    """Turns the states of one task into lines, each told once; `names` are those of its steps."""

    __slots__ = ("_last", "_progress", "names")

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self._last: tuple[object, ...] = ()
        self._progress: object = None

    def line(self, state: dict[str, Any], elapsed_ms: int) -> str | None:
        """Return the line for `state`, `elapsed_ms` after the start, or None."""
        phase, step, attempt = str(state["phase"]), state.get("step"), state.get("attempt")
        progress = state.get("progress")
        key = (phase, step, attempt)
        news = progress is not None and progress != self._progress
        told = phase in PHASES and phase not in QUIET and key != self._last
        if not (told or (news and phase == "running")):
            return None
        self._last, self._progress = key, progress
        what = PHASES.get(phase, phase)
        again = f", attempt {attempt}" if isinstance(attempt, int) and attempt > 1 else ""
        shown = f"  {cell(encode(progress).decode())}" if news else ""
        name = self.step_name(step)
        return f"{span(elapsed_ms):>7}  {name:<12} {what}{again}{shown}"

    def step_name(self, step: object) -> str:
        """Return the name of a step by its index, or what can be said without knowing it."""
        if not isinstance(step, int):
            return "task"
        return self.names[step] if step < len(self.names) else f"step {step}"


def result_rows(result: dict[str, Any]) -> list[list[str]]:
    """Return one row per step: name, tool, outcome, attempts, time, what it came to."""
    return [
        [
            plain(str(step["name"])),
            plain(str(step["tool"])),
            str(step["outcome"]),
            str(step["attempts"]),
            _took(step),
            cell(_came_to(step)),
        ]
        for step in result["steps"]
    ]


def result_head(result: dict[str, Any]) -> str:
    """Return the sentence that says how a task ended."""
    outcome = plain(str(result["outcome"]))
    clock = f" ({result['clock']} ran out)" if result.get("clock") else ""
    step = result.get("step")
    name = result["steps"][step]["name"] if isinstance(step, int) else None
    where = f" at step {plain(str(name))}" if name is not None and outcome != "succeeded" else ""
    took = span(result["ended_ms"] - result["accepted_ms"])
    return f"task {plain(str(result['id']))} {outcome}{where}{clock} in {took}"


def result_notes(result: dict[str, Any]) -> list[str]:
    """Return what a person should know besides the table: flags, and what failing steps wrote."""
    notes = [f"flag: {flag}" for flag in result.get("flags", [])]
    if result.get("clock_uncertain"):
        notes.append("time without power could not be measured: clocks counted running time only")
    for step in result["steps"]:
        if step["outcome"] in ("succeeded", "skipped"):
            continue
        lines = plain(_written(step.get("stderr"))).strip().splitlines()
        if lines:
            notes.append(f"{step['name']} wrote to stderr:")
            notes += [f"  | {line[:CELL_CHARACTERS_MAX]}" for line in lines[-QUOTED_LINES_MAX:]]
    return notes


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Return aligned lines, the header first; the last column is as wide as it likes."""
    widths = [max(len(row[place]) for row in [header, *rows]) for place in range(len(header))]
    widths[-1] = 0
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]


def cell(text: str) -> str:
    """Return `text` on one line, cut to what fits a table."""
    line = " ".join(plain(text).split())
    short = line[: CELL_CHARACTERS_MAX - 1] + "…"
    return line if len(line) <= CELL_CHARACTERS_MAX else short


def _took(step: dict[str, Any]) -> str:
    if not step.get("started_ms"):
        return "-"
    return span(step["ended_ms"] - step["started_ms"])


def _came_to(step: dict[str, Any]) -> str:
    """Return the most telling part of an end: refusal, clock, signal, result, output."""
    if step.get("reason"):
        return f"{step['reason']}: {step.get('detail') or ''}"
    if step.get("clock"):
        return f"{step['clock']} ran out"
    if step.get("result") is not None:
        return encode(step["result"]).decode()
    if step.get("signal") is not None:
        return f"signal {step['signal']}"
    if step["outcome"] == "failed" and step.get("exit_code") is not None:
        return f"exit code {step['exit_code']}"
    return _written(step.get("stdout"))


def _written(output: dict[str, Any] | None) -> str:
    return f"{output['head']}{output['tail']}" if output else ""
