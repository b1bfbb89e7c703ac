"""The tools that every device has: what they take and who carries them out.

Decides their parameters only. Which source may run them, which hosts and which directories they
reach is policy's to say. `sleep`, `publish`, `reboot`, `exec` and `shell` take what their executor
takes; the core says so itself, next to the code that does it.
"""

from __future__ import annotations

from typing import Any

ORIGIN = "built in"
PRINTABLE = "!-~"
URL_CHARACTERS_MAX = 2048
BODY_BYTES_MAX = 32 * 1024
FETCH_BYTES_MAX = 1 << 40
FETCH_BYTES = 256 << 20
# What fits into a step's result together with its description.
READ_BYTES_MAX = 3072
OFFSET_MAX = (1 << 63) - 1
REDIRECTS_MAX = 5
CONTEXT_MAX = 1 << 30
SHA256 = {"type": "text", "alphabet": "0-9a-f", "maximum_length": 64, "required": True}


def builtin_tools(hosts: list[str], beneath: dict[str, str | None]) -> dict[str, dict[str, Any]]:
    """Return the built-in tools as the policy table has them.

    `hosts` is the allow-list of `http` and `fetch`; `beneath` gives the directory of `read`,
    `write`, `hash` and `inspect`, None being the task's own; `device` looks where `read` does.
    """
    return {
        "sleep": _tool("sleep", {}),
        "publish": _tool("publish", {}),
        "reboot": _tool("reboot", {}, on_interruption="stop"),
        "exec": _tool("exec", {}),
        "shell": _tool("shell", {}),
        **_web_tools(hosts),
        **_file_tools(beneath),
    }


def _web_tools(hosts: list[str]) -> dict[str, dict[str, Any]]:
    url = _text(PRINTABLE, URL_CHARACTERS_MAX)
    return {
        "http": _native(
            "http",
            {
                "url": url,
                "method": _choice("GET", "HEAD", "POST", "PUT", "DELETE"),
                "body": _json(required=False),
                # Absent, any 2xx is a success.
                "status": _integer(100, 599),
                # Each must lead to a host of the allow-list; GET and HEAD only.
                "redirects": _integer(0, REDIRECTS_MAX, 0),
            },
            hosts=hosts,
        ),
        "fetch": _native(
            "fetch",
            {
                "url": url,
                "sha256": SHA256,
                "to": _path(None),
                "maximum_bytes": _integer(1, FETCH_BYTES_MAX, FETCH_BYTES),
                "redirects": _integer(0, REDIRECTS_MAX, 0),
            },
            hosts=hosts,
            heartbeat=True,
        ),
    }


def _file_tools(beneath: dict[str, str | None]) -> dict[str, dict[str, Any]]:
    return {
        "hash": _native(
            "hash",
            {
                "path": _path(beneath["hash"]),
                # What it must be.
                "sha256": {**SHA256, "required": False},
            },
        ),
        "read": _native(
            "read",
            {
                "path": _path(beneath["read"]),
                "offset": _integer(0, OFFSET_MAX, 0),
                "maximum_bytes": _integer(1, READ_BYTES_MAX, READ_BYTES_MAX),
            },
        ),
        "write": _native(
            "write",
            {
                "path": _path(beneath["write"]),
                "data": _json(required=True),
                "mode": _choice("0644", "0600", "0755"),
            },
        ),
        # The path is whose disk is measured; absent, that of the task's own directory.
        "device": _native("device", {"path": {**_path(beneath["read"]), "required": False}}),
        "inspect": _native(
            "inspect",
            {
                "path": _path(beneath["inspect"]),
                # What it must be.
                "sha256": {**SHA256, "required": False},
                # The worst verdict that is a success.
                "accept": _choice("ok", "suspect", "malformed"),
                "require_trusted": _flag(),
                "require_fit": _flag(),
                # Tokens it is to have; absent, as many as it claims.
                "context": _integer(1, CONTEXT_MAX),
            },
            heartbeat=True,
        ),
    }


def _tool(executor: str, params: dict[str, Any], **fields: object) -> dict[str, Any]:
    return {
        "executor": executor,
        "params": params,
        "environment": {},
        "secrets": {},
        "user": None,
        "hosts": [],
        "ceilings": {"start_to_close_ms": None, "memory_bytes": None, "output_bytes": None},
        "on_interruption": "any",
        "heartbeat": False,
        "origin": ORIGIN,
        **fields,
    }


def _native(program: str, params: dict[str, Any], **fields: object) -> dict[str, Any]:
    return _tool("native", params, program=program, **fields)


def _integer(minimum: int, maximum: int, default: int | None = None) -> dict[str, Any]:
    param = {"type": "integer", "minimum": minimum, "maximum": maximum, "required": False}
    return param if default is None else {**param, "default": default}


def _text(alphabet: str, maximum_length: int) -> dict[str, Any]:
    bounds = {"alphabet": alphabet, "maximum_length": maximum_length}
    return {"type": "text", **bounds, "required": True}


def _choice(*choices: str) -> dict[str, Any]:
    """Return a choice whose first entry is the default."""
    param = {"type": "choice", "choices": list(choices), "required": False}
    return {**param, "default": choices[0]}


def _json(required: bool) -> dict[str, Any]:
    return {"type": "json", "maximum_bytes": BODY_BYTES_MAX, "required": required}


def _flag() -> dict[str, Any]:
    return {"type": "boolean", "required": False, "default": False}


def _path(beneath: str | None) -> dict[str, Any]:
    return {"type": "path", "beneath": beneath, "required": True}
