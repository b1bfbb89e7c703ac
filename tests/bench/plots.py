"""Plots as SVG: lines over a logarithmic or linear axis, and bars; so small that a diff shows them.

A plotting library would bring ten packages for four pictures that are lines and rectangles.
"""

from __future__ import annotations

import math
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 190, 34, 44
INK, GRID, PAPER = "#333", "#ddd", "#fff"
# Told apart in grey and by the colour-blind: Okabe and Ito's palette.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")

Points = list[tuple[float, float]]


class Axis(NamedTuple):
    """From where to where an axis goes, and whether each step of it is a factor of ten."""

    title: str
    low: float
    high: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Return where a value lies, 0 to 1."""
        if self.logarithmic:
            low, high = math.log10(self.low), math.log10(self.high)
            return (math.log10(max(value, self.low)) - low) / (high - low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Return the values with a line of their own."""
        if self.logarithmic:
            decades = range(round(math.log10(self.low)), round(math.log10(self.high)) + 1)
            return [10.0**decade for decade in decades]
        rough = (self.high - self.low) / 5
        step: float = 10 ** math.floor(math.log10(rough))
        step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= rough)
        return [step * number for number in range(math.ceil(self.high / step) + 1)
                if step * number <= self.high]  # fmt: skip


def across(axis: Axis, value: float) -> float:
    """Return the x of a value."""
    return LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT)


def up(axis: Axis, value: float) -> float:
    """Return the y of a value."""
    return HEIGHT - BOTTOM - axis.place(value) * (HEIGHT - TOP - BOTTOM)


def label(value: float) -> str:
    """Return a number as an axis says it."""
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}"


def text(x: float, y: float, said: str, anchor: str = "middle", more: str = "") -> str:
    """Return words."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(said)}</text>\n'


def frame(title: str, horizontal: Axis, vertical: Axis) -> str:
    """Return title, grid and axes."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    drawn = text(LEFT, 20, title, "start", 'font-weight="bold"')
    for tick in vertical.ticks():
        y = up(vertical, tick)
        drawn += f'<path d="M{LEFT} {y:.1f}H{right}" stroke="{GRID}"/>\n'
        drawn += text(LEFT - 6, y + 4, label(tick), "end")
    for tick in horizontal.ticks():
        x = across(horizontal, tick)
        drawn += f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="{GRID}"/>\n'
        drawn += text(x, bottom + 16, label(tick))
    drawn += text((LEFT + right) / 2, HEIGHT - 8, horizontal.title)
    middle = (TOP + bottom) / 2
    turned = f'transform="rotate(-90 14 {middle:.1f})"'
    return drawn + text(14, middle, vertical.title, "middle", turned)


def picture(drawn: str) -> str:
    """Return a whole file."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="12" fill="{INK}">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{PAPER}"/>\n{drawn}</svg>\n'
    )


def legend(names: list[str]) -> str:
    """Return who has which colour."""
    drawn = ""
    for number, name in enumerate(names):
        x, y = WIDTH - RIGHT + 12, TOP + 8 + 18 * number
        drawn += f'<rect x="{x}" y="{y}" width="10" height="10" fill="{COLOURS[number]}"/>\n'
        drawn += text(x + 16, y + 9, name, "start")
    return drawn


def lines(title: str, horizontal: Axis, vertical: Axis, series: dict[str, Points]) -> str:
    """Return one line for each series."""
    drawn = frame(title, horizontal, vertical) + legend(list(series))
    for colour, points in zip(COLOURS, series.values(), strict=False):
        path = "L".join(f"{across(horizontal, x):.1f} {up(vertical, y):.1f}" for x, y in points)
        drawn += f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>\n'
    return picture(drawn)


def bars(title: str, vertical: Axis, groups: dict[str, dict[str, float]]) -> str:
    """Return a group of bars for each kind, in it one for each name."""
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    horizontal = Axis("", 0, len(groups))
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    drawn = text(LEFT, 20, title, "start", 'font-weight="bold"') + legend(names)
    middle = (TOP + bottom) / 2
    turned = f'transform="rotate(-90 14 {middle:.1f})"'
    drawn += text(14, middle, vertical.title, "middle", turned)
    for tick in vertical.ticks():
        y = up(vertical, tick)
        drawn += f'<path d="M{LEFT} {y:.1f}H{right}" stroke="{GRID}"/>\n'
        drawn += text(LEFT - 6, y + 4, label(tick), "end")
    width = 0.8 / len(names) * (right - LEFT) / len(groups)
    for place, (kind, group) in enumerate(groups.items()):
        drawn += text(across(horizontal, place + 0.5), bottom + 18, kind)
        for name, value in group.items():
            number = names.index(name)
            x, y = across(horizontal, place + 0.1) + number * width, up(vertical, value)
            drawn += (
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{width - 2:.1f}" '
                f'height="{bottom - y:.1f}" fill="{COLOURS[number]}"/>\n'
            )
            drawn += text(x + width / 2 - 1, y - 4, label(round(value)), "middle", 'font-size="10"')
    return picture(drawn)


def density(counts: dict[str, int]) -> Points:
    """Return a histogram of ten buckets a decade as a line: share of the samples in per cent."""
    total = sum(counts.values())
    keys = [int(key) for key in counts]
    points = [(10 ** ((min(keys) - 0.5) / 10), 0.0)]
    for key in range(min(keys), max(keys) + 1):
        points.append((10 ** ((key + 0.5) / 10), 100 * counts.get(str(key), 0) / total))
    return [*points, (10 ** ((max(keys) + 1.5) / 10), 0.0)]


def distributions(title: str, unit: str, counted: dict[str, dict[str, int]]) -> str:
    """Return the histograms of several over one logarithmic axis."""
    series = {name: density(counts) for name, counts in counted.items()}
    every = [x for points in series.values() for x, _ in points]
    low = 10.0 ** math.floor(math.log10(min(every)))
    high = 10.0 ** math.ceil(math.log10(max(every)))
    most = max(y for points in series.values() for _, y in points)
    horizontal = Axis(f"{unit}, logarithmic", low, high, True)
    return lines(title, horizontal, Axis("% of samples", 0, most * 1.05), series)
