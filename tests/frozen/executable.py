"""An agent that is the single executable, for the tests of it and for measuring."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from brokers import Broker
from fleet import Device

# Runs the file with the words given; `given` is its standard input.
Limpet = Callable[..., "subprocess.CompletedProcess[str]"]


class Frozen(Device):
    """An agent that `command` starts, with an empty environment."""

    def __init__(self, directory: Path, broker: Broker, command: list[str], more: str = "") -> None:
        super().__init__(directory, broker, broker.protocol, more)
        self.environment = {}
        self.command = command

    def run(self) -> None:
        """Start it."""
        self.start(inside=lambda *argv: [*self.command, "run", "--config", argv[-1]])
