"""Documents of controllers, bent: each is compiled, or refused as the protocol says.

A few hundred examples in every run; `make fuzz` searches for as long as FUZZ_SECONDS says.
"""

from __future__ import annotations

import copy
import os
import random
import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from limpet import codec, task
from limpet.errors import REASONS, TaskError
from limpet.native.core import frame as core_frame
from samples import NOW_MS, VECTORS, read_vectors

EXAMPLES = 300
SEARCH_S = float(os.environ.get("FUZZ_SECONDS") or 0)
BASES = [
    orjson.dumps(read_vectors(f"plans/{file.name}")["document"])
    for file in sorted((VECTORS / "plans").iterdir())
]
ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    2**53,
    1e308,
    "",
    "\0",
    "${steps.",
    "$${steps.a.result}",
    "${steps.get.result.path}",
    "${task.id}",
    "${device.name}",
    "${steps.get.stdout",
    "1s",
    "99999999d",
    "1MiB",
    "../..",
    "é" * 300,
    [],
    {},
    [[[[[]]]]],
    {"a": {"b": {}}},
]


def bend(chance: random.Random, document: Any) -> Any:
    """Return the document with one to four places changed, dropped, moved or doubled."""
    bent = copy.deepcopy(document)
    for _ in range(chance.randint(1, 4)):
        places = _places(bent)
        if not places:
            break
        holder, key = chance.choice(places)
        other = chance.choice(places)
        match chance.randrange(5):
            case 0:
                del holder[key]
            case 1:
                holder[key] = copy.deepcopy(other[0][other[1]]) if _has(*other) else None
            case 2 if isinstance(holder, list):
                holder.insert(key, copy.deepcopy(holder[key]))
            case 3 if isinstance(holder, dict):
                holder[chance.choice(["", "x", "$", "next", "steps", "limpet"])] = holder[key]
            case _:
                holder[key] = copy.deepcopy(chance.choice(ODD))
    return bent


def _has(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def _places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    todo = [value]
    while todo:
        holder = todo.pop()
        items: Any = ()
        if isinstance(holder, dict):
            items = list(holder.items())
        elif isinstance(holder, list):
            items = list(enumerate(holder))
        for key, inner in items:
            found.append((holder, key))
            todo.append(inner)
    return found


def search(check: Callable[[random.Random], None]) -> None:
    """Run `check` with one seed after the other; a failure names its seed."""
    first = int(os.environ.get("SEED") or random.SystemRandom().randrange(2**32))
    until = time.monotonic() + SEARCH_S / 3
    count = 0
    while count < EXAMPLES or time.monotonic() < until:
        seed = first + count
        try:
            check(random.Random(seed))
        except BaseException:
            print(f"SEED={seed} pytest tests/test_fuzz.py -k {check.__name__}")
            raise
        count += 1
    print(f"\nexamples: {count}")


def _refused_or(result: Callable[[], Any]) -> Any:
    """Return what comes of it, or None for a refusal that the protocol knows."""
    try:
        return result()
    except TaskError as refusal:
        assert refusal.code in REASONS
        return None


def test_bytes_are_decoded_or_refused() -> None:
    def decode(chance: random.Random) -> None:
        body = bytearray(chance.choice(BASES))
        for _ in range(chance.randint(1, 8)):
            at = chance.randrange(len(body))
            body[at : at + chance.randint(0, 3)] = chance.choice(
                [b"", b"[", b"{", b'"', b"\\", b"\xff", b"9", b"\0", chance.randbytes(2)]
            )
        value = _refused_or(lambda: codec.decode(bytes(body)))
        if value is not None:
            assert orjson.loads(codec.encode(value)) == value

    search(decode)


def test_documents_are_compiled_or_refused() -> None:
    def compile_task(chance: random.Random) -> None:
        document = bend(chance, orjson.loads(chance.choice(BASES)))
        _refused_or(lambda: task.compile_look(document))
        plan = _refused_or(lambda: task.compile(document, "ops", NOW_MS))
        if plan is not None:
            assert orjson.loads(codec.encode(plan)) == plan
            extra = bend(chance, orjson.loads(chance.choice(BASES))).get("steps")
            _refused_or(lambda: task.extend(plan, 0, extra))

    search(compile_task)


def test_frames_are_taken_apart_or_refused() -> None:
    def take(chance: random.Random) -> None:
        message = bytearray(codec.frame(chance.choice(BASES)))
        for _ in range(chance.randint(0, 3)):
            at = chance.randrange(min(len(message), 40))
            message[at : at + chance.randint(0, 2)] = chance.randbytes(chance.randint(0, 2))
        _refused_or(lambda: core_frame(bytes(message), codec.MESSAGE_BYTES_MAX))

    search(take)


@pytest.mark.parametrize("base", BASES, ids=range(len(BASES)))
def test_an_unbent_document_is_compiled(base: bytes) -> None:
    """What is bent is sound to begin with, or every bend would end at the first check."""
    assert task.compile(codec.decode(base), "ops", NOW_MS)["steps"]
