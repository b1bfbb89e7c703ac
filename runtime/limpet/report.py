"""What a device says: the documents of answer, state, result, memory and presence, as bytes.

Decides their fields and how a result is made to fit. Pure: equal arguments give equal bytes, so a
report that is made again after a crash is the same report. Knows no topic and no broker.
"""

from __future__ import annotations

from typing import Any

import orjson

from limpet.codec import MESSAGE_BYTES_MAX, encode
from limpet.errors import check

VERSION = 1
ANSWERS = ("accepted", "known", "refused")
REQUESTS = ("task", "cancel", "look")
STREAMS = ("stdout", "stderr")
ENDS = ("head", "tail")
# A result is a history, which is never empty, with two members in front.
RESULT_BEGINNING = b'{"limpet":%d,"kind":"result",' % VERSION


def build_answer(
    source: str,
    task_id: str | None,
    answer: str,
    request: str = "task",
    code: str | None = None,
    detail: str | None = None,
    outcome: str | None = None,
) -> bytes:
    """Answer one message; `task_id` is None where the message did not say it.

    `code` and `detail` are those of the refusal; `known` repeats what was accepted before, with
    its `outcome` once it has one.
    """
    check(answer in ANSWERS, f"{answer} is an answer")
    check(request in REQUESTS, f"{request} is a request")
    check((answer == "refused") == (code is not None), "a refusal and nothing else has a code")
    ended = {} if outcome is None else {"outcome": outcome}
    return _document(
        "answer",
        source=source,
        id=task_id,
        request=request,
        answer=answer,
        code=code,
        detail=detail,
        **ended,
    )


def build_state(
    source: str,
    task_id: str,
    sequence: int,
    phase: str,
    step: int | None = None,
    attempt: int | None = None,
    progress: object = None,
) -> bytes:
    """Tell where a task is: `phase`, the index of the step that runs, what its tool reported."""
    return _document(
        "state",
        source=source,
        id=task_id,
        sequence=sequence,
        phase=phase,
        step=step,
        attempt=attempt,
        progress=progress,
    )


def build_presence(online: bool, nonce: str, facts: dict[str, object]) -> bytes:
    """Tell that the device is there, or (as the will) that it is not.

    `nonce` is random per connection, so that a will that comes late is told from the present.
    """
    return _document("presence", online=online, nonce=nonce, facts=facts)


def build_memory(source: str, picture: dict[str, Any]) -> bytes:
    """Tell `source`, which looks, what the agent and its steps have now of memory."""
    return _document("memory", source=source, **picture)


def build_result(text: bytes, bytes_max: int = MESSAGE_BYTES_MAX) -> bytes:
    """Report how a task ended, in at most `bytes_max` bytes; `text` is its history as JSON.

    One that fits is not read. What does not is cut fairly: first the outputs, all to one length and
    each marked `truncated`, then the largest results, each replaced by null and marked
    `result_omitted`.
    """
    body = RESULT_BEGINNING + text[1:]
    if len(body) <= bytes_max:
        return body
    history: dict[str, Any] = orjson.loads(text)
    steps = [_without_outputs(step) for step in history["steps"]]
    bare = {**history, "steps": steps}
    size_bytes = len(_document("result", **bare))
    with_result = [step for step in steps if step.get("result") is not None]
    for step in sorted(with_result, key=lambda step: -len(encode(step["result"]))):
        if size_bytes <= bytes_max:
            break
        step.update(result=None, result_omitted=True)
        size_bytes = len(_document("result", **bare))
    check(size_bytes <= bytes_max, "a result without outputs and results fits")
    _share_outputs(history["steps"], steps, bytes_max - size_bytes)
    body = _document("result", **bare)
    check(len(body) <= bytes_max, "a cut result fits")
    return body


def _document(kind: str, **fields: object) -> bytes:
    fields.update(limpet=VERSION, kind=kind)
    return encode(fields)


def _without_outputs(step: dict[str, Any]) -> dict[str, Any]:
    """Copy a step; an output with any text becomes empty and marked.

    A step that never started has neither outputs nor a result.
    """
    bare = dict(step)
    for stream in STREAMS:
        output = step.get(stream)
        if output and any(output[end] for end in ENDS):
            bare[stream] = {**output, "head": "", "tail": "", "truncated": True}
    return bare


def _share_outputs(full: list[dict[str, Any]], bare: list[dict[str, Any]], room: int) -> None:
    """Fill the empty outputs of `bare` from `full`, none longer than a cap that fits all.

    Pieces are served from the shortest: each gets its even share of what is left, so what a short
    one does not need goes to the longer ones. Bytes are counted as JSON spells them.
    """
    pieces = [
        (_spelled(step[stream][end]), step[stream][end], bare[index][stream], end)
        for index, step in enumerate(full)
        for stream in STREAMS
        for end in ENDS
        if step.get(stream) and step[stream][end]
    ]
    pieces.sort(key=lambda piece: piece[0])
    for position, (size_bytes, text, output, end) in enumerate(pieces):
        share = room // (len(pieces) - position)
        output[end] = text if size_bytes <= share else _cut(text, share, from_end=end == "tail")
        room -= _spelled(output[end])


def _spelled(text: str) -> int:
    """Return the bytes of `text` as JSON, without its quotes."""
    return len(encode(text)) - 2


def _cut(text: str, bytes_max: int, from_end: bool) -> str:
    """Return the longest beginning (or end) of `text` that is spelled in `bytes_max` bytes."""
    low, high = 0, min(len(text), bytes_max)
    while low < high:
        middle = (low + high + 1) // 2
        part = text[len(text) - middle :] if from_end else text[:middle]
        if _spelled(part) <= bytes_max:
            low = middle
        else:
            high = middle - 1
    return text[len(text) - low :] if from_end else text[:low]
