"""Where the fleet is and who we are: `contexts.toml`, and what the command line says instead.

Decides the keys of a context and their defaults. Knows no MQTT client. The file holds no secret,
only the path of one.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from limpet import toml
from limpet.config import DEVICE as DEVICE_FIELDS
from limpet.errors import ConfigError, LimpetError, nearest
from limpet.fields import Field, flag, optional, path, plain_name, text, whole
from limpet.topics import is_name

PLAIN_PORT, TLS_PORT = 1883, 8883
CONTEXT = {
    "host": Field("localhost", text),
    "port": Field(0, whole(0, 65535)),
    "prefix": DEVICE_FIELDS["prefix"],
    "source": Field("", optional(plain_name)),
    "device": Field("", optional(plain_name)),
    "username": Field("", optional(text)),
    "password_file": Field("", optional(path)),
    "tls": Field(False, flag),
    "ca_file": Field("", optional(path)),
}
ROOT = {"default": Field("", optional(plain_name))}


class UsageError(LimpetError):
    """The command line leaves out, or names, something that it must not."""

    exit_code = 2


class Context(NamedTuple):
    """One fleet: its broker, its prefix, our name in it, the device that is meant if none is.

    With a `socket` it is the agent of this machine alone, and no broker.
    """

    host: str
    port: int
    prefix: str
    source: str
    device: str | None
    username: str | None
    password_file: str | None
    tls: bool
    ca_file: str | None
    socket: str | None = None


def contexts_file(environment: dict[str, str]) -> str:
    """Return the path of the contexts' file, which need not exist."""
    home = environment.get("HOME", "/")
    base = environment.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    return os.path.join(base, "limpet", "contexts.toml")


def load(file: str, name: str | None, given: dict[str, Any], login: str) -> Context:
    """Return the context `name` (None: the file's default), with what is `given` in its place.

    `given` holds the options of the command line, None for those left out; `login` is the source
    if nothing says another. ConfigError holds all mistakes of the file.
    """
    values = _read(file, name)
    values.update({key: value for key, value in given.items() if value is not None})
    if values["ca_file"] is not None:
        values["tls"] = True
    if not values["port"]:
        values["port"] = TLS_PORT if values["tls"] else PLAIN_PORT
    if not values["source"]:
        values["source"] = login
    for key in ("source", "device"):
        if values[key] is not None and not is_name(values[key]):
            wanted = "must be 1 to 64 of A-Z a-z 0-9 . _ -"
            raise UsageError(f'cannot use {key} "{values[key]}": it {wanted} (nothing was sent)')
    return Context(**values)


def _read(file: str, name: str | None) -> dict[str, Any]:
    mistakes: list[str] = []
    if name is None and not os.path.exists(file):
        return toml.Source(file, "", mistakes).take({}, (), CONTEXT)
    source = toml.load(file, mistakes)
    root = source.take(source.root, (), ROOT, ("contexts",))
    tables = source.root.get("contexts", {})
    tables = tables if isinstance(tables, dict) else {}
    values = {key: source.take(table, ("contexts", key), CONTEXT) for key, table in tables.items()}
    if mistakes:
        raise ConfigError(mistakes)
    wanted = name or root["default"]
    if wanted is None:
        return source.take({}, (), CONTEXT)
    if wanted not in values:
        hint = nearest(wanted, list(values))
        raise UsageError(f'cannot find context "{wanted}" in {file}{hint} (nothing was sent)')
    return values[wanted]
