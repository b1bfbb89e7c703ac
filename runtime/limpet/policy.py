"""policy.toml and tools.d to the one table that the core enforces before every attempt.

Decides who may run which tool, with nothing allowed unless a rule says so. All mistakes of all
files are reported at once. Knows no task.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from limpet import declaration, toml
from limpet.builtin import builtin_tools
from limpet.errors import ConfigError, nearest
from limpet.fields import REQUIRED, Field, choice, listed, nullable, path, plain_name, text

RULES_MAX = 256
TOOLS_MAX = 256
HOSTS_MAX = 256
HOST_CHARACTERS_MAX = 249
ANY = "*"


class Policy(NamedTuple):
    """The table for the core, and what the agent itself decides by."""

    table: dict[str, Any]
    # Sources that may cancel any task, not only their own.
    operators: tuple[str, ...]
    # Whether a task is judged by a clock that nobody has confirmed.
    trust_any_clock: bool


class Site(NamedTuple):
    """What the table needs to know about the device, from the configuration and the build.

    `worker` and `native` are the argv prefixes that start a Python tool and a native tool.
    """

    device: str
    task_root: str
    directory_bytes: int
    loopback: bool
    worker: list[str]
    native: list[str]


def _source(value: object) -> object:
    return value if value == ANY else plain_name(value)


def _host(value: object) -> str:
    """Read `host:port` or `host:*`; a host is compared as it is written, in lower case."""
    host, colon, port = text(value).rpartition(":")
    number = int(port) if port.isdecimal() and port.isascii() and len(port) <= 5 else 0
    sound = 1 <= len(host) <= HOST_CHARACTERS_MAX and not set(host) & set("/@ *")
    if not colon or not sound or not (port == ANY or 0 < number < 65536):
        raise ValueError(f'must be "host:port" or "host:*", not "{value}"')
    return f"{host.lower()}:{port}"


SECTIONS = ("allow", "operator", "hosts", "files", "models", "clock")
ALLOW = {
    "source": Field(REQUIRED, _source),
    "tools": Field(REQUIRED, listed(_source, TOOLS_MAX)),
}
OPERATOR = {"source": Field(REQUIRED, plain_name)}
HOSTS = {"allow": Field([], listed(_host, HOSTS_MAX))}
FILES = {kind: Field(None, nullable(path)) for kind in ("read", "write", "hash", "inspect")}
MODELS = {
    "accept": Field("ok", choice("ok", "suspect")),
    "trusted": Field(None, nullable(path)),
    "keys": Field(None, nullable(path)),
}
CLOCK = {"untrusted": Field("refuse", choice("refuse", "accept"))}


def load(policy_file: str, tools_directory: str, site: Site) -> Policy:
    """Read the policy and the tools; ConfigError holds all mistakes of all files.

    A tools directory that does not exist declares no tools.
    """
    mistakes: list[str] = []
    policy = toml.load(policy_file, mistakes)
    tools = [toml.load(file, mistakes) for file in _tool_files(tools_directory, mistakes)]
    return compile(policy, tools, site, mistakes)


def compile(
    policy: toml.Source, tools: list[toml.Source], site: Site, mistakes: list[str]
) -> Policy:
    """Build the policy from parsed files that share `mistakes`; ConfigError if there are any."""
    root = policy.root
    policy.take(root, (), {}, SECTIONS)
    hosts = policy.take(root.get("hosts", {}), ("hosts",), HOSTS)
    files = policy.take(root.get("files", {}), ("files",), FILES)
    models = policy.take(root.get("models", {}), ("models",), MODELS)
    if models.get("keys") and not models.get("trusted"):
        policy.fault(("models", "keys"), "makes no sense without trusted")
    clock = policy.take(root.get("clock", {}), ("clock",), CLOCK)
    declared = builtin_tools(hosts["allow"], files)
    for source in tools:
        _declare(source, declared)
    allow = _allow(policy, declared)
    operators = [rule["source"] for _, rule in _rules(policy, "operator", OPERATOR)]
    if mistakes:
        raise ConfigError(mistakes)
    table = {
        "device": site.device,
        "policy_file": policy.path,
        "task_root": site.task_root,
        "directory_bytes": site.directory_bytes,
        "loopback": site.loopback,
        "worker": site.worker,
        "native": site.native,
        "models": models,
        "allow": allow,
        "tools": declared,
    }
    return Policy(table, tuple(operators), clock["untrusted"] == "accept")


def _tool_files(directory: str, mistakes: list[str]) -> list[str]:
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(".toml"))
    except FileNotFoundError:
        return []
    except OSError as error:
        mistakes.append(f"{directory}:1: cannot read the directory: {error.strerror}")
        return []
    if len(names) > TOOLS_MAX:
        mistakes.append(f"{directory}:1: has {len(names)} tools, at most {TOOLS_MAX} are read")
    return [os.path.join(directory, name) for name in names[:TOOLS_MAX]]


def _declare(source: toml.Source, declared: dict[str, dict[str, Any]]) -> None:
    """Add the tool in `source`; a name is declared once, and never that of a built-in tool."""
    entry = declaration.read_declaration(source)
    if entry is None:
        return
    name, tool = entry
    if name in declared:
        source.fault(("name",), f'"{name}" is declared already: {declared[name]["origin"]}')
        return
    declared[name] = tool


def _allow(policy: toml.Source, declared: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Read the rules. `*` stands for every tool but `exec` and `shell`; the core sees to that."""
    allow = []
    for index, rule in _rules(policy, "allow", ALLOW):
        for tool in rule["tools"]:
            if tool != ANY and tool not in declared:
                hint = nearest(tool, list(declared))
                policy.fault(("allow", index, "tools"), f'no tool is named "{tool}"{hint}')
        allow.append({**rule, "origin": policy.origin(("allow", index))})
    return allow


def _rules(
    policy: toml.Source, section: str, fields: dict[str, Field]
) -> list[tuple[int, dict[str, Any]]]:
    """Return the index and the fields of each whole entry of `[[section]]`."""
    tables = policy.root.get(section, [])
    if not isinstance(tables, list) or len(tables) > RULES_MAX:
        policy.fault((section,), f"must be at most {RULES_MAX} tables, each [[{section}]]")
        return []
    taken = [
        (index, policy.take(table, (section, index), fields)) for index, table in enumerate(tables)
    ]
    return [(index, rule) for index, rule in taken if len(rule) == len(fields)]
