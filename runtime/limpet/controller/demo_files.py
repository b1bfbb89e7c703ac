"""What the demonstration consists of: the device's files and tools, and the tasks sent to it.

Decides what is shown. Knows no process and no broker; every value that differs per machine is an
argument.
"""

from __future__ import annotations

import json
from typing import Any

DEVICE, SOURCE = "demo-device", "demo"

CONFIG = """\
[device]
name = "demo-device"
state_directory = "{root}/state"

[broker]
host = "127.0.0.1"
port = {port}
# The demonstration's broker speaks this version.
protocol = "3.1.1"

[policy]
file = "{root}/policy.toml"
tools_directory = "{root}/tools.d"

[socket]
path = "{root}/limpet.sock"
"""

# Neither exec nor shell: a task can only name what the device declares.
POLICY = """\
[[allow]]
source = "demo"
tools = ["facts", "get", "flaky", "stubborn", "farewell", "hash", "sleep"]

[clock]
untrusted = "accept"
"""

TOOL = """\
name = {name}
argv = {argv}
on_interruption = "any"

{params}
"""

URL_PARAM = """\
[params.url]
type = "text"
alphabet = "a-zA-Z0-9:/._-"
maximum_length = 128
"""

FACTS = """\
import json, os, platform
report = os.fdopen(3, "w")
facts = {"kernel": platform.release(), "machine": platform.machine(), "cores": os.cpu_count()}
print(json.dumps({"result": facts}), file=report, flush=True)
"""
GET = """\
import json, os, socket, sys
from urllib.parse import urlsplit
report = os.fdopen(3, "w")
url = urlsplit(sys.argv[1])
with socket.create_connection((url.hostname, url.port), timeout=5) as connection:
    connection.sendall(f"GET {url.path} HTTP/1.0\\r\\n\\r\\n".encode())
    _, _, body = connection.makefile("rb").read(1 << 20).partition(b"\\r\\n\\r\\n")
with open("payload", "wb") as target:
    size = target.write(body)
print(json.dumps({"progress": {"bytes": size}}), file=report, flush=True)
print(json.dumps({"result": {"path": os.path.abspath("payload"), "bytes": size}}), file=report)
"""
FLAKY = """\
if [ -e been-here ]; then echo "second try: fine"; exit 0; fi
touch been-here
echo "first try: not today" >&2
exit 3
"""
# It will not go, and it has a child that would stay behind.
STUBBORN = """\
trap '' TERM
sleep 300 &
while :; do sleep 1; done
"""
FAREWELL = 'echo "cleaned up, whatever happened before"\n'

# What a newcomer should look for, per step of the first task.
CAPTIONS = {
    "facts": "a declared tool reports a result as JSON, through descriptor 3",
    "get": "fetches a file from a server on this machine",
    "check": "hashes the file that `get` named: a reference from step to step",
    "flaky": "fails at first, and is tried again",
    "stubborn": "ignores TERM; its deadline ends it, and the child it started",
    "bye": "`finally`: runs whatever happened before",
}


def device_files(root: str, port: int, worker: list[str]) -> dict[str, str]:
    """Return the device's files below `root` by their relative paths.

    `port` is the broker's, `worker` what runs a Python file.
    """
    tools: dict[str, tuple[list[Any], str, str]] = {
        "facts": ([*worker, f"{root}/facts.py"], "", FACTS),
        "get": ([*worker, f"{root}/get.py", {"param": "url"}], URL_PARAM, GET),
        "flaky": (["/bin/sh", f"{root}/flaky.sh"], "", FLAKY),
        "stubborn": (["/bin/sh", f"{root}/stubborn.sh"], "", STUBBORN),
        "farewell": (["/bin/sh", f"{root}/farewell.sh"], "", FAREWELL),
    }
    files = {
        "limpet.toml": CONFIG.format(root=root, port=port),
        "policy.toml": POLICY,
    }
    for name, (argv, params, script) in tools.items():
        suffix = "py" if argv[0] == worker[0] else "sh"
        files[f"{name}.{suffix}"] = script
        files[f"tools.d/{name}.toml"] = TOOL.format(
            name=json.dumps(name), argv=_toml_list(argv), params=params
        )
    return files


def first_task(url: str) -> dict[str, Any]:
    """Return the task with all that is to be seen; `url` serves the file."""
    return {
        "id": "demo-1",
        "schedule_to_close": "40s",
        "steps": [
            {"name": "facts", "tool": "facts"},
            {"name": "get", "tool": "get", "input": {"url": url}, "start_to_close": "10s"},
            {"name": "check", "tool": "hash", "input": {"path": "${steps.get.result.path}"}},
            {
                "name": "flaky",
                "tool": "flaky",
                "on_interruption": "rerun",
                "retry": {"maximum_attempts": 3, "initial_interval": "300ms", "jitter": 0},
            },
            {
                "name": "stubborn",
                "tool": "stubborn",
                "start_to_close": "1s",
                "grace": "500ms",
                "allow_failure": True,
            },
        ],
        "finally": [{"name": "bye", "tool": "farewell"}],
    }


def second_task() -> dict[str, Any]:
    """Return the task during which the agent is killed: its step may run again."""
    nap = {"name": "nap", "tool": "sleep", "input": {"duration": "2s"}, "on_interruption": "rerun"}
    return {"id": "demo-2", "steps": [nap, {"name": "facts", "tool": "facts"}]}


def third_task() -> dict[str, Any]:
    """Return a task that the device's policy does not allow."""
    return {"id": "demo-3", "steps": [{"name": "a", "tool": "shell", "input": {"script": "id"}}]}


def _toml_list(values: list[Any]) -> str:
    shown = [
        json.dumps(value) if isinstance(value, str) else f'{{ param = "{value["param"]}" }}'
        for value in values
    ]
    return f"[{', '.join(shown)}]"
