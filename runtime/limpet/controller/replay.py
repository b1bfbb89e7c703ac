"""A recorded machine fed again, for people: one line per input, then whether it decided the same.

Decides which of a decision's members a person sees. Runs no step and changes nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from limpet.controller.document import FileError
from limpet.controller.present import cell
from limpet.errors import EXIT_OK, EXIT_SOFTWARE, CoreError
from limpet.native import journal
from limpet.units import format_instant

if TYPE_CHECKING:
    from limpet.controller.terminal import Screen

# Of an input or an effect, in the words of the core.
WORDS_MAX = 100


def show(screen: Screen, path: str) -> int:
    """Print the newest recording of a state directory, or the one at `path`; fail if the machine
    decides otherwise now."""
    inside = os.path.join(path, "recordings")
    total: dict[str, Any] = {}
    try:
        for decision in journal.decisions(inside if os.path.isdir(inside) else path):
            screen.record(decision)
            if "inputs" in decision:
                total = decision
            else:
                for line in lines(decision):
                    screen.say(line)
    except CoreError as error:
        raise FileError(str(error)) from None
    screen.say(summary(total))
    return EXIT_OK if total["differ"] == 0 else EXIT_SOFTWARE


def lines(decision: dict[str, Any]) -> list[str]:
    """Return what one input led to."""
    at = format_instant(decision["wall_ms"])
    shown = [f"{decision['number']:>5}  {at:<24}  {_words(decision['input'])}"]
    if "panics" in decision:
        return [*shown, f"{'':5}  the machine panics: {cell(decision['panics'])}"]
    if not decision["same"]:
        shown.append(f"{'':5}  what follows is not what was decided then")
    for slot, before, after in decision["changes"]:
        shown.append(f"{'':5}  task in slot {slot}: {before} -> {after}")
    shown += [f"{'':5}  asks for {_words(effect)}" for effect in decision["asks"]]
    shown += [f"{'':5}  says {_words(answer)}" for answer in decision["answers"]]
    return shown


def summary(total: dict[str, Any]) -> str:
    """Return the last line."""
    kept = f"inputs: {total['inputs']}, recorded because: {total['reason']}"
    if total["panics"]:
        return f"{kept}; the machine panics as it did: {total['panics']}"
    if total["differ"]:
        return f"{kept}; decided otherwise: {total['differ']}"
    return f"{kept}; every decision is the same"


def _words(text: str) -> str:
    return cell(text if len(text) <= WORDS_MAX else text[: WORDS_MAX - 1] + "…")
