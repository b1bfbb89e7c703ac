"""What a person or a program sees: text with colour, or JSON Lines; progress on a terminal only.

Decides where each kind of output goes: results to stdout, everything said about them to stderr.
Knows no document.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import TextIO

from limpet.codec import encode

COLOURS = {"red": 31, "green": 32, "yellow": 33, "blue": 34, "dim": 2, "bold": 1}
# What the terminal would obey instead of showing: text from elsewhere loses it.
CONTROL = {code: None for code in (*range(9), *range(11, 32), *range(127, 160))}

# A page of its own without a cursor, and back (xterm's private modes 1049 and 25).
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
HOME, CLEAR_LINE, CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


class Screen:
    """Where a command writes. `json` chooses the form; `colour` and `live` follow the terminal,
    and so does `canvas`: whether what is written can be drawn over.
    """

    __slots__ = ("_drawn", "_err", "_out", "_status", "canvas", "colour", "json", "live")

    def __init__(
        self,
        out: TextIO,
        err: TextIO,
        json: bool = False,
        colour: bool = False,
        live: bool = False,
        canvas: bool = False,
    ) -> None:
        self._out, self._err = out, err
        self._status = self._drawn = False
        self.json, self.colour, self.live, self.canvas = json, colour, live, canvas

    def say(self, text: str = "") -> None:
        """Write one or more lines for a person; a program does not get them."""
        if not self.json:
            self._write(self._out, f"{text}\n")

    def record(self, value: object) -> None:
        """Write one JSON line for a program; a person does not get it."""
        if self.json:
            self._write(self._out, encode(value).decode() + "\n")

    def note(self, text: str) -> None:
        """Write a line that is about the work and not its result."""
        self._write(self._err, f"{text}\n")

    def fail(self, text: str, exit_code: int) -> None:
        """Write why the command ends with `exit_code`."""
        if self.json:
            document = {"kind": "error", "exit": exit_code, "text": text}
            self._write(self._err, encode(document).decode() + "\n")
            return
        self._write(self._err, f"{self.paint('limpet:', 'red')} {text}\n")

    def status(self, text: str) -> None:
        """Show what is going on in a line that the next output replaces; on a terminal only."""
        if self.live:
            self._err.write(f"\r\x1b[K{self.paint(text, 'dim')}")
            self._err.flush()
            self._status = True

    def draw(self, lines: list[str]) -> None:
        """Show `lines` alone, in place of those before; on a canvas only. `leave` ends it."""
        begin = HOME if self._drawn else ENTER + HOME
        self._drawn = True
        height = shutil.get_terminal_size().lines
        shown = "\n".join(f"{line}{CLEAR_LINE}" for line in lines[: height - 1])
        self._write(self._out, f"{begin}{shown}{CLEAR_BELOW}")

    def leave(self) -> None:
        """Give the terminal back as it was before the first `draw`."""
        if self._drawn:
            self._write(self._out, LEAVE)
            self._drawn = False

    def paint(self, text: str, colour: str) -> str:
        """Return `text` in a colour, if this terminal is to have any."""
        return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if self.colour and colour else text

    def _write(self, stream: TextIO, text: str) -> None:
        if self._status:
            self._err.write("\r\x1b[K")
            self._err.flush()
            self._status = False
        stream.write(text)
        stream.flush()


def open_screen(json: bool) -> Screen:
    """Return the screen of this process: colour on a terminal unless NO_COLOR says otherwise."""
    dumb = os.environ.get("TERM") == "dumb"
    canvas = sys.stdout.isatty() and not dumb and not json
    colour = canvas and not os.environ.get("NO_COLOR")
    live = sys.stderr.isatty() and not dumb
    return Screen(sys.stdout, sys.stderr, json, colour, live, canvas)


def plain(text: str) -> str:
    """Return `text` without what a terminal would obey; tabs and line ends stay."""
    return text.translate(CONTROL)
