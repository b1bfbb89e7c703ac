"""limpet: from the environment it is developed in, and as one file where that has been made."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

from brokers import Broker
from fleet import AGENT, CONFIG, POLICY

import targets
from limpet.codec import frame

SOURCE = "bench"
FROZEN = targets.ROOT / "dist" / "limpet-x86_64"
# All that the core can take: what is measured is the agent, not its refusals.
LIMITS = """\
[limits]
segment = "16MiB"
tasks = 1024
steps = 4096
attempts = {attempts}
ids = 4096
{more}
"""


class Limpet(targets.Process):
    """From the virtual environment."""

    name = "limpet"
    durable = True
    kinds = frozenset({targets.EXEC, targets.THREE, targets.NOOP})
    limits = LIMITS
    # As many as the load has under way: nobody else has a bound.
    attempts = 64
    device = ""
    more = ""
    storm = ""

    def __init__(self, directory: Path, broker: Broker) -> None:
        super().__init__(directory)
        (directory / "tools.d").mkdir()
        (directory / "boot_id").write_text("bench")
        (directory / "policy.toml").write_text(POLICY.replace('source = "ops"', 'source = "*"'))
        settings = CONFIG.format(
            directory=directory,
            host="localhost" if broker.ca_file else "127.0.0.1",
            port=broker.port,
            protocol="auto",
            more="",
        )
        before = settings[settings.index("[limits]") : settings.index("[policy]")]
        limits = self.limits.format(attempts=self.attempts, more=self.more)
        settings = settings.replace(before, limits).replace('"debug"', '"warning"')
        settings = settings.replace('keepalive = "5s"', 'keepalive = "60s"')
        settings += broker.tls_settings()
        settings = settings.replace("[device]\n", f"[device]\n{self.device}")
        self.config = directory / "limpet.toml"
        self.config.write_text(settings)

    @property
    def state(self) -> Path:
        """Where its journal lies."""
        return self.directory / "state"

    def start(self) -> None:
        self.launch([sys.executable, "-c", self.storm + AGENT, str(self.config)])

    def command(self, kind: str, argv: list[str]) -> targets.Command:
        return self.of_steps(steps(kind, argv))

    def waiting(self) -> int:
        """Return how many of its tasks wait for their next attempt."""
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(str(self.directory / "limpet.sock"))
            asking.sendall(b'{"ask": "status"}\n')
            with asking.makefile("rb") as told:
                tasks = json.loads(told.read())["tasks"]
        return sum(task["state"] == "backoff" for task in tasks)

    def of_steps(self, of: list[dict[str, Any]], report: str = "result") -> targets.Command:
        """Return the command for a task of these steps, which reports what everybody else does."""
        document = {
            **{"limpet": 1, "id": "@ID@", "expires_at": "@EXPIRES@"},
            **{"report": report, "steps": of},
        }
        return targets.Command(
            send=f"limpet/kitchen/task/{SOURCE}",
            hear=[f"limpet/kitchen/{kind}/{SOURCE}" for kind in ("answer", "result")],
            result="limpet/kitchen/result/",
            success='"outcome":"succeeded"',
            template=frame(json.dumps(document).encode()).decode(),
        )


def steps(kind: str, argv: list[str]) -> list[dict[str, Any]]:
    """Return the steps of a task of `kind`."""
    if kind == targets.NOOP:
        return [{"name": "s", "tool": "sleep", "input": {"duration": "0s"}}]
    count = {targets.EXEC: 1, targets.THREE: 3}[kind]
    return [
        {"name": f"s{number}", "tool": "exec", "input": {"argv": argv}} for number in range(count)
    ]


class AsShipped(Limpet):
    """With the limits that it has where nobody sets any: what memory is measured with."""

    limits = ""


class Roomy(Limpet):
    """With a journal that has room for a thousand live tasks: each sets 17 KiB aside."""

    limits = LIMITS.replace("16MiB", "48MiB")


class Frozen(Limpet):
    """The single executable."""

    name = "limpet, one file"

    def start(self) -> None:
        self.launch([str(FROZEN), "run", "--config", str(self.config)])


class Stormy(Limpet):
    """While Python suffers, with as many deadlines at a time as there can be."""

    name = "limpet under the storm"
    slowness = 1
    # The storm's heap is the agent's memory.
    more = '[limits.memory]\nagent = "1GiB"'
    storm = targets.STORM

    def deadline(self, argv: list[str], before_ms: int) -> tuple[targets.Command, int]:
        """Return the command for a child that overstays, and what is added to its milliseconds."""
        of = {
            **steps(targets.EXEC, argv)[0],
            "start_to_close": f"{before_ms}ms",
            "grace": "@MS@ms",
        }
        return self.of_steps([of]), 0


class StormyRealtime(Stormy):
    """The same with the timer's thread in SCHED_FIFO."""

    name = "limpet under the storm, realtime"
    device = "realtime = true\n"


def known() -> list[type[targets.Target]]:
    """Return what there is of it."""
    return [Limpet, Frozen] if FROZEN.exists() else [Limpet]


def as_shipped(kind: type[targets.Target]) -> type[targets.Target]:
    """Return the variant of a target that a user has who sets no limits."""
    return AsShipped if kind is Limpet else kind
