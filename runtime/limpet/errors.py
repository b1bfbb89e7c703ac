"""What can go wrong, who is told, and with which exit code and reason code.

Decides the exception tree, the exit codes and the stable reason codes. Knows no other module.
"""

from __future__ import annotations

# Exit codes. The small ones follow kubectl and systemctl; the others are those of sysexits.h.
EXIT_OK = 0
EXIT_TASK = 1
EXIT_USAGE = 2
EXIT_TIMEOUT = 3
EXIT_UNREACHABLE = 4
EXIT_SOFTWARE = 70
EXIT_TEMPORARY = 75
EXIT_CONFIG = 78

EXITS = {
    EXIT_OK: "done; every task succeeded",
    EXIT_TASK: "a task ended with another outcome than succeeded, or was refused; so was a look",
    EXIT_USAGE: "the command line is wrong",
    EXIT_TIMEOUT: "no answer or no result within --timeout",
    EXIT_UNREACHABLE: "the broker, the device or the agent's socket cannot be reached",
    EXIT_SOFTWARE: "a bug, or a poisoned core; the supervisor starts the agent again",
    EXIT_TEMPORARY: "cannot go on now, a restart may help",
    EXIT_CONFIG: "the configuration or the policy has mistakes",
}

# Reason codes: the only words a peer may branch on. PROTOCOL.md prints this table; a test compares.
REASONS = {
    # The frame.
    "frame_unknown": "the message does not begin with limpet/",
    "header_too_long": "the header line exceeds 256 bytes",
    "header_unterminated": "the header line has no end",
    "header_malformed": "the header is not words with one space between",
    "version_unsupported": "the version is not spoken here",
    "algorithm_unknown": "the signature's algorithm is not known",
    "signature_malformed": "the key id or the signature has another form",
    "signature_unsupported": "signatures are not verified by this version",
    "signature_required": "the tool needs a signed task on this broker",
    "body_empty": "the frame has no body",
    "body_too_long": "the body is larger than the protocol allows",
    "topic_invalid": "a topic is outside the grammar",
    # The body.
    "not_json": "the body is not UTF-8 JSON",
    "too_many_values": "the body holds more strings or values than the protocol allows",
    "too_deep": "values nest deeper than 16",
    "duplicate_key": "an object names the same key twice",
    "number_range": "a number cannot be kept exactly",
    # The document.
    "field_missing": "a required field is absent",
    "field_unknown": "a field that the protocol does not know",
    "field_invalid": "a field has the wrong type, form or range",
    "too_many_steps": "more steps than a task may have",
    "step_duplicate": "two steps share a name",
    "reference_invalid": "a reference cannot be read",
    "reference_unknown": "a reference or when names no earlier step",
    "retry_not_allowed": "a step that stops on interruption may only retry before exec",
    "extension_above_ceiling": "a continuation asks for more steps or other tools than allowed",
    "plan_invalid": "the compiled task is outside its bounds",
    "plan_too_long": "the compiled task exceeds 128 KiB",
    # Admission.
    "expired": "the task's expires_at has passed",
    "clock_untrusted": "the device does not know the time well enough to judge expires_at",
    "id_conflict": "the same source and id were used before with other bytes",
    "cancelled_before": "a cancel for this id came before the task",
    "unknown_task": "no such task is known here",
    "not_owner": "only the task's source or an operator may do this",
    "draining": "the agent is about to stop and admits nothing new",
    "busy_tasks": "the table of tasks is full",
    "busy_steps": "the pool of steps is full",
    "busy_bytes": "the journal has no room for the task",
    "busy_ids": "the table of remembered ids is full",
    "busy_memory": "the agent is near its own memory budget",
    "busy_looks": "as many sources as may look at the memory do so already",
    "memory_impossible": "a step's memory limit can never fit the pool",
    "store_failed": "the device's journal cannot be written any more",
    # Policy and expansion, decided per attempt.
    "unknown_tool": "the device declares no such tool",
    "not_allowed": "no allow rule names this source and tool",
    "parameter_missing": "a required parameter is absent",
    "parameter_unknown": "the tool declares no such parameter",
    "parameter_invalid": "a parameter is outside what the tool declares",
    "host_not_allowed": "the policy's host list does not name this host and port",
    "clock_above_ceiling": "a clock is above the tool's ceiling",
    "limit_above_ceiling": "a limit is above the tool's ceiling",
    "interruption_not_allowed": "the tool does not allow this on_interruption",
    "heartbeat_not_declared": "a heartbeat clock for a tool that declares no heartbeat",
    "reference_missing": "a reference names a result that is not there",
    "reference_type": "a reference of this type cannot stand here",
    "reference_truncated": "a reference names an output that was not kept whole",
    "reference_too_long": "an expanded text exceeds 8 KiB",
    "reference_in_command": "a reference would choose the program",
    "reference_in_environment": "a reference would choose the name of a variable",
    "reference_in_script": "a reference inside a script; arguments may hold one",
    "argument_too_long": "an argument is longer, or there are more, than allowed",
    "argument_has_nul": "an argument holds NUL",
    "argument_is_option": "a text would be read as an option by the program",
    "environment_invalid": "a variable's name or value cannot stand in an environment",
    "input_too_long": "the expanded input exceeds 64 KiB",
    "payload_too_long": "a payload to publish exceeds 16 KiB",
    # The start of an attempt.
    "exec_failed": "the program cannot be executed",
    "spawn_failed": "no process could be made",
    "argument_invalid": "the arguments cannot be passed to a program",
    "directory_unusable": "the task's directory cannot be used",
    "secret_unreadable": "a secret's file cannot be read",
    "user_unknown": "the tool's user does not exist",
    "user_refused": "the system does not let the agent run as the tool's user",
    "containment_failed": "the attempt cannot be contained",
    "directory_full": "the files in the task's directory take more than they may",
    "memory_exceeded": "processes of the attempt passed its memory limit, or failed near it",
    "host_failed": "the agent could not do what the step asked of it",
    "journal_damaged": "the step cannot be read back from the journal",
}


class LimpetError(Exception):
    """Anything limpet says went wrong; `exit_code` is what a process ends with for it."""

    exit_code = EXIT_SOFTWARE


class ConfigError(LimpetError):
    """The operator's files have mistakes; `mistakes` holds all of them as `file:line: text`."""

    exit_code = EXIT_CONFIG

    def __init__(self, mistakes: list[str]) -> None:
        """Keep every mistake; the text has one a line."""
        check(len(mistakes) > 0, "a ConfigError names at least one mistake")
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(mistakes))


class TaskError(LimpetError):
    """The peer's message is refused; `code` is stable, `detail` names the place and the cause."""

    exit_code = EXIT_TASK

    def __init__(self, code: str, detail: str) -> None:
        """Take a code of `REASONS` and one sentence without a final stop."""
        check(code in REASONS, f"reason code {code} is listed")
        self.code = code
        self.detail = detail
        super().__init__(f"cannot accept the message: {detail} (refused as {code})")


class CoreError(LimpetError):
    """The native core answered with a status other than OK."""


class LinkError(LimpetError):
    """The network or the broker: the link closes and the reconnect schedule goes on."""

    exit_code = EXIT_UNREACHABLE


def check(condition: bool, text: str) -> None:
    """Raise AssertionError unless `condition` holds; unlike `assert` it survives `-O`."""
    if not condition:
        raise AssertionError(f"broken promise: {text}")


def nearest(word: str, known: list[str]) -> str:
    """Return ` (did you mean "x"?)` for the closest of `known`, or nothing if none is close.

    Edit distance over at most 64 characters; `difflib` would cost an import of `re`.
    """
    word = word[:64]
    best, best_distance = "", max(1, len(word) // 3) + 1
    for candidate in known:
        row = list(range(len(candidate) + 1))
        for i, a in enumerate(word, 1):
            previous, row[0] = row[0], i
            for j, b in enumerate(candidate, 1):
                previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
        if row[-1] < best_distance:
            best, best_distance = candidate, row[-1]
    return f' (did you mean "{best}"?)' if best else ""
