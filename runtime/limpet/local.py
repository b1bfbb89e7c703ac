"""The agent's side of the local socket: one line of JSON asks, one line answers.

Decides who may ask (the socket's owner and group) and how many at a time. Knows no answer. Nothing
here blocks: who writes slowly waits, who reads slowly is cut off.
"""

from __future__ import annotations

import os
import select
import socket
from typing import TYPE_CHECKING

import orjson

from limpet.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from limpet import config

CLIENTS_MAX = 4
REQUEST_BYTES_MAX = 1024
MODE = 0o600
MODE_WITH_GROUP = 0o660


class Local:
    """Listens while a `with` lasts; questions are names of `answers`."""

    __slots__ = ("_answers", "_clients", "_listener", "_path")

    def __init__(
        self, settings: config.Socket, answers: dict[str, Callable[[], dict[str, object]]]
    ) -> None:
        """Bind the socket, in place of one that an ended agent left; ConfigError if impossible."""
        self._answers = answers
        self._clients: dict[int, tuple[socket.socket, bytearray]] = {}
        self._path = settings.path
        try:
            self._listener = _listen(settings)
        except (OSError, KeyError) as error:
            fault = f"cannot listen on {settings.path}: {error} (the agent does not start)"
            raise ConfigError([fault]) from error

    def __enter__(self) -> Local:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for client, _ in self._clients.values():
            client.close()
        self._listener.close()
        os.unlink(self._path)

    def wanted(self) -> dict[int, int]:
        """Return the descriptors to wait for and their events."""
        wanted = dict.fromkeys(self._clients, select.POLLIN)
        if len(self._clients) < CLIENTS_MAX:
            wanted[self._listener.fileno()] = select.POLLIN
        return wanted

    def serve(self, ready: dict[int, int]) -> None:
        """Take new clients and answer whole requests."""
        for fd in [fd for fd in self._clients if fd in ready]:
            if not self._read(*self._clients[fd]):
                self._clients.pop(fd)[0].close()
        if self._listener.fileno() in ready:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setblocking(False)
            self._clients[client.fileno()] = (client, bytearray())

    def _read(self, client: socket.socket, request: bytearray) -> bool:
        """Read and answer; False once there is no more to say."""
        try:
            received = client.recv(REQUEST_BYTES_MAX)
            request += received
            line, end, _ = request.partition(b"\n")
            if not received or len(request) > REQUEST_BYTES_MAX:
                return False
            if end:
                client.send(self._answer(bytes(line)) + b"\n")
            return not end
        except BlockingIOError:
            return True
        except OSError:
            return False

    def _answer(self, line: bytes) -> bytes:
        try:
            asked = orjson.loads(line)["ask"]
            answer = self._answers[asked]
        except (ValueError, KeyError, TypeError):
            known = ", ".join(self._answers)
            return orjson.dumps({"error": f'cannot answer: ask one of {known}, as {{"ask": ...}}'})
        return orjson.dumps(answer())


def _listen(settings: config.Socket) -> socket.socket:
    """Bind and listen; the file's mode is set before anyone can connect."""
    directory = os.path.dirname(settings.path)
    os.makedirs(directory, exist_ok=True)
    if os.path.exists(settings.path):
        os.unlink(settings.path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listener.setblocking(False)
    listener.bind(settings.path)
    mode = MODE
    if settings.group is not None:
        import grp

        os.chown(settings.path, -1, grp.getgrnam(settings.group).gr_gid)
        mode = MODE_WITH_GROUP
    os.chmod(settings.path, mode)
    listener.listen(CLIENTS_MAX)
    return listener
