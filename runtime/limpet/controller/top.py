"""`limpet top`: the memory of one device, again and again, from its socket or by the broker.

Decides when a picture is asked for, how long nothing may come, and when the looking ends. Knows no
line of it.
"""

from __future__ import annotations

import shutil
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

from limpet import codec, topics
from limpet.controller import fleet, local, picture
from limpet.controller.session import Session, seconds
from limpet.errors import EXIT_OK, EXIT_TASK, EXIT_TIMEOUT, LimpetError

if TYPE_CHECKING:
    from collections.abc import Generator

    from limpet.controller.context import Context
    from limpet.controller.terminal import Screen

# How long an answer or a picture may take; a device with work to do shows one a second.
PATIENCE_S = 15.0
# A device shows its memory for so long, and is asked again before that is over.
LOOK, AGAIN_S = {"limpet": 1, "for": "10s"}, 5.0
# The agent's first answer after a while has no step yet: it makes the core begin to look.
MOMENT_S, MOMENTS_MAX = 0.1, 20


class Refused(LimpetError):
    """The device does not let us look."""

    exit_code = EXIT_TASK


class Silent(LimpetError):
    """Nothing has come of it in time."""

    exit_code = EXIT_TIMEOUT


def show(screen: Screen, context: Context, interval_s: float, count: int | None) -> int:
    """Show the memory of the context's device `count` times (None: until Ctrl-C)."""
    moves = screen.canvas and count != 1
    shown = 0
    try:
        by_broker = context.socket is None
        pictures = _sent(screen, context, interval_s) if by_broker else _asked(context, interval_s)
        with closing(pictures):
            for each in pictures:
                shown += 1
                screen.record({"kind": "memory", **each})
                if moves:
                    screen.draw(picture.lines(screen, each, shutil.get_terminal_size().columns))
                elif not screen.json:
                    _print(screen, each, first=shown == 1)
                if shown == count:
                    return EXIT_OK
    except KeyboardInterrupt:
        pass
    finally:
        screen.leave()
    return EXIT_OK


def ask(agent: Context) -> dict[str, Any]:
    """Return what the agent of this machine has now, with its steps."""
    told = local.ask_agent(agent, "memory")
    for _ in range(MOMENTS_MAX):
        if told["age_ms"] is not None:
            break
        _pause(MOMENT_S)
        told = local.ask_agent(agent, "memory")
    return told


def _print(screen: Screen, each: dict[str, Any], first: bool) -> None:
    width = shutil.get_terminal_size().columns if screen.canvas else None
    if not first:
        screen.say()
    for line in picture.lines(screen, each, width):
        screen.say(line)


def _asked(context: Context, interval_s: float) -> Generator[dict[str, Any], None, None]:
    """Yield what the agent of this machine answers, each `interval_s` seconds."""
    while True:
        start = seconds()
        yield ask(context)
        _pause(start + interval_s - seconds())


def _sent(
    screen: Screen, context: Context, interval_s: float
) -> Generator[dict[str, Any], None, None]:
    """Yield the newest that the device sends us, each `interval_s` seconds at most."""
    device = fleet.named_device(context)
    address = topics.Address(device, "look", context.source)
    message = codec.frame(codec.encode(LOOK))
    screen.status(f"{context.host}: asking {device}; Ctrl-C ends")
    with Session(context) as session:
        below = f"{context.prefix}/{device}"
        said_to_us = [f"{below}/{kind}/{context.source}" for kind in ("answer", "memory")]
        session.subscribe([*said_to_us, f"{below}/presence"])
        due = heard_s = seconds()
        asked_s, shown = due - AGAIN_S, False
        while seconds() < heard_s + PATIENCE_S:
            if seconds() >= asked_s + AGAIN_S:
                session.publish(address, message, PATIENCE_S)
                asked_s = seconds()
            heard = session.hear(1.0)
            if heard is None:
                continue
            kind, said = heard.address.kind, heard.document
            if kind == "answer" and said.get("request") == "look":
                _check_answer(device, said)
            if kind == "presence" and not said.get("online") and not shown:
                screen.note(f"{device} is offline")
            if kind != "memory" or said.get("age_ms") is None:
                continue
            heard_s = seconds()
            if heard_s >= due:
                due, shown = max(heard_s, due + interval_s), True
                yield said
    raise Silent(f"cannot look at {device}: it showed nothing for {PATIENCE_S:.0f} s (is it well?)")


def _check_answer(device: str, said: dict[str, Any]) -> None:
    if said.get("answer") == "refused":
        cause = f"{said.get('detail') or 'no detail'} ({said.get('code')})"
        raise Refused(f"cannot look at {device}: it refused: {cause}")


def _pause(pause_s: float) -> None:
    threading.Event().wait(max(0.0, pause_s))
