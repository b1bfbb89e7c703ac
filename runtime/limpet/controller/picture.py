"""The memory of an agent and its steps as lines: bars to look at, a table to read.

Decides what a person needs to see of a picture. Knows neither how it came nor a terminal, but for
how wide its lines may be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from limpet.controller import present

if TYPE_CHECKING:
    from limpet.controller.terminal import Screen

HEADER = ["SOURCE", "TASK", "STEP", "NOW", "PEAK", "LIMIT", "PROCESSES", "TIER"]
# A narrower bar tells nothing, a wider one nothing more.
BAR_MIN, BAR_MAX = 8, 60
# What is there now, what was there or is set aside, what is free.
NOW, ASIDE, FREE = "█", "▒", "░"
# From which hundredth of its limit on a bar has which colour.
COLOURS = ((90, "red"), (70, "yellow"), (0, "green"))


class _Share(NamedTuple):
    """What a bar shows, in bytes; without a limit there is nothing to show."""

    used: int
    aside: int
    limit: int | None


def lines(screen: Screen, picture: dict[str, Any], width: int | None = None) -> list[str]:
    """Return the picture for a person; with a `width` in columns its lines have bars and fit."""
    agent, pool, steps = picture["agent"], picture["pool"], picture["steps"]
    told = [
        f"{present.cell(str(picture['device']))}: memory is kept by"
        f" {present.cell(str(picture['tier']))}, containment by"
        f" {present.cell(str(picture['containment']))}"
    ]
    if agent["refusing"]:
        told.append(f"takes no task: {present.cell(str(agent['refusing']))}")
    told.append("")
    shares = [
        _Share(agent["used_bytes"], 0, agent["limit_bytes"]),
        _Share(pool["used_bytes"], pool["held_bytes"], pool["limit_bytes"]),
    ]
    told += _beside(screen, [f"agent  {_agent(agent)}", f"pool   {_pool(pool)}"], shares, width)
    if steps:
        header, *rows = present.table(HEADER, [_row(step, picture["tier"]) for step in steps])
        shares = [_Share(one["used_bytes"], one["peak_bytes"], one["limit_bytes"]) for one in steps]
        told += ["", screen.paint(header[:width], "dim"), *_beside(screen, rows, shares, width)]
    hidden = picture.get("hidden_steps", 0)
    if hidden:
        told += ["", f"steps of other sources, which only an operator is shown: {hidden}"]
    return told


def short(picture: dict[str, Any]) -> str:
    """Return the picture in one line."""
    return f"agent {_agent(picture['agent'])}; pool {_pool(picture['pool'])}"


def _agent(agent: dict[str, Any]) -> str:
    return f"{present.size(agent['used_bytes'])} of {present.size(agent['limit_bytes'])}"


def _pool(pool: dict[str, Any]) -> str:
    held, limit = present.size(pool["held_bytes"]), present.size(pool["limit_bytes"])
    return f"{held} of {limit} held, {present.size(pool['used_bytes'])} used"


def _row(step: dict[str, Any], tier: object) -> list[str]:
    names = [present.cell(str(step[key])) for key in ("source", "id", "step")]
    sizes = [present.size(step[f"{key}_bytes"]) for key in ("used", "peak", "limit")]
    kept_by = "-" if step["limit_bytes"] is None else present.cell(str(tier))
    return [*names, *sizes, str(step["processes"]), kept_by]


def _beside(screen: Screen, texts: list[str], shares: list[_Share], width: int | None) -> list[str]:
    """Return `texts` with the bar of each behind it, as far as `width` has room for bars."""
    if width is None:
        return texts
    longest = max(len(text) for text in texts)
    room = min(BAR_MAX, width - longest - 2)
    if room < BAR_MIN:
        return [text[:width] for text in texts]
    return [
        f"{text.ljust(longest)}  {_bar(screen, share, room)}"
        for text, share in zip(texts, shares, strict=True)
    ]


def _bar(screen: Screen, share: _Share, room: int) -> str:
    """Return a bar of `room` characters; whatever there is shows, and no more than all of it."""
    if not share.limit:
        return ""
    now = min(room, -(-share.used * room // share.limit))
    aside = max(0, min(room, -(-share.aside * room // share.limit)) - now)
    part = share.used * 100 // share.limit
    colour = next(colour for least, colour in COLOURS if part >= least)
    return screen.paint(NOW * now, colour) + ASIDE * aside + FREE * (room - now - aside)
