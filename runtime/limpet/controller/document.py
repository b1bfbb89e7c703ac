"""A task's file to the exact bytes that are sent: what people may leave out is filled in here.

Decides the defaults of people (an id, `expires_at` in 24 hours) and what a repeat looks like. Knows
no broker and no device.
"""

from __future__ import annotations

import os
import sys
from typing import Any, NamedTuple

from limpet import task
from limpet.codec import FRAME_HEADER, MESSAGE_BYTES_MAX, decode, encode
from limpet.errors import LimpetError, TaskError
from limpet.topics import NAME_ALPHABET, NAME_CHARACTERS_MAX
from limpet.units import format_instant

EXPIRY_MS = 86_400_000
BODY_BYTES_MAX = MESSAGE_BYTES_MAX - len(FRAME_HEADER)


class Document(NamedTuple):
    """A task as it will be sent: its exact bytes and the plan that a device makes of them."""

    body: bytes
    plan: dict[str, Any]

    @property
    def id(self) -> str:
        """The task's id."""
        return str(self.plan["id"])

    @property
    def names(self) -> list[str]:
        """The names of its steps, in the order of their indices."""
        return [step["name"] for step in self.plan["steps"]]

    @property
    def quiet(self) -> bool:
        """Whether a device tells nothing of it by the broker but its result or a refusal."""
        return bool(self.plan["report"] == "result")


class FileError(LimpetError):
    """A file that a person named cannot be read."""

    exit_code = 2


def read(file: str) -> dict[str, Any]:
    """Return the document in `file`; `-` is standard input. FileError or TaskError."""
    try:
        if file == "-":
            body = sys.stdin.buffer.read(BODY_BYTES_MAX + 1)
        else:
            with open(file, "rb") as stream:
                body = stream.read(BODY_BYTES_MAX + 1)
    except OSError as error:
        raise FileError(f"cannot read {file}: {error.strerror} (nothing was sent)") from None
    document = decode(body)
    if not isinstance(document, dict):
        raise TaskError("field_invalid", "the document: must be an object")
    return document


def fill(document: dict[str, Any], name: str, unique: str, now_ms: int) -> dict[str, Any]:
    """Add what may be left out: the protocol's version, an id from `name`, an expiry.

    `unique` is part of such an id, so that two submissions are two tasks.
    """
    expires_at = format_instant(now_ms + EXPIRY_MS)
    given = {"limpet": task.VERSION, "id": make_id(name, unique), "expires_at": expires_at}
    return {**given, **document}


def make_id(name: str, unique: str) -> str:
    """Return an id: what of `name` may stand in one, and `unique`."""
    kept = "".join(letter if letter in NAME_ALPHABET else "-" for letter in name).strip("-.")
    return f"{(kept or 'task')[: NAME_CHARACTERS_MAX - len(unique) - 1]}-{unique}"


def load(file: str, source: str, now_ms: int) -> Document:
    """Read, fill and compile the task in `file`, as `source` would send it."""
    filled = fill(read(file), stem(file), os.urandom(4).hex(), now_ms)
    return compile(filled, source, now_ms)


def stem(file: str) -> str:
    """Return what a task from `file` is called if it does not say so itself."""
    return "task" if file == "-" else os.path.basename(file).removesuffix(".json")


def compile(document: dict[str, Any], source: str, now_ms: int) -> Document:
    """Return `document` ready to be sent; TaskError as a device would refuse it."""
    body = encode(document)
    if len(body) > BODY_BYTES_MAX:
        detail = f"the body has {len(body)} bytes, at most {BODY_BYTES_MAX}"
        raise TaskError("body_too_long", detail)
    return Document(body, task.compile(document, source, now_ms))


def repeat_from(document: dict[str, Any], step: str, unique: str, now_ms: int) -> dict[str, Any]:
    """Return a new task with the steps of `document` from `step` on, and its `finally`.

    Its id is the old one and `unique`, which links the two. A step that refers to one that is not
    repeated is refused when the new task is compiled.
    """
    found = document.get("steps")
    steps: list[Any] = found if isinstance(found, list) else []
    names = [entry.get("name") for entry in steps if isinstance(entry, dict)]
    if step not in names:
        known = ", ".join(map(str, names))
        raise TaskError("reference_unknown", f'steps: none is named "{step}" (there are: {known})')
    old = str(document.get("id", "task"))
    changed = {
        "id": make_id(old, f"retry-{unique}"),
        "expires_at": format_instant(now_ms + EXPIRY_MS),
        "steps": steps[names.index(step) :],
    }
    return {**document, **changed}
