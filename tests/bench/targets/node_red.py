"""Node-RED: what people use on a board who write no code. MQTT in, exec, MQTT out."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from brokers import Broker

import targets

VERSION = "4.1.15"
INSTALLED = targets.ROOT / "build" / "node-red"
PROGRAM = INSTALLED / "node_modules" / "node-red" / "red.js"
QUIET = "module.exports = { uiPort: 0, httpAdminRoot: false, httpNodeRoot: false, logging: {} };\n"

# The command line is the payload; the task and what is left of it travel beside it.
TAKE = """\
msg.task = msg.payload; msg.step = 0;
msg.payload = msg.task.steps[0].argv.join(' ');
return msg;"""
# One output is the next step, the other the report.
TELL = """\
const good = msg.payload.code === 0;
msg.step += 1;
if (good && msg.step < msg.task.steps.length) {
    msg.payload = msg.task.steps[msg.step].argv.join(' ');
    return [msg, null];
}
return [null, {payload: {id: msg.task.id, outcome: good ? 'succeeded' : 'failed'}}];"""


def flow(port: int) -> list[dict[str, Any]]:
    """Return the nodes and their wires."""
    broker = {
        "id": "broker",
        "type": "mqtt-broker",
        "broker": "127.0.0.1",
        "port": str(port),
        "clientid": "kitchen",
        "cleansession": True,
        "protocolVersion": "4",
        "keepalive": "60",
    }
    on_tab = {"z": "tab", "x": 0, "y": 0}
    mqtt = {**on_tab, "qos": "1", "broker": "broker"}
    return [
        {"id": "tab", "type": "tab", "label": "agent"},
        broker,
        {**mqtt, "id": "in", "type": "mqtt in", "topic": "fleet/kitchen/task", "datatype": "json",
         "wires": [["take"]]},
        {**on_tab, "id": "take", "type": "function", "func": TAKE, "outputs": 1,
         "wires": [["exec"]]},
        {**on_tab, "id": "exec", "type": "exec", "command": "exec", "addpay": "payload",
         "append": "", "useSpawn": "false", "timer": "", "oldrc": False,
         "wires": [[], [], ["tell"]]},
        {**on_tab, "id": "tell", "type": "function", "func": TELL, "outputs": 2,
         "wires": [["exec"], ["out"]]},
        {**mqtt, "id": "out", "type": "mqtt out", "topic": "fleet/kitchen/result", "wires": []},
    ]  # fmt: skip


class NodeRed(targets.Process):
    """Its flow, without its editor."""

    name = "node-red"
    durable = False
    kinds = frozenset({targets.EXEC, targets.THREE})

    def __init__(self, directory: Path, broker: Broker) -> None:
        super().__init__(directory)
        (directory / "flow.json").write_text(json.dumps(flow(broker.port)))
        (directory / "settings.js").write_text(QUIET)

    def start(self) -> None:
        files = ["--settings", "settings.js", "--userDir", str(self.directory), "flow.json"]
        self.launch(["node", str(PROGRAM), *files])

    def command(self, kind: str, argv: list[str]) -> targets.Command:
        return targets.plain(kind, argv)


def known() -> list[type[targets.Target]]:
    """Return it, installed."""
    if not PROGRAM.exists():
        INSTALLED.mkdir(parents=True, exist_ok=True)
        argv = ["npm", "install", "--prefix", str(INSTALLED), "--no-audit", "--no-fund"]
        subprocess.run([*argv, f"node-red@{VERSION}"], check=True)
    return [NodeRed]
