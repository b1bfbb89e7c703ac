"""The topic grammar, both ways: `{prefix}/{device}/{kind}/{name}`.

Decides what a name is and which topics exist. Knows no broker and no payload. A topic has at most
seven slashes and 256 bytes, so that it passes AWS IoT as well.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from limpet.errors import TaskError

NAME_ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
NAME_CHARACTERS_MAX = 64
SLASHES_MAX = 7
TOPIC_BYTES_MAX = 256

# What a controller sends about tasks, all that it sends, and what a device sends. `presence` has no
# name; that of `publish` may have several levels; every other one is the controller's.
ABOUT_TASKS = ("task", "cancel")
TO_DEVICE = (*ABOUT_TASKS, "look")
FROM_DEVICE = ("answer", "state", "result", "memory", "presence", "publish")
# The source of what comes by the device's own socket; nobody may use it by the broker.
LOCAL = "local"


class Address(NamedTuple):
    """What a topic below the prefix says; `name` is empty for presence only."""

    device: str
    kind: str
    name: str


def is_name(text: object) -> bool:
    """Say whether `text` is 1 to 64 of `A-Za-z0-9._-` and neither `.` nor `..`."""
    return (
        isinstance(text, str)
        and 1 <= len(text) <= NAME_CHARACTERS_MAX
        and not text.strip(NAME_ALPHABET)
        and text not in (".", "..")
    )


def is_prefix(text: object) -> bool:
    """Say whether `text` is one to four names joined by slashes."""
    names = text.split("/") if isinstance(text, str) and len(text) <= TOPIC_BYTES_MAX else []
    return 1 <= len(names) <= SLASHES_MAX - 3 and all(is_name(name) for name in names)


@lru_cache(maxsize=64)
def build(prefix: str, device: str, kind: str, name: str) -> str:
    """Return the topic of an address; TaskError `topic_invalid` if it is outside the grammar."""
    parts = [prefix, device, kind]
    if name:
        parts.append(name)
    topic = "/".join(parts)
    if parse(prefix, topic) != (device, kind, name):
        raise _invalid(topic)
    return topic


@lru_cache(maxsize=64)
def parse(prefix: str, topic: str) -> Address:
    """Return what `topic` says; TaskError `topic_invalid` if it is outside the grammar."""
    if not is_prefix(prefix) or not topic.startswith(prefix + "/"):
        raise _invalid(topic)
    if len(topic) > TOPIC_BYTES_MAX or topic.count("/") > SLASHES_MAX:
        raise _invalid(topic)
    levels = topic[len(prefix) + 1 :].split("/")
    if not all(is_name(level) for level in levels) or len(levels) < 2:
        raise _invalid(topic)
    device, kind, names = levels[0], levels[1], levels[2:]
    counts = {"presence": len(names) == 0, "publish": len(names) >= 1}
    if kind not in TO_DEVICE + FROM_DEVICE or not counts.get(kind, len(names) == 1):
        raise _invalid(topic)
    return Address(device, kind, "/".join(names))


def device_filters(prefix: str, device: str) -> tuple[str, ...]:
    """Return what a device subscribes to: whatever is sent to it, and its own presence."""
    sent = tuple(f"{prefix}/{device}/{kind}/+" for kind in TO_DEVICE)
    return (*sent, f"{prefix}/{device}/presence")


def controller_filters(prefix: str, source: str) -> tuple[str, ...]:
    """Return what a controller subscribes to: everything said to it, and every presence."""
    heard = tuple(f"{prefix}/+/{kind}/{source}" for kind in ("answer", "state", "result", "memory"))
    return (*heard, f"{prefix}/+/presence")


def _invalid(topic: str) -> TaskError:
    return TaskError("topic_invalid", f"topic {topic[:TOPIC_BYTES_MAX]!r} is outside the grammar")
