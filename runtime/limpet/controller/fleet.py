"""The commands that speak to devices: submit, retry, cancel, watch, devices.

Decides what each waits for and which exit code follows. Knows the protocol's documents and no MQTT;
a context with a socket reaches this machine's agent without a broker.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from limpet import codec, topics
from limpet.controller import document, present
from limpet.controller.context import Context, UsageError
from limpet.controller.local import LocalSession
from limpet.controller.present import Follower
from limpet.controller.session import Heard, Session, seconds
from limpet.errors import EXIT_OK, EXIT_TASK, EXIT_TIMEOUT

if TYPE_CHECKING:
    from limpet.controller.document import Document
    from limpet.controller.terminal import Screen

ANSWER_S = 30.0
# Retained messages come at once after the subscription; then there is silence.
QUIET_S = 1.0
EVERYONE = "all"


def submit(
    screen: Screen, context: Context, task: Document, wait: bool, timeout_s: float | None
) -> int:
    """Send `task` to the context's device; with `wait`, follow it to its result.

    `timeout_s` bounds the whole; None is 30 s for the answer and no bound for the result.
    """
    device = named_device(context)
    with _open(context) as session:
        session.subscribe(_filters(context, device))
        start = seconds()
        end = None if timeout_s is None else start + timeout_s
        address = topics.Address(device, "task", context.source)
        screen.status(f"{context.host}: sending {task.id} to {device}")
        session.publish(address, codec.frame(task.body), timeout_s or ANSWER_S)
        # The device's own socket answers every task.
        quiet = task.quiet and context.socket is None
        if quiet and not wait:
            screen.record({"kind": "sent", "device": device, "id": task.id})
            screen.say(f"sent {task.id} to {device}, which tells its result alone")
            return EXIT_OK
        return _Following(screen, device, task, wait, quiet).until(session, start, end)


def cancel(screen: Screen, context: Context, task_id: str, owner: str | None) -> int:
    """Cancel a task of ours, or as an operator one of `owner`."""
    device = named_device(context)
    asked = {"limpet": 1, "id": task_id, **({"source": owner} if owner else {})}
    with _open(context) as session:
        session.subscribe([f"{context.prefix}/{device}/answer/{context.source}"])
        address = topics.Address(device, "cancel", context.source)
        session.publish(address, codec.frame(codec.encode(asked)), ANSWER_S)
        end = seconds() + ANSWER_S
        while (heard := session.hear(max(0.0, end - seconds()))) is not None:
            said = heard.document
            if said.get("request") == "cancel" and said.get("id") == task_id:
                screen.record(said)
                return _answered(screen, device, said)
    return _silent(screen, device, "cancel")


def watch(screen: Screen, context: Context, device: str) -> int:
    """Show what one device (or `all`) says to us, until Ctrl-C."""
    level = "+" if device == EVERYONE else device
    followers: dict[tuple[str, str], tuple[Follower, float]] = {}
    with _open(context, "watch") as session:
        session.subscribe(_filters(context, level))
        screen.status(f"{context.host}: waiting for {device}; Ctrl-C ends")
        while True:
            heard = session.hear(None)
            if heard is None:
                continue
            screen.record({"device": heard.address.device, **heard.document})
            key = (heard.address.device, str(heard.document.get("id")))
            follower, start = followers.setdefault(key, (Follower([]), seconds()))
            for line in _watched(screen, heard, follower, round((seconds() - start) * 1000)):
                screen.say(f"{heard.address.device:<12} {line}")
            if heard.address.kind == "result":
                del followers[key]


def _open(context: Context, question: str | None = None) -> Session | LocalSession:
    """Return the way to the devices of `context`; a local one asks `question` by itself."""
    return Session(context) if context.socket is None else LocalSession(context, question)


def devices(screen: Screen, context: Context) -> int:
    """List the devices whose presence the broker keeps."""
    found: dict[str, dict[str, Any]] = {}
    with Session(context) as session:
        session.subscribe([f"{context.prefix}/+/presence"])
        while (heard := session.hear(QUIET_S)) is not None:
            found[heard.address.device] = heard.document
    rows = []
    for name, presence in sorted(found.items()):
        facts = presence.get("facts", {})
        screen.record({"device": name, **presence})
        online = "online" if presence.get("online") else "offline"
        told = ", ".join(f"{key} {value}" for key, value in sorted(facts.items()))
        rows.append([name, online, present.cell(told)])
    for line in present.table(["DEVICE", "PRESENCE", "FACTS"], rows):
        screen.say(line)
    return EXIT_OK


class _Following:
    """What one submitted task has come to, and how that is told."""

    def __init__(
        self, screen: Screen, device: str, task: Document, wait: bool, quiet: bool
    ) -> None:
        self._screen, self._device, self._id, self._wait = screen, device, task.id, wait
        self._follower = Follower(task.names)
        self._answered, self._quiet = False, quiet

    def until(self, session: Session | LocalSession, start: float, end: float | None) -> int:
        """Hear until the task is answered, or with `wait` until it is over."""
        while True:
            bound, wanted = end, "result"
            if not (self._answered or self._quiet):
                bound, wanted = end if end is not None else start + ANSWER_S, "answer"
            left = 1.0 if bound is None else min(1.0, bound - seconds())
            if left <= 0:
                return _silent(self._screen, self._device, "task", wanted, self._answered)
            heard = session.hear(left)
            elapsed_ms = round((seconds() - start) * 1000)
            if heard is None:
                self._screen.status(f"{present.span(elapsed_ms):>7}  {self._id} on {self._device}")
                continue
            exit_code = self._take(heard, elapsed_ms)
            if exit_code is not None:
                return exit_code

    def _take(self, heard: Heard, elapsed_ms: int) -> int | None:
        """Tell what was heard; return the exit code once it is known."""
        kind, said = heard.address.kind, heard.document
        if kind == "presence" and not self._answered and not said.get("online"):
            self._screen.note(f"{self._device} is offline: the broker keeps the task for it")
        if said.get("id") != self._id or kind == "presence":
            return None
        if kind == "answer" and said.get("request") != "task":
            return None
        self._screen.record(said)
        if kind == "answer":
            self._answered = True
            exit_code = _answered(self._screen, self._device, said)
            over = exit_code != EXIT_OK or "outcome" in said
            return exit_code if over or not self._wait else None
        if kind == "result":
            show_result(self._screen, said)
            return EXIT_OK if said.get("outcome") == "succeeded" else EXIT_TASK
        line = self._follower.line(said, elapsed_ms)
        if line is not None:
            self._screen.say(line)
        return None


def show_result(screen: Screen, result: dict[str, Any]) -> None:
    """Print how a task ended: one line, a table of its steps, what else there is to know."""
    rows = present.result_rows(result)
    lines = present.table(["STEP", "TOOL", "OUTCOME", "TRIES", "TIME", "CAME TO"], rows)
    screen.say()
    screen.say(screen.paint(lines[0], "dim"))
    for row, line in zip(rows, lines[1:], strict=True):
        before, outcome, after = line.partition(f"  {row[2]}")
        screen.say(before + screen.paint(outcome, present.outcome_colour(row[2])) + after)
    for note in present.result_notes(result):
        screen.say(note)
    screen.say()
    colour = present.outcome_colour(str(result["outcome"]))
    screen.say(screen.paint(present.result_head(result), colour))


def _answered(screen: Screen, device: str, said: dict[str, Any]) -> int:
    """Tell an answer; the exit code is that of a refusal or OK."""
    if said.get("answer") == "refused":
        detail = said.get("detail") or "no detail"
        screen.fail(f"{device} refused {said.get('id')}: {detail} ({said.get('code')})", EXIT_TASK)
        return EXIT_TASK
    outcome = said.get("outcome")
    ended = f", which has ended: {outcome}" if outcome else ""
    screen.say(f"{device} {said.get('answer')} {said.get('request')} {said.get('id')}{ended}")
    return EXIT_OK if outcome in (None, "succeeded") else EXIT_TASK


def _silent(
    screen: Screen, device: str, request: str, wanted: str = "answer", answered: bool = False
) -> int:
    rest = "the task goes on there" if answered else "it may still be taken"
    text = f"cannot tell how the {request} went: no {wanted} from {device} in time ({rest})"
    screen.fail(text, EXIT_TIMEOUT)
    return EXIT_TIMEOUT


def _watched(screen: Screen, heard: Heard, follower: Follower, elapsed_ms: int) -> list[str]:
    kind, said = heard.address.kind, heard.document
    if kind == "presence":
        online = bool(said.get("online"))
        return [screen.paint(*(("is online", "green") if online else ("is offline", "red")))]
    task_id = present.cell(str(said.get("id")))
    if kind == "answer" and said.get("request") == "look":
        # It concerns whoever looks, beside us and under our name, and comes every few seconds.
        return []
    if kind == "answer":
        code = f" ({said.get('code')})" if said.get("code") else ""
        return [f"{task_id}  {said.get('request')} {said.get('answer')}{code}"]
    if kind == "result":
        outcome = str(said.get("outcome"))
        return [screen.paint(present.result_head(said), present.outcome_colour(outcome))]
    line = follower.line(said, elapsed_ms)
    return [] if line is None else [f"{task_id}  {line.strip()}"]


def _filters(context: Context, device: str) -> list[str]:
    """Return what is heard of a device: everything it says to us, and its presence."""
    said = [f"{context.prefix}/{device}/{kind}/" for kind in ("answer", "state", "result")]
    return [*(topic + context.source for topic in said), f"{context.prefix}/{device}/presence"]


def named_device(context: Context) -> str:
    """Return the device that is meant; UsageError if nothing names one."""
    if context.device is None:
        raise UsageError("cannot ask: no device is named; use -d DEVICE or a context's device")
    return context.device


def repeat(file: str, step: str, source: str, now_ms: int) -> Document:
    """Return the new task that goes on with the task in `file` from `step`."""
    unique = os.urandom(4).hex()
    old = document.fill(document.read(file), document.stem(file), unique, now_ms)
    again = document.repeat_from(old, step, unique, now_ms)
    return document.compile(again, source, now_ms)
