"""What the supervisor is told: ready, a status line, and that the loop still turns.

Speaks the datagrams of sd_notify(3) to NOTIFY_SOCKET. Knows nothing of what the agent does.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# What a drain takes after its patience: it stops what still runs, writes that down, says goodbye. A
# step with a longer grace is killed by the supervisor, as an interruption that the journal knows.
LADDER_MS = 60_000


class Health:
    """Notifies a supervisor, if there is one. Times are milliseconds of a steady clock."""

    __slots__ = ("_interval_ms", "_path", "_socket", "deadline_ms")

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Read NOTIFY_SOCKET and WATCHDOG_USEC; a watchdog is fed at half its time."""
        path = environment.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the abstract namespace.
        self._path = "\0" + path[1:] if path.startswith("@") else path
        self._socket: socket.socket | None = None
        if path:
            kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            self._socket = socket.socket(socket.AF_UNIX, kind)
        limit = environment.get("WATCHDOG_USEC", "")
        self._interval_ms = int(limit) // 2000 if path and limit.isdecimal() else 0
        # When `tick` is due, or None without a watchdog.
        self.deadline_ms: int | None = 0 if self._interval_ms else None

    def tick(self, now_ms: int) -> None:
        """Feed the watchdog if it is time to."""
        if self.deadline_ms is not None and now_ms >= self.deadline_ms:
            self.deadline_ms = now_ms + self._interval_ms
            self._tell("WATCHDOG=1")

    def ready(self, status: str) -> None:
        """Say that the agent has started."""
        self._tell(f"READY=1\nSTATUS={status}")

    def status(self, status: str) -> None:
        """Say in one line how the agent is."""
        self._tell(f"STATUS={status}")

    def stopping(self, patience_ms: int) -> None:
        """Say that the agent is about to end, and ask for the time that this may take."""
        extension = (patience_ms + LADDER_MS) * 1000
        self._tell(f"STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC={extension}")

    def _tell(self, text: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(text.encode(), self._path)
        except OSError:
            # A supervisor that does not listen is not a reason to do anything else.
            return
