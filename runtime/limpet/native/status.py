"""Status numbers of the C ABI to exceptions: one table.

Decides which exception a status becomes, and which exit code follows. Knows no handle; a test holds
the table against the header both ways.
"""

from __future__ import annotations

import orjson

from limpet.errors import (
    EXIT_SOFTWARE,
    EXIT_TEMPORARY,
    REASONS,
    CoreError,
    LimpetError,
    TaskError,
)

OK, NULL, INVALID, POISONED, BUSY, TOO_SMALL, REFUSED, FAILED = range(8)

# Status -> its name in the header, and the exit code of an agent that cannot go on because of it.
STATUSES = {
    OK: ("Ok", EXIT_SOFTWARE),
    NULL: ("Null", EXIT_SOFTWARE),
    INVALID: ("Invalid", EXIT_SOFTWARE),
    POISONED: ("Poisoned", EXIT_SOFTWARE),
    BUSY: ("Busy", EXIT_TEMPORARY),
    TOO_SMALL: ("TooSmall", EXIT_SOFTWARE),
    REFUSED: ("Refused", EXIT_SOFTWARE),
    FAILED: ("Failed", EXIT_TEMPORARY),
}


def exception(status: int, text: str) -> LimpetError:
    """Return what to raise for `status`; `text` is what the core said last.

    A refusal is the peer's fault and becomes a TaskError; everything else is a CoreError.
    """
    if status == REFUSED:
        return refusal(text)
    name, exit_code = STATUSES.get(status, (f"status {status}", EXIT_SOFTWARE))
    error = CoreError(text or f"cannot use the core: it answered {name} (the agent ends)")
    error.exit_code = exit_code
    return error


def refusal(text: str) -> TaskError:
    """Return the TaskError that the core spells as JSON with `code` and `detail`."""
    try:
        told = orjson.loads(text)
        code, detail = str(told["code"]), str(told["detail"])
    except (ValueError, KeyError, TypeError):
        return TaskError("plan_invalid", text)
    if code not in REASONS:
        return TaskError("plan_invalid", f"{code}: {detail}")
    return TaskError(code, detail)
