"""The files of a device: written for the first time, read strictly, shown as the core sees them.

Decides what a first configuration holds. Knows no core and no broker.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from limpet import app, config, policy
from limpet.controller import present
from limpet.controller.document import FileError
from limpet.errors import EXIT_OK

if TYPE_CHECKING:
    from limpet.config import Config
    from limpet.controller.terminal import Screen

# Where time services that tell leave their mark; the core looks at the same file.
SYNCHRONISED = "/run/systemd/timesync/synchronized"

CONFIG = """\
# The smallest useful configuration; `limpet config check` says what is wrong with it.

[device]
name = "{name}"
state_directory = "{directory}/state"

[broker]
host = "localhost"

[policy]
file = "{directory}/policy.toml"
tools_directory = "{directory}/tools.d"

# `limpet status` asks here.
[socket]
path = "{directory}/limpet.sock"
"""
SYSTEM_CONFIG = """\
# What is left out has its default; `limpet config check` says what is wrong with it. Files have
# their usual places: the policy and tools.d beside this file, the state in /var/lib/limpet.

[device]
# The device's name in topics; empty takes the host's name.
name = ""

[broker]
host = "localhost"
# For TLS: enabled = true below, and a file with the certificates to trust if not the system's.
username = ""
password_file = ""

[broker.tls]
enabled = false
ca_file = ""
"""
POLICY = """\
# Who may run what. Nothing is allowed unless a rule here says so. "*" stands for every tool but
# exec and shell, which run what a task says; name those only where you mean it.
{rule}
# What http and fetch may contact, as "host:port".
[hosts]
allow = []

# A task says until when it may start. A device whose clock nobody has confirmed since it started
# cannot judge that: "refuse" such tasks, or "accept" them by whatever the clock says.
[clock]
untrusted = "{untrusted}"
"""
RULE = """
[[allow]]
source = "{login}"
tools = ["uptime", "sleep", "hash", "read"]
"""
# What a device begins with that somebody else will command: a rule, and nothing that it allows.
NO_RULE = """#
#   [[allow]]
#   source = "ops"
#   tools = ["sleep", "hash"]
"""
TOOL = """\
# A tool: a name, a program and its typed parameters. A task names the tool, never the program.

name = "uptime"
argv = ["/usr/bin/uptime", { param = "form" }]
# Asking twice does no harm: "any" lets a step say what happens to it after a power cut.
on_interruption = "any"

[params.form]
type = "choice"
choices = ["--pretty", "--since"]
default = "--pretty"

[ceilings]
start_to_close = "1m"
memory = "32MiB"
"""
TASK = """\
{"steps": [{"name": "ask", "tool": "uptime", "input": {"form": "--since"}}]}
"""


def init(screen: Screen, directory: str, login: str) -> int:
    """Write configuration, policy, a tool and a task below `directory`; nothing is overwritten."""
    root = os.path.abspath(directory)
    untrusted = "refuse" if os.path.exists(SYNCHRONISED) else "accept"
    name = os.uname().nodename.partition(".")[0]
    files = {
        "limpet.toml": CONFIG.format(name=name, directory=root),
        "policy.toml": POLICY.format(rule=RULE.format(login=login), untrusted=untrusted),
        "tools.d/uptime.toml": TOOL,
        "task.json": TASK,
    }
    _write(screen, root, ("", "tools.d", "state"), files)
    screen.say("next, with a broker on this machine:")
    screen.say(f"  limpet run --config {root}/limpet.toml")
    screen.say(f"  limpet submit {root}/task.json -d {name} --wait")
    return EXIT_OK


def init_system(screen: Screen, directory: str) -> int:
    """Write the files of a device that others command below `directory`: nothing is allowed yet.

    Packages and images are made with it, so they begin as a device does that was set up by hand.
    """
    root = os.path.abspath(directory)
    files = {
        "limpet.toml": SYSTEM_CONFIG,
        "policy.toml": POLICY.format(rule=NO_RULE, untrusted="refuse"),
    }
    _write(screen, root, ("", "tools.d"), files)
    screen.say("next: name the broker in limpet.toml, and allow something in policy.toml")
    return EXIT_OK


def _write(screen: Screen, root: str, folders: tuple[str, ...], files: dict[str, str]) -> None:
    """Write `files` below `root`; FileError if one is there already."""
    for file in files:
        if os.path.lexists(os.path.join(root, file)):
            raise FileError(f"cannot write {root}/{file}: it is there (nothing was written)")
    try:
        for folder in folders:
            os.makedirs(os.path.join(root, folder), exist_ok=True)
        for file, content in files.items():
            with open(os.path.join(root, file), "x", encoding="utf-8") as stream:
                stream.write(content)
    except OSError as error:
        raise FileError(f"cannot write {root}: {error.strerror} (see what is there)") from None
    for file in files:
        screen.record({"kind": "file", "path": f"{root}/{file}"})
        screen.say(f"wrote {root}/{file}")


def check(screen: Screen, file: str) -> int:
    """Read the configuration `file` and the policy it names; ConfigError holds all mistakes."""
    read = config.load(file)
    table = _policy(read).table
    tools = sum(tool["origin"] != "built in" for tool in table["tools"].values())
    count = {"rules": len(table["allow"]), "tools": tools}
    screen.record({"kind": "check", "ok": True, "device": read.device.name, **count})
    screen.say(f"{file}: ok, device {read.device.name}")
    screen.say(f"{read.policy.file}: ok, rules: {count['rules']}, declared tools: {tools}")
    return EXIT_OK


def show_policy(screen: Screen, file: str) -> int:
    """Show each rule and each tool, with the line that says so."""
    read = _policy(config.load(file))
    table = read.table
    rules = [
        [rule["source"], present.cell(", ".join(rule["tools"])), rule["origin"]]
        for rule in table["allow"]
    ]
    tools = [
        [name, tool["executor"], ", ".join(tool["params"]) or "-", tool["origin"]]
        for name, tool in sorted(table["tools"].items())
    ]
    operators = list(read.operators)
    screen.record({"kind": "policy", "operators": operators, **table})
    for header, rows in (
        (["SOURCE", "MAY USE", "BECAUSE OF"], rules),
        (["TOOL", "RUN BY", "PARAMETERS", "DECLARED IN"], tools),
    ):
        for line in present.table(header, rows):
            screen.say(line)
        screen.say()
    screen.say(f"may cancel any task: {', '.join(operators) or 'nobody'}")
    return EXIT_OK


def _policy(read: Config) -> policy.Policy:
    return policy.load(read.policy.file, read.policy.tools_directory, app.site(read))
