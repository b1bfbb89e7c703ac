"""References inside a step's input: `${steps.get.result.path}` to segments that the core expands.

Decides what is a reference, what is its escape and what is plain text. Knows no tool. A reference
reaches values only: never an object's key.
"""

from __future__ import annotations

from limpet.codec import DEPTH_MAX
from limpet.errors import TaskError, nearest
from limpet.topics import NAME_ALPHABET

MARK = "${"
MARKS = ("${steps.", "${task.", "${device.")
KNOWN = {"task": ("id", "source"), "device": ("name",)}
STEP_FIELDS = ("outcome", "exit_code", "stdout", "result")

# A name inside a dotted path has no dot itself.
PART_ALPHABET = NAME_ALPHABET.replace(".", "")
PART_CHARACTERS_MAX = 64
PATH_PARTS_MAX = 8
SEGMENTS_MAX = 32

TYPE_CHECKING = False
if TYPE_CHECKING:
    # The steps that may be referred to: name to index.
    Scope = dict[str, int]


def compile_input(value: object, where: str, scope: Scope, depth: int = 1) -> object:
    """Return `value` with every text that holds references as `{"$": [segment, ...]}`.

    `where` is its path for errors; TaskError on a reference to anything but an earlier step, on a
    key that starts with `$`, and below 16 levels.
    """
    if depth > DEPTH_MAX:
        raise TaskError("too_deep", f"{where}: nests deeper than {DEPTH_MAX}")
    if isinstance(value, str):
        return _compile_text(value, where, scope) if MARK in value else value
    if isinstance(value, list):
        return [
            compile_input(item, f"{where}[{index}]", scope, depth + 1)
            for index, item in enumerate(value)
        ]
    if isinstance(value, dict):
        compiled = {}
        for key, item in value.items():
            if key.startswith("$"):
                raise TaskError("field_invalid", f"{where}: the key {key[:64]!r} starts with $")
            compiled[key] = compile_input(item, f"{where}.{key[:64]}", scope, depth + 1)
        return compiled
    return value


def step_index(name: object, where: str, scope: Scope) -> int:
    """Return the index of the earlier step `name`, or TaskError `reference_unknown`."""
    if not isinstance(name, str) or name not in scope:
        shown = name[:64] if isinstance(name, str) else type(name).__name__
        hint = nearest(shown, list(scope))
        raise TaskError("reference_unknown", f'{where}: no earlier step is named "{shown}"{hint}')
    return scope[name]


def result_path(dotted: str, where: str) -> list[str]:
    """Split `result.a.b`, or TaskError `reference_invalid`."""
    parts = dotted.split(".")
    if len(parts) > PATH_PARTS_MAX or not all(is_part(part) for part in parts):
        raise TaskError(
            "reference_invalid",
            f"{where}: {dotted[:64]!r} must be at most {PATH_PARTS_MAX} names joined by dots",
        )
    return parts


def is_part(text: object) -> bool:
    """Say whether `text` is 1 to 64 of `A-Za-z0-9_-`: a step's name, or one part of a path."""
    fits = isinstance(text, str) and 1 <= len(text) <= PART_CHARACTERS_MAX
    return fits and not str(text).strip(PART_ALPHABET)


def _compile_text(text: str, where: str, scope: Scope) -> object:
    """Cut `text` at its references; without any it stays a text, its escapes undone."""
    segments: list[object] = []
    literal = ""
    position = 0
    while True:
        start, mark = _next_mark(text, position)
        if start < 0:
            break
        if start > position and text[start - 1] == "$":
            literal += text[position : start - 1] + mark
            position = start + len(mark)
            continue
        end = text.find("}", start)
        if end < 0:
            raise TaskError("reference_invalid", f"{where}: {text[start:][:64]!r} has no end")
        literal += text[position:start]
        if literal:
            segments.append(literal)
        literal = ""
        segments.append(_reference(text[start + 2 : end], where, scope))
        position = end + 1
        if len(segments) > SEGMENTS_MAX:
            raise TaskError("reference_invalid", f"{where}: has more than {SEGMENTS_MAX} segments")
    literal += text[position:]
    if not segments:
        return literal
    if literal:
        segments.append(literal)
    return {"$": segments}


def _next_mark(text: str, position: int) -> tuple[int, str]:
    """Return where the next mark stands and which it is; -1 if there is none."""
    position = text.find(MARK, position)
    while position >= 0:
        for mark in MARKS:
            if text.startswith(mark, position):
                return position, mark
        position = text.find(MARK, position + len(MARK))
    return -1, ""


def _reference(inner: str, where: str, scope: Scope) -> object:
    """Compile what stands between `${` and `}`."""
    root, _, rest = inner.partition(".")
    if root != "steps":
        if rest not in KNOWN[root]:
            known = " and ".join(f"${{{root}.{name}}}" for name in KNOWN[root])
            raise TaskError("reference_unknown", f"{where}: of {root} there is only {known}")
        return {root: rest}
    name, _, field = rest.partition(".")
    index = step_index(name, where, scope)
    path = result_path(field, where)
    if path[0] not in STEP_FIELDS or (path[0] != "result" and len(path) > 1):
        known = ", ".join(STEP_FIELDS)
        raise TaskError(
            "reference_invalid",
            f"{where}: of a step there is only {known}, and names below result",
        )
    return {"step": index, "path": path}
