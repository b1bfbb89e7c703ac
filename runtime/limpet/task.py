"""A task document to the plan that the core runs: total, so it ends in a plan or a TaskError.

Decides fields, defaults and ranges of a task. Knows neither the device's tools nor its policy:
whether a step may run is decided later, per attempt, by the core.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import orjson

from limpet.errors import TaskError, nearest
from limpet.fields import (
    REQUIRED,
    Field,
    choice,
    duration,
    flag,
    milli,
    nullable,
    plain_name,
    size,
    whole,
)
from limpet.reference import compile_input, is_part, result_path, step_index
from limpet.topics import is_name
from limpet.units import format_instant, parse_duration, parse_instant

TYPE_CHECKING = False
if TYPE_CHECKING:
    from limpet.reference import Scope

VERSION = 1
STEPS_MAX = 32
# Clocks are 1 ms to 2^31 ms (24 days).
CLOCK_MS_MAX = 1 << 31
# The last instant whose nanoseconds fit 63 bits.
INSTANT_MS_MAX = 9_223_372_036_854
START_TO_CLOSE_MS = 60_000
FINALLY_START_TO_CLOSE_MS = 30_000
MAXIMUM_INTERVAL_MS = 60_000
WHEN_TEXT_CHARACTERS_MAX = 256
# What is kept of steps that came before: a fleet is sent the same ones again and again.
KEPT_MAX = 8
KEPT_BYTES_MAX = 2048

OUTCOMES = (
    "succeeded",
    "failed",
    "timed_out",
    "cancelled",
    "out_of_memory",
    "killed",
    "uncertain",
    "dead",
    "refused",
    "skipped",
)


def _step_name(value: object) -> object:
    if not is_part(value):
        raise ValueError("must be 1 to 64 of A-Z a-z 0-9 _ -")
    return value


def _instant(value: object) -> object:
    instant_ms = parse_instant(value)
    if not 0 < instant_ms <= INSTANT_MS_MAX:
        raise ValueError(f'is "{value}", must be after 1970 and before 2262')
    return instant_ms


def _steps(value: object) -> object:
    if not isinstance(value, list):
        raise ValueError("must be an array of steps")
    return value


def _object(value: object) -> object:
    if not isinstance(value, dict):
        raise ValueError("must be an object")
    return value


def _names(value: object) -> object:
    if not isinstance(value, list) or len(value) > STEPS_MAX or not all(map(is_name, value)):
        raise ValueError(f"must be an array of at most {STEPS_MAX} names")
    return value


class Form:
    """The fields of one kind of table; what is not given is read but once."""

    __slots__ = ("defaults", "fields", "readers", "required")

    def __init__(self, fields: dict[str, Field]) -> None:
        """Read the defaults, which all tables share: nobody changes what was read."""
        self.fields = fields
        # How a field's value is read, and what its attribute is called.
        self.readers = {key: (one.read, key + one.unit) for key, one in fields.items()}
        self.required = [key for key, one in fields.items() if one.default is REQUIRED]
        self.defaults = {
            key + one.unit: one.read(one.default)
            for key, one in fields.items()
            if one.default is not REQUIRED
        }


_clock = duration(1, CLOCK_MS_MAX)

DOCUMENT = Form(
    {
        "limpet": Field(REQUIRED, whole(VERSION, VERSION)),
        "id": Field(REQUIRED, plain_name),
        "expires_at": Field(REQUIRED, _instant, "_ms"),
        "schedule_to_close": Field("1h", _clock, "_ms"),
        "finally_to_close": Field("30s", _clock, "_ms"),
        "priority": Field(0, whole(-100, 100)),
        "report": Field("all", choice("all", "result")),
        "steps": Field(REQUIRED, _steps),
        "finally": Field([], _steps),
        "plan": Field({}, _object),
    }
)
CEILINGS = Form(
    {
        "steps": Field(0, whole(0, STEPS_MAX)),
        "tools": Field([], _names),
    }
)
STEP = Form(
    {
        "name": Field(REQUIRED, _step_name),
        "tool": Field(REQUIRED, plain_name),
        "input": Field({}, _object),
        "on_interruption": Field("stop", choice("stop", "rerun")),
        "schedule_to_start": Field(None, nullable(_clock), "_ms"),
        "start_to_close": Field(None, nullable(_clock), "_ms"),
        "heartbeat": Field(None, nullable(_clock), "_ms"),
        "grace": Field("5s", _clock, "_ms"),
        "retry": Field({}, _object),
        "when": Field(None, nullable(_object)),
        "allow_failure": Field(False, flag),
        "keep": Field(False, flag),
        "limits": Field({}, _object),
    }
)
RETRY = Form(
    {
        "maximum_attempts": Field(1, whole(1, 100)),
        "initial_interval": Field("1s", _clock, "_ms"),
        "backoff_coefficient": Field(2, milli(1, 10), "_milli"),
        "maximum_interval": Field(None, nullable(_clock), "_ms"),
        "jitter": Field(0.25, milli(0, 1), "_milli"),
        "on": Field("any", choice("any", "before_exec")),
    }
)
LIMITS = Form(
    {
        "memory": Field(None, nullable(size(1 << 20, 1 << 40)), "_bytes"),
        "output": Field(None, nullable(size(1 << 10, 1 << 30)), "_bytes"),
        "pids": Field(None, nullable(whole(1, 32768))),
        "cpu": Field(None, nullable(milli(0.01, 64)), "_milli"),
    }
)
CANCEL = Form(
    {
        "limpet": Field(REQUIRED, whole(VERSION, VERSION)),
        "id": Field(REQUIRED, plain_name),
        "source": Field(None, nullable(plain_name)),
        "expires_at": Field(None, nullable(_instant), "_ms"),
    }
)
CANCEL_EXPIRY_MS = 86_400_000
# Whoever wants to look for longer says so again: one that is gone costs no more than this.
LOOK = Form(
    {
        "limpet": Field(REQUIRED, whole(VERSION, VERSION)),
        "for": Field("10s", duration(1_000, 60_000), "_ms"),
    }
)
WHEN_SUBJECTS = ("outcome", "exit_code", "result.<path>")


def compile(document: object, source: str, now_ms: int) -> dict[str, object]:
    """Return the plan of `document`, which came from `source`; TaskError names the first fault.

    `now_ms` is wall time: a task whose `expires_at` is not after it is refused as `expired`.
    """
    fields = _take_fresh(document, DOCUMENT, now_ms)
    ceilings = _take(fields["plan"], "plan", CEILINGS)
    main, last = fields["steps"], fields["finally"]
    if not main:
        raise TaskError("field_invalid", "steps: must hold at least one step")
    if len(main) + len(last) + ceilings["steps"] > STEPS_MAX:
        raise TaskError(
            "too_many_steps",
            f"steps: steps, finally and plan.steps together are more than {STEPS_MAX}",
        )
    return {
        "plan": VERSION,
        "id": fields["id"],
        "source": source,
        "expires_at_ms": fields["expires_at_ms"],
        "schedule_to_close_ms": fields["schedule_to_close_ms"],
        "finally_ms": fields["finally_to_close_ms"],
        "priority": fields["priority"],
        "report": fields["report"],
        "ceilings": ceilings,
        "steps": _compile_lists(main, last),
    }


def compile_cancel(document: object, sender: str, now_ms: int) -> dict[str, object]:
    """Return which task `document` cancels, and until when the cancel is remembered.

    The task's source is `sender` unless the document names another, which only an operator may
    do; whether `sender` is one is not decided here.
    """
    fields = _take_fresh(document, CANCEL, now_ms)
    return {
        "id": fields["id"],
        "source": fields["source"] or sender,
        "expires_at_ms": fields["expires_at_ms"] or now_ms + CANCEL_EXPIRY_MS,
    }


def compile_look(document: object) -> int:
    """Return for how many milliseconds the sender of `document` wants to look."""
    _check_version(document)
    return int(_take(document, "", LOOK)["for_ms"])


def extend(plan: dict[str, Any], after_step: int, next_steps: object) -> dict[str, object]:
    """Return the extension of `plan` by the steps that the result of step `after_step` asks for.

    The new steps run after every main step there is and may refer to all of them. They stand
    behind the existing steps, so that no index changes; for a further extension the caller appends
    them to the plan's steps and takes over the ceilings. TaskError as for a task, and
    `extension_above_ceiling` beyond the plan's ceilings.
    """
    if not isinstance(next_steps, list) or not next_steps:
        raise TaskError("field_invalid", "next: must be an array of at least one step")
    ceilings, steps = plan["ceilings"], plan["steps"]
    if len(next_steps) > ceilings["steps"]:
        raise TaskError(
            "extension_above_ceiling",
            f"next: has {len(next_steps)} steps, the task allows {ceilings['steps']} more",
        )
    scope = {step["name"]: index for index, step in enumerate(steps)}
    hidden = {step["name"] for step in steps if step["finally"]}
    added = _compile_steps(next_steps, "next", False, scope, hidden)
    for index, step in enumerate(added):
        if step["tool"] not in ceilings["tools"]:
            raise TaskError(
                "extension_above_ceiling",
                f'next[{index}].tool: plan.tools does not name "{step["tool"]}"',
            )
    return {
        "plan": VERSION,
        "id": plan["id"],
        "source": plan["source"],
        "after": after_step,
        "ceilings": {"steps": ceilings["steps"] - len(added), "tools": ceilings["tools"]},
        "steps": added,
    }


def _take_fresh(document: object, known: Form, now_ms: int) -> dict[str, Any]:
    """Read a whole document of our version whose `expires_at`, if any, lies after `now_ms`."""
    _check_version(document)
    fields = _take(document, "", known)
    expires_at_ms = fields["expires_at_ms"]
    if expires_at_ms is not None and expires_at_ms <= now_ms:
        shown, now = format_instant(expires_at_ms), format_instant(now_ms)
        raise TaskError("expired", f"expires_at: {shown} is not after the device's time {now}")
    return fields


def _check_version(document: object) -> None:
    if isinstance(document, dict) and document.get("limpet", VERSION) != VERSION:
        raise TaskError("version_unsupported", f"limpet: must be {VERSION}")


def _take(table: object, where: str, form: Form) -> dict[str, Any]:
    """Read `table` by `form` into attributes (name plus unit); TaskError on the first fault."""
    if not isinstance(table, dict):
        raise TaskError("field_invalid", f"{where or 'the document'}: must be an object")
    # Most tables of most tasks are not given.
    if not table and not form.required:
        return form.defaults
    values = form.defaults.copy()
    inside = f"{where}." if where else ""
    readers = form.readers
    for name, value in table.items():
        if name not in readers:
            hint = nearest(name, list(readers))
            raise TaskError("field_unknown", f"{inside}{name[:64]}: is not a known field{hint}")
        read, attribute = readers[name]
        try:
            values[attribute] = read(value)
        except ValueError as error:
            raise TaskError("field_invalid", f"{inside}{name}: {error}") from None
    for name in form.required:
        if name not in table:
            raise TaskError("field_missing", f"{inside}{name}: is required")
    return values


def _compile_lists(main: list[object], last: list[object]) -> list[dict[str, Any]]:
    """Compile all steps of a task, those of a short one that came before by looking them up."""
    try:
        text = orjson.dumps([main, last])
    except TypeError:
        # A number that no message can bring: whoever reads its field refuses it.
        return _compile_all(main, last)
    return _compile_kept(text) if len(text) <= KEPT_BYTES_MAX else _compile_all(main, last)


@lru_cache(maxsize=KEPT_MAX)
def _compile_kept(text: bytes) -> list[dict[str, Any]]:
    """Compile the steps in `text`; nobody changes what comes of it."""
    main, last = orjson.loads(text)
    return _compile_all(main, last)


def _compile_all(main: list[object], last: list[object]) -> list[dict[str, Any]]:
    scope: Scope = {}
    steps = _compile_steps(main, "steps", False, scope)
    return steps + _compile_steps(last, "finally", True, scope)


def _compile_steps(
    documents: list[object],
    where: str,
    is_finally: bool,
    scope: Scope,
    hidden: frozenset[str] | set[str] = frozenset(),
) -> list[dict[str, Any]]:
    """Compile one list of steps and add them to `scope`; steps in `hidden` cannot be named."""
    compiled = []
    first = len(scope)
    for position, document in enumerate(documents):
        place = f"{where}[{position}]"
        fields = _take(document, place, STEP)
        if fields["name"] in scope:
            raise TaskError("step_duplicate", f'{place}.name: "{fields["name"]}" is taken')
        visible = scope
        if hidden:
            visible = {name: index for name, index in scope.items() if name not in hidden}
        compiled.append(_compile_step(fields, place, is_finally, visible))
        scope[fields["name"]] = first + position
    for step in compiled:
        # A `when` in `finally` does not guard a main step: it looks back, it does not go on.
        if step["when"] is not None and step["when"]["step"] >= first:
            compiled[step["when"]["step"] - first]["guarded"] = True
    return compiled


def _compile_step(
    fields: dict[str, Any], where: str, is_finally: bool, scope: Scope
) -> dict[str, Any]:
    when, retry = fields["when"], _take(fields["retry"], f"{where}.retry", RETRY)
    initial_ms, maximum_ms = retry["initial_interval_ms"], retry["maximum_interval_ms"]
    if maximum_ms is None:
        maximum_ms = max(MAXIMUM_INTERVAL_MS, initial_ms)
    if maximum_ms < initial_ms:
        raise TaskError(
            "field_invalid", f"{where}.retry.maximum_interval: is below initial_interval"
        )
    stop = fields["on_interruption"] == "stop"
    if stop and retry["maximum_attempts"] > 1 and retry["on"] != "before_exec":
        raise TaskError(
            "retry_not_allowed",
            f"{where}.retry: a step that may have run is not repeated; set on_interruption to "
            f'"rerun", or retry.on to "before_exec"',
        )
    values = compile_input(fields["input"], f"{where}.input", scope)
    start_to_close_ms = FINALLY_START_TO_CLOSE_MS if is_finally else START_TO_CLOSE_MS
    if fields["tool"] == "sleep" and "duration" in fields["input"]:
        values = _compile_sleep(values, f"{where}.input")
        start_to_close_ms = min(start_to_close_ms + values["duration_ms"], CLOCK_MS_MAX)
    return {
        "name": fields["name"],
        "tool": fields["tool"],
        "finally": is_finally,
        "stop": stop,
        "guarded": fields["allow_failure"],
        "keep": fields["keep"],
        "clocks": {
            "schedule_to_start_ms": fields["schedule_to_start_ms"],
            "start_to_close_ms": fields["start_to_close_ms"] or start_to_close_ms,
            "heartbeat_ms": fields["heartbeat_ms"],
            "grace_ms": fields["grace_ms"],
        },
        "retry": {**retry, "maximum_interval_ms": maximum_ms},
        "when": None if when is None else _compile_when(when, f"{where}.when", scope),
        "limits": _take(fields["limits"], f"{where}.limits", LIMITS),
        "input": values,
    }


def _compile_sleep(values: Any, where: str) -> dict[str, Any]:
    """Turn the text `duration` of `sleep` into `duration_ms`, the only form the core knows."""
    if "duration_ms" in values:
        raise TaskError("field_invalid", f"{where}: has both duration and duration_ms")
    try:
        milliseconds = parse_duration(values["duration"])
    except ValueError as error:
        raise TaskError(
            "field_invalid", f"{where}.duration: {error}; a reference goes into duration_ms"
        ) from None
    if milliseconds > CLOCK_MS_MAX:
        raise TaskError("field_invalid", f"{where}.duration: is longer than 2^31 ms")
    rest = {name: value for name, value in values.items() if name != "duration"}
    return {**rest, "duration_ms": milliseconds}


def _compile_when(when: dict[str, Any], where: str, scope: Scope) -> dict[str, Any]:
    """Compile exactly `{"step", one subject, "is" | "not"}`; `is: false` means `not: true`."""
    rest = set(when) - {"step", "is", "not"}
    subject = next(iter(rest), "")
    if "step" not in when or len(rest) != 1 or ("is" in when) == ("not" in when):
        subjects = ", ".join(WHEN_SUBJECTS)
        raise TaskError(
            "field_invalid", f"{where}: must have step, one of {subjects}, and one of is, not"
        )
    polarity = "is" if "is" in when else "not"
    if not isinstance(when[polarity], bool):
        raise TaskError("field_invalid", f"{where}.{polarity}: must be true or false")
    step = step_index(when["step"], f"{where}.step", scope)
    negate = when[polarity] == (polarity == "not")
    return {"step": step, **_compile_subject(subject, when[subject], where), "negate": negate}


def _compile_subject(subject: str, value: object, where: str) -> dict[str, Any]:
    try:
        if subject == "outcome":
            return {"outcome": choice(*OUTCOMES)(value)}
        if subject == "exit_code":
            return {"exit_code": whole(0, 255)(value)}
    except ValueError as error:
        raise TaskError("field_invalid", f"{where}.{subject}: {error}") from None
    if not subject.startswith("result."):
        hint = nearest(subject, ["outcome", "exit_code"])
        raise TaskError("field_unknown", f"{where}.{subject[:64]}: is not a known field{hint}")
    long = isinstance(value, str) and len(value) > WHEN_TEXT_CHARACTERS_MAX
    if isinstance(value, dict | list) or long:
        raise TaskError(
            "field_invalid",
            f"{where}.{subject[:64]}: must be null, a number, true, false or a text of at most "
            f"{WHEN_TEXT_CHARACTERS_MAX} characters",
        )
    return {"path": result_path(subject, where)[1:], "value": value}
