"""One file of tools.d to one tool of the policy table: a name, what to run, what it takes.

Decides what a declaration may say. Knows no source and no rule; whether a value fits a parameter
is checked by the core, per attempt.
"""

from __future__ import annotations

from typing import Any

import orjson

from limpet.errors import nearest
from limpet.fields import (
    REQUIRED,
    Field,
    choice,
    duration,
    flag,
    listed,
    nullable,
    optional,
    path,
    plain_name,
    size,
    text,
    whole,
)
from limpet.topics import is_name
from limpet.units import NUMBER_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from limpet.fields import Read
    from limpet.toml import Source, Where

ARGV_MAX = 64
CHOICES_MAX = 64
LENGTH_MAX = 8192
JSON_BYTES_MAX = 32 * 1024
CLOCK_MS_MAX = 1 << 31
ENVIRONMENT_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
ENVIRONMENT_CHARACTERS_MAX = 64
# The spawner's own: a tool learns from them where to report.
RESERVED_ENVIRONMENT = "LIMPET_"


def alphabet(value: object) -> str:
    """Read an alphabet: characters and ranges such as `a-z`; a `-` at an end is itself."""
    characters = text(value)
    if not characters:
        raise ValueError("must not be empty")
    for index in range(1, len(characters) - 1):
        if characters[index] == "-" and characters[index - 1] > characters[index + 1]:
            wrong = characters[index - 1 : index + 2]
            raise ValueError(f'has the range "{wrong}" the wrong way round')
    return characters


def in_alphabet(value: str, characters: str) -> bool:
    """Say whether `value` has only characters of an alphabet that `alphabet` has read."""
    allowed: set[str] = set()
    index = 0
    while index < len(characters):
        if index + 2 < len(characters) and characters[index + 1] == "-":
            first, last = ord(characters[index]), ord(characters[index + 2])
            allowed.update(chr(code) for code in range(first, last + 1))
            index += 3
        else:
            allowed.add(characters[index])
            index += 1
    return set(value) <= allowed


def _argument(value: object) -> object:
    if isinstance(value, dict) and list(value) == ["param"]:
        return {"param": plain_name(value["param"])}
    if isinstance(value, str):
        return text(value)
    raise ValueError('must hold texts and { param = "name" } only')


def _choices(value: object) -> object:
    choices = listed(text, CHOICES_MAX)(value)
    if not choices:
        raise ValueError("must hold at least one choice")
    return choices


def _login(value: object) -> object:
    if not is_name(value) or str(value).startswith("-"):
        raise ValueError("must be a login name")
    return value


def _anything(value: object) -> object:
    return value


_clock = duration(1, CLOCK_MS_MAX)
_size = size(1, 1 << 40)

TOOL = {
    "name": Field(REQUIRED, plain_name),
    "argv": Field([], listed(_argument, ARGV_MAX)),
    "program": Field("", optional(path)),
    "user": Field("", optional(_login)),
    "on_interruption": Field("stop", choice("stop", "rerun", "any")),
    "heartbeat": Field(False, flag),
}
INNER = ("params", "environment", "secrets", "ceilings")
CEILINGS = {
    "start_to_close": Field(None, nullable(_clock), "_ms"),
    "memory": Field(None, nullable(_size), "_bytes"),
    "output": Field(None, nullable(_size), "_bytes"),
}
KINDS = {
    "integer": {
        "minimum": Field(REQUIRED, whole(-NUMBER_MAX, NUMBER_MAX)),
        "maximum": Field(REQUIRED, whole(-NUMBER_MAX, NUMBER_MAX)),
    },
    "choice": {"choices": Field(REQUIRED, _choices)},
    "text": {
        "alphabet": Field(REQUIRED, alphabet),
        "maximum_length": Field(REQUIRED, whole(1, LENGTH_MAX)),
    },
    # Without a directory it is the task's own.
    "path": {"beneath": Field(None, nullable(path))},
    # A path to a model file that the policy's [models] admits: the core looks at it first.
    "model": {"beneath": Field(None, nullable(path))},
    "boolean": {},
    "json": {"maximum": Field("4KiB", size(2, JSON_BYTES_MAX), "_bytes")},
}
PARAMETER = {
    "type": Field(REQUIRED, choice(*KINDS)),
    "required": Field(None, nullable(flag)),
    "default": Field(None, _anything),
}


def read_declaration(source: Source) -> tuple[str, dict[str, Any]] | None:
    """Return the name and the table entry of the tool in `source`, or None.

    Every mistake lies with the source; with any, what is returned is not to be used.
    """
    root = source.root
    fields = source.take(root, (), TOOL, INNER)
    params = _params(source, root.get("params", {}))
    environment = _variables(source, "environment", text)
    secrets = _variables(source, "secrets", path)
    ceilings = source.take(root.get("ceilings", {}), ("ceilings",), CEILINGS)
    for variable in environment.keys() & secrets.keys():
        source.fault(("secrets", variable), "is in environment too")
    if "name" not in fields:
        return None
    tool = {
        "params": params,
        "environment": environment,
        "secrets": secrets,
        "user": fields["user"],
        "hosts": [],
        "ceilings": ceilings,
        "on_interruption": fields["on_interruption"],
        "heartbeat": fields["heartbeat"],
        "origin": source.origin(("name",)),
    }
    argv, program = fields["argv"], fields["program"]
    if bool(argv) == (program is not None):
        source.fault((), "needs either argv, for a program, or program, for a Python file")
    elif program is not None:
        return fields["name"], {"executor": "python", "program": program, **tool}
    _check_argv(source, argv, params)
    return fields["name"], {"executor": "process", "argv": argv, **tool}


def _check_argv(source: Source, argv: list[Any], params: dict[str, Any]) -> None:
    """What runs is never a task's to choose, and every parameter goes somewhere."""
    if not argv:
        return
    try:
        path(argv[0])
    except ValueError as error:
        source.fault(("argv",), f"the first value {error}")
    used = [item["param"] for item in argv if isinstance(item, dict)]
    for param in used:
        if param not in params:
            hint = nearest(param, list(params))
            source.fault(("argv",), f'the parameter "{param}" is not declared{hint}')
    for param in params:
        if param not in used:
            source.fault(("params", param), "is declared and argv does not use it")


def _params(source: Source, table: object) -> dict[str, Any]:
    if not isinstance(table, dict):
        source.fault(("params",), "must be a table")
        return {}
    params = {}
    for param, declared in table.items():
        where = ("params", param)
        if not is_name(param):
            source.fault(where, "the name must be 1 to 64 of A-Z a-z 0-9 . _ -")
        kind = declared.get("type") if isinstance(declared, dict) else None
        known = KINDS.get(kind, {}) if isinstance(kind, str) else {}
        faults = source.faults
        fields = source.take(declared, where, {**PARAMETER, **known})
        if source.faults == faults:
            params[param] = _param(source, where, fields)
    return params


def _param(source: Source, where: Where, fields: dict[str, Any]) -> dict[str, Any]:
    """Settle required and default: one that has a default is never required."""
    required, default = fields.pop("required"), fields.pop("default")
    if default is None:
        fields["required"] = required is not False
    elif required:
        source.fault((*where, "required"), "makes no sense beside a default")
    if fields["type"] == "integer" and fields["minimum"] > fields["maximum"]:
        source.fault((*where, "minimum"), "is above maximum")
    elif default is not None:
        try:
            fits(fields, default)
        except ValueError as error:
            source.fault((*where, "default"), str(error))
        fields.update(required=False, default=default)
    return fields


def fits(param: dict[str, Any], value: object) -> None:
    """Raise ValueError unless `value` is what the parameter takes."""
    kind = param["type"]
    if kind == "integer":
        whole(param["minimum"], param["maximum"])(value)
    elif kind == "choice":
        choice(*param["choices"])(value)
    elif kind == "boolean":
        flag(value)
    elif kind in ("path", "model"):
        raise ValueError("is not possible for a path: write it into argv")
    elif kind == "text":
        if len(text(value)) > param["maximum_length"]:
            raise ValueError(f"is longer than {param['maximum_length']} characters")
        if not in_alphabet(text(value), param["alphabet"]):
            raise ValueError(f'must hold only "{param["alphabet"]}"')
    else:
        _fits_json(value, param["maximum_bytes"])


def _fits_json(value: object, maximum_bytes: int) -> None:
    try:
        encoded = orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_DATETIME)
    except TypeError as error:
        raise ValueError(f"cannot be JSON: {error}") from None
    if len(encoded) > maximum_bytes:
        raise ValueError(f"has more than {maximum_bytes} bytes as JSON")


def _variables(source: Source, section: str, read: Read) -> dict[str, Any]:
    """Read a table of environment names."""
    table = source.root.get(section, {})
    if not isinstance(table, dict):
        source.fault((section,), "must be a table")
        return {}
    for variable in table:
        short = 1 <= len(variable) <= ENVIRONMENT_CHARACTERS_MAX
        wrong = variable.strip(ENVIRONMENT_ALPHABET) or variable[:1].isdigit()
        if wrong or not short or variable.startswith(RESERVED_ENVIRONMENT):
            source.fault(
                (section, variable),
                "must be of A-Z 0-9 _, begin with no digit and not with LIMPET_",
            )
    return source.take(table, (section,), {key: Field(REQUIRED, read) for key in table})
