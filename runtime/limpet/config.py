"""limpet.toml to a frozen Config: every key, its default, its range, and what must fit together.

The tables below are the only place where a default or a range of the configuration stands.
Knows no policy and opens nothing that the configuration names.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from limpet import toml, topics
from limpet.errors import ConfigError
from limpet.fields import (
    Field,
    argv,
    auto,
    choice,
    duration,
    flag,
    optional,
    path,
    plain_name,
    size,
    text,
    whole,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from limpet.toml import Where

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
KIB, MIB = 1 << 10, 1 << 20
# What the journal keeps for a remembered id, and for the longest task.
ID_BYTES = 96
TASK_BYTES = 128 * KIB


class Device(NamedTuple):
    """Who this is and where it keeps its state."""

    name: str
    prefix: str
    state_directory: str
    reboot: tuple[str, ...]
    boot_id_file: str
    realtime: bool


class Tls(NamedTuple):
    """How the broker is recognised."""

    enabled: bool
    ca_file: str | None
    server_name: str | None


class Timeouts(NamedTuple):
    """How long each stage of a connect may take."""

    resolve_ms: int
    connect_ms: int
    handshake_ms: int
    connack_ms: int


class Broker(NamedTuple):
    """Where the broker is and how to speak to it; `protocol` is "5", "3.1.1" or "auto"."""

    host: str
    port: int
    username: str | None
    password_file: str | None
    client_id: str
    keepalive_ms: int
    protocol: str
    session_expiry_ms: int
    maximum_packet_bytes: int
    tls: Tls
    timeouts: Timeouts


class Memory(NamedTuple):
    """How memory divides; None is derived from what there is."""

    agent_bytes: int | None
    pool_bytes: int | None
    step_bytes: int | None


class Require(NamedTuple):
    """Below what the agent does not start; "any" or "cgroup"."""

    containment: str
    memory: str


class Limits(NamedTuple):
    """The bounds that the core reserves memory for at start, and those of memory itself."""

    tasks: int
    steps: int
    attempts: int
    ids: int
    segment_bytes: int
    directory_bytes: int
    memory: Memory
    require: Require


class PolicyFiles(NamedTuple):
    """Where the policy stands."""

    file: str
    tools_directory: str


class Drain(NamedTuple):
    """How long running steps may go on after SIGTERM."""

    timeout_ms: int


class LogForm(NamedTuple):
    """What is logged and how; `format` is "auto", "json" or "text"."""

    level: str
    format: str


class Socket(NamedTuple):
    """The local socket for `limpet status` and others."""

    path: str
    group: str | None


class Config(NamedTuple):
    """The whole configuration, checked."""

    device: Device
    broker: Broker
    limits: Limits
    policy: PolicyFiles
    drain: Drain
    log: LogForm
    socket: Socket


def _prefix(value: object) -> str:
    if not topics.is_prefix(value):
        raise ValueError("must be one to four names joined by /")
    return str(value)


def _duration(default: str, minimum_ms: int, maximum_ms: int) -> Field:
    return Field(default, duration(minimum_ms, maximum_ms), "_ms")


DEVICE = {
    "name": Field("", optional(plain_name)),
    "prefix": Field("limpet", _prefix),
    "state_directory": Field("/var/lib/limpet", path),
    "reboot": Field(["/sbin/reboot"], argv),
    "boot_id_file": Field("/proc/sys/kernel/random/boot_id", path),
    "realtime": Field(False, flag),
}
BROKER = {
    "host": Field("localhost", text),
    "port": Field(0, whole(0, 65535)),
    "username": Field("", optional(text)),
    "password_file": Field("", optional(path)),
    "client_id": Field("", optional(plain_name)),
    # The broker may drop us after one and a half of it, so it bounds how late a dead link shows.
    "keepalive": _duration("60s", 5 * SECOND, 18 * HOUR),
    "protocol": Field("auto", choice("5", "3.1.1", "auto")),
    # Longer than the outages to be bridged: the broker keeps our unacknowledged tasks so long.
    "session_expiry": _duration("7d", MINUTE, 365 * DAY),
    "maximum_packet": Field("160KiB", size(136 * KIB, MIB), "_bytes"),
}
TLS = {
    "enabled": Field(False, flag),
    "ca_file": Field("", optional(path)),
    "server_name": Field("", optional(text)),
}
TIMEOUTS = {
    "resolve": _duration("10s", SECOND, 5 * MINUTE),
    "connect": _duration("10s", SECOND, 5 * MINUTE),
    "handshake": _duration("15s", SECOND, 5 * MINUTE),
    "connack": _duration("15s", SECOND, 5 * MINUTE),
}
LIMITS = {
    "tasks": Field(256, whole(1, 1024)),
    "steps": Field(1024, whole(1, 4096)),
    "attempts": Field(8, whole(1, 64)),
    "ids": Field(4096, whole(16, 4096)),
    "segment": Field("4MiB", size(256 * KIB, 64 * MIB), "_bytes"),
    "directory": Field("256MiB", size(MIB, 1 << 40), "_bytes"),
}
MEMORY = {
    "agent": Field("auto", auto(size(16 * MIB, 1 << 40)), "_bytes"),
    "pool": Field("auto", auto(size(MIB, 1 << 40)), "_bytes"),
    "step": Field("auto", auto(size(MIB, 1 << 40)), "_bytes"),
}
REQUIRE = {axis: Field("any", choice("any", "cgroup")) for axis in ("containment", "memory")}
POLICY = {
    "file": Field("/etc/limpet/policy.toml", path),
    "tools_directory": Field("/etc/limpet/tools.d", path),
}
DRAIN = {"timeout": _duration("60s", 0, HOUR)}
LOG = {
    "level": Field("info", choice("error", "warning", "info", "debug")),
    "format": Field("auto", choice("auto", "json", "text")),
}
SOCKET = {
    "path": Field("/run/limpet/limpet.sock", path),
    "group": Field("", optional(text)),
}

SECTIONS: dict[tuple[str, ...], dict[str, Field]] = {
    (): {},
    ("device",): DEVICE,
    ("broker",): BROKER,
    ("broker", "tls"): TLS,
    ("broker", "timeouts"): TIMEOUTS,
    ("limits",): LIMITS,
    ("limits", "memory"): MEMORY,
    ("limits", "require"): REQUIRE,
    ("policy",): POLICY,
    ("drain",): DRAIN,
    ("log",): LOG,
    ("socket",): SOCKET,
}


def load(file: str) -> Config:
    """Read the file at `file`; ConfigError holds all mistakes."""
    mistakes: list[str] = []
    source = toml.load(file, mistakes)
    return _compile(source, os.uname().nodename, mistakes)


def parse(file: str, content: str, host_name: str) -> Config:
    """Compile `content`, which stands at `file`; `host_name` is the default device name."""
    mistakes: list[str] = []
    return _compile(toml.Source(file, content, mistakes), host_name, mistakes)


def _compile(source: toml.Source, host_name: str, mistakes: list[str]) -> Config:
    """Build a Config unless there are `mistakes`, to which `source` adds."""
    values = {where: _section(source, where) for where in SECTIONS}
    device = _with_defaults(source, values, host_name)
    _cross_check(source, values)
    if mistakes:
        raise ConfigError(mistakes)
    broker = values["broker",]
    return Config(
        device=device,
        broker=Broker(
            **broker,
            tls=Tls(**values["broker", "tls"]),
            timeouts=Timeouts(**values["broker", "timeouts"]),
        ),
        limits=Limits(
            **values["limits",],
            memory=Memory(**values["limits", "memory"]),
            require=Require(**values["limits", "require"]),
        ),
        policy=PolicyFiles(**values["policy",]),
        drain=Drain(**values["drain",]),
        log=LogForm(**values["log",]),
        socket=Socket(**values["socket",]),
    )


def _section(source: toml.Source, where: tuple[str, ...]) -> dict[str, Any]:
    table: Any = source.root
    for name in where:
        table = table.get(name, {}) if isinstance(table, dict) else {}
    inner = tuple(other[-1] for other in SECTIONS if other and other[:-1] == where)
    return source.take(table, where, SECTIONS[where], inner)


def _with_defaults(
    source: toml.Source, values: dict[tuple[str, ...], dict[str, Any]], host_name: str
) -> Device:
    """Fill in the defaults that depend on something else."""
    device, broker = values["device",], values["broker",]
    if device["name"] is None:
        device["name"] = host_name
        if not topics.is_name(host_name):
            source.fault(("device",), f'needs a name: the host name "{host_name}" cannot be one')
            device["name"] = "unnamed"
    if broker["client_id"] is None:
        broker["client_id"] = f"limpet-{device['name']}"
    if broker["port"] == 0:
        broker["port"] = 8883 if values["broker", "tls"]["enabled"] else 1883
    return Device(**device)


def _cross_check(source: toml.Source, values: dict[tuple[str, ...], dict[str, Any]]) -> None:
    """Refuse what is right key by key and wrong together."""
    broker, tls, limits = values["broker",], values["broker", "tls"], values["limits",]

    def refuse_if(condition: bool, where: Where, fault: str) -> None:
        if condition:
            source.fault(where, fault)

    refuse_if(
        broker["password_file"] is not None and broker["username"] is None,
        ("broker", "password_file"),
        "has no effect without broker.username",
    )
    refuse_if(broker["host"] == "", ("broker", "host"), "must not be empty")
    for name in ("ca_file", "server_name"):
        refuse_if(
            tls[name] is not None and not tls["enabled"],
            ("broker", "tls", name),
            "has no effect while broker.tls.enabled is false",
        )
    # A compaction copies everything live into half a segment and must leave room to go on.
    refuse_if(
        limits["segment_bytes"] // 2 < limits["ids"] * ID_BYTES + TASK_BYTES,
        ("limits", "segment"),
        "must hold, in its half, 96 bytes for each of limits.ids and 128KiB for a task",
    )
    refuse_if(
        limits["steps"] < limits["tasks"],
        ("limits", "steps"),
        "must be at least limits.tasks, as every task has a step",
    )
    refuse_if(
        limits["ids"] < limits["tasks"],
        ("limits", "ids"),
        "must be at least limits.tasks, as every task's id is remembered",
    )
