"""The agent's side of the local socket: one line of JSON asks, lines answer.

Decides who may ask (the socket's owner and group), how many at a time, and who is told what. Knows
no answer and no document. Nothing here blocks: who writes slowly waits, who reads slowly is cut
off.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from limpet import topics
from limpet.codec import MESSAGE_BYTES_MAX
from limpet.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from limpet import config
    from limpet.agent import Told

CLIENTS_MAX = 8
# Of these, as many may wait for what is yet to come; the others find a place for short questions.
FOLLOWERS_MAX = 6
REQUEST_BYTES_MAX = 1024
RECEIVE_BYTES = 16 * 1024
# Who has not read so much of what was said before is cut off when there is more to say.
UNREAD_BYTES_MAX = 64 * 1024
MODE = 0o600
MODE_WITH_GROUP = 0o660
# `struct ucred`: process, user and group of the peer.
CREDENTIALS = struct.Struct("3i")
WATCH = "watch"
EVERY_TASK = "*"


class Asked(NamedTuple):
    """A message by the socket: whose it is, `task` or `cancel`, and its bytes as by the broker."""

    client: int
    uid: int
    request: str
    message: bytes


class _Client:
    """One connection: it asks once, is told what comes of that, and is closed."""

    __slots__ = ("asked", "follows", "gone", "missing", "number", "request", "socket", "unread")

    def __init__(self, number: int, accepted: socket.socket) -> None:
        self.number = number
        self.socket = accepted
        # What was received of its line, and then of its message.
        self.request = bytearray()
        # The kind of message that it sends, and how many bytes of that are still to come.
        self.asked = ""
        self.missing = 0
        # The task it follows, `source/id` or EVERY_TASK; None once there is no more to say.
        self.follows: str | None = ""
        self.unread = bytearray()
        self.gone = False

    @property
    def waits(self) -> bool:
        """Whether it takes the place of one that follows."""
        return bool(self.asked) and self.follows is not None


class Local:
    """Listens while a `with` lasts; questions are names of `answers`, `watch` and `ABOUT_TASKS`."""

    __slots__ = ("_alone", "_answers", "_asked", "_clients", "_listener", "_number", "_path")

    def __init__(
        self, settings: config.Socket, answers: dict[str, Callable[[], dict[str, object]]]
    ) -> None:
        """Bind the socket, in place of one that an ended agent left; ConfigError if impossible."""
        self._answers = answers
        self._asked: list[Asked] = []
        self._clients: dict[int, _Client] = {}
        self._number = 0
        self._path = settings.path
        try:
            self._listener = _listen(settings)
        except (OSError, KeyError) as error:
            fault = f"cannot listen on {settings.path}: {error} (the agent does not start)"
            raise ConfigError([fault]) from error
        # What is wanted while nobody is connected, which is asked for in every turn.
        self._alone = {self._listener.fileno(): select.POLLIN}

    def __enter__(self) -> Local:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for client in self._clients.values():
            client.socket.close()
        self._listener.close()
        os.unlink(self._path)

    def wanted(self) -> dict[int, int]:
        """Return the descriptors to wait for and their events."""
        if not self._clients:
            return self._alone
        wanted = {
            fd: select.POLLIN | (select.POLLOUT if client.unread else 0)
            for fd, client in self._clients.items()
        }
        if len(self._clients) < CLIENTS_MAX:
            wanted |= self._alone
        return wanted

    def serve(self, ready: dict[int, int]) -> None:
        """Take new clients, answer whole requests, and send what waits to be read."""
        if not self._clients and self._listener.fileno() not in ready:
            return
        for client in [self._clients[fd] for fd in ready if fd in self._clients]:
            if ready[client.socket.fileno()] & ~select.POLLOUT:
                self._read(client)
            _write(client)
        self._sweep()
        if self._listener.fileno() in ready:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            accepted.setblocking(False)
            self._number += 1
            self._clients[accepted.fileno()] = _Client(self._number, accepted)

    def take(self) -> list[Asked]:
        """Return the messages that have come whole since the last call."""
        taken, self._asked = self._asked, []
        return taken

    def tell(self, told: list[Told]) -> None:
        """Send answers to whom they are for, and reports to whoever follows their task."""
        if not self._clients:
            return
        for one in told:
            for client in self._clients.values():
                if one.client is None and client.follows not in (one.task, EVERY_TASK):
                    continue
                if one.client not in (None, client.number):
                    continue
                _say(client, one.payload)
                if client.follows != EVERY_TASK:
                    client.follows = None if one.last else one.task
                _write(client)
        self._sweep()

    def _sweep(self) -> None:
        for fd in [fd for fd, client in self._clients.items() if client.gone]:
            self._clients.pop(fd).socket.close()

    def _read(self, client: _Client) -> None:
        """Read on in a request; whoever goes, or says more than one, is let go."""
        try:
            received = client.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received or client.follows is None or (client.asked and not client.missing):
            client.gone = True
            return
        client.request += received
        if not client.asked:
            line, end, rest = client.request.partition(b"\n")
            if len(line) > REQUEST_BYTES_MAX:
                client.gone = True
            if client.gone or not end:
                return
            client.request = rest
            self._begin(client, bytes(line))
        if client.missing and len(client.request) >= client.missing:
            message = bytes(client.request[: client.missing])
            client.missing, client.request = 0, bytearray()
            self._asked.append(Asked(client.number, _uid(client), client.asked, message))

    def _begin(self, client: _Client, line: bytes) -> None:
        """Answer a question, or expect the message that it announces."""
        try:
            asked: dict[str, Any] = orjson.loads(line)
            question = asked["ask"]
            if question in self._answers:
                self._end(client, self._answers[question]())
                return
            size_bytes = 0 if question == WATCH else _announced(question, asked["bytes"])
        except (ValueError, KeyError, TypeError):
            known = ", ".join((*self._answers, WATCH, *topics.ABOUT_TASKS))
            fault = f'ask one of {known}, as {{"ask": ...}}; the last two with their "bytes"'
            self._end(client, {"error": f"cannot answer: {fault}"})
            return
        if sum(other.waits for other in self._clients.values()) >= FOLLOWERS_MAX:
            fault = f"{FOLLOWERS_MAX} clients wait already (ask again)"
            self._end(client, {"error": f"cannot answer: {fault}"})
            return
        client.asked, client.missing = question, size_bytes
        if question == WATCH:
            client.follows = EVERY_TASK

    def _end(self, client: _Client, answer: dict[str, object]) -> None:
        client.follows = None
        _say(client, orjson.dumps(answer))


def _announced(question: object, size_bytes: object) -> int:
    """Return how many bytes of a message are to come; ValueError if it is none that we take."""
    if question not in topics.ABOUT_TASKS:
        raise ValueError
    if not isinstance(size_bytes, int) or not 0 < size_bytes <= MESSAGE_BYTES_MAX:
        raise ValueError
    return size_bytes


def _say(client: _Client, line: bytes) -> None:
    """Have a line sent; whoever has left too much unread is cut off."""
    if len(client.unread) > UNREAD_BYTES_MAX:
        client.gone = True
        return
    client.unread += line + b"\n"


def _write(client: _Client) -> None:
    """Send what the client's end has room for; all said and nothing left unread ends it."""
    try:
        if client.unread:
            del client.unread[: client.socket.send(client.unread)]
    except BlockingIOError:
        return
    except OSError:
        client.gone = True
    if client.follows is None and not client.unread:
        client.gone = True


def _uid(client: _Client) -> int:
    """Return the user who has connected, as the kernel says."""
    size_bytes = CREDENTIALS.size
    said = client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size_bytes)
    uid: int = CREDENTIALS.unpack(said)[1]
    return uid


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
