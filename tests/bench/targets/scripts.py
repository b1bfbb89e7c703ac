"""The two scripts in Python: the one that everybody writes first, and the one after it."""

from __future__ import annotations

from pathlib import Path

from brokers import Broker

import targets

NAIVE = targets.ROOT / "tests" / "e2e" / "naive.py"
CONCURRENT = Path(__file__).with_name("concurrent_agent.py")


class Naive(targets.Process):
    """paho, json and subprocess: one task at a time, and nothing durable."""

    name = "naive"
    durable = False
    kinds = frozenset({targets.EXEC, targets.THREE})
    program = NAIVE
    stormy = False

    def __init__(self, directory: Path, broker: Broker) -> None:
        super().__init__(directory)
        self._port = broker.port

    def start(self) -> None:
        argv = targets.script(self.program, self.stormy, str(self._port))
        self.launch(argv)

    def command(self, kind: str, argv: list[str]) -> targets.Command:
        return targets.plain(kind, argv)


class Asyncio(Naive):
    """aiomqtt, orjson and asyncio: tasks beside one another, and nothing durable."""

    name = "asyncio"
    kinds = frozenset({targets.EXEC, targets.THREE, targets.NOOP})
    program = CONCURRENT


class StormyAsyncio(Asyncio):
    """The same while Python suffers; its deadlines are `before_ms` and then some."""

    name = "asyncio under the storm"
    # It comes to one task a second: so many times fewer of them fit into the same minutes.
    slowness = 10
    stormy = True

    def deadline(self, argv: list[str], before_ms: int) -> tuple[targets.Command, int]:
        """Return the command for a child that overstays, and what is added to its milliseconds."""
        return targets.plain(targets.EXEC, argv, timeout="@TIMEOUT@"), before_ms
