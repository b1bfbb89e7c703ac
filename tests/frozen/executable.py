"""An agent that is the single executable, for the tests of it and for measuring."""

from __future__ import annotations

import os
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


def unread_copy(file: Path, directory: Path) -> Path:
    """Return a copy of `file` that the page cache does not hold."""
    copy = directory / file.name
    copy.write_bytes(file.read_bytes())
    copy.chmod(0o755)
    with copy.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return copy
