"""The agent of this machine, over its local socket: questions, and a session without a broker.

Decides how a connection is read line by line. Knows what is asked by name only.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import orjson

from limpet import config, topics
from limpet.controller.context import Context
from limpet.controller.session import Heard, seconds
from limpet.errors import LinkError

if TYPE_CHECKING:
    from types import TracebackType

ANSWER_S = 5.0
RECEIVE_BYTES = 1 << 16
LINE_BYTES_MAX = 4 << 20


def context(file: str) -> Context:
    """Return the context of the agent that `file` configures; ConfigError holds all mistakes."""
    read = config.load(file)
    path = read.socket.path
    return Context(
        path, 0, read.device.prefix, topics.LOCAL, read.device.name, None, None, False, None, path
    )


def ask(file: str, question: str) -> dict[str, Any]:
    """Return what the agent that `file` configures answers; LinkError if none does."""
    return ask_agent(context(file), question)


def ask_agent(agent: Context, question: str) -> dict[str, Any]:
    """Return what the agent of this machine in the context `agent` answers."""
    with LocalSession(agent, question) as session:
        answer = session.read(ANSWER_S)
    if answer is None:
        raise LinkError(f"cannot ask the agent: no answer within {ANSWER_S:.0f} s (is it well?)")
    return answer


class LocalSession:
    """A connection that asks `question` at once, or else what is published; for one `with`."""

    def __init__(self, context: Context, question: str | None = None) -> None:
        self._context = context
        self._question = question
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._received = bytearray()

    def __enter__(self) -> LocalSession:
        try:
            self._socket.settimeout(ANSWER_S)
            self._socket.connect(self._context.host)
        except OSError as error:
            self._socket.close()
            raise self._fault(f"{error} (is it running?)") from None
        if self._question is not None:
            self._send(orjson.dumps({"ask": self._question}) + b"\n")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def subscribe(self, filters: list[str]) -> None:
        """Do nothing: who asks here is told what comes of it."""

    def publish(self, address: topics.Address, message: bytes, timeout_s: float) -> None:
        """Hand the agent a message, as the broker would; LinkError if it does not take it."""
        self._socket.settimeout(timeout_s)
        announced = {"ask": address.kind, "bytes": len(message)}
        self._send(orjson.dumps(announced) + b"\n" + message)

    def hear(self, timeout_s: float | None) -> Heard | None:
        """Return the next document, or None after `timeout_s` seconds without one."""
        said = self.read(timeout_s)
        if said is None:
            return None
        address = topics.Address(str(self._context.device), said["kind"], said["source"])
        return Heard(address, said)

    def read(self, timeout_s: float | None) -> dict[str, Any] | None:
        """Return the next line, or None after `timeout_s` seconds without one."""
        end = None if timeout_s is None else seconds() + timeout_s
        while b"\n" not in self._received:
            left = None if end is None else end - seconds()
            if left is not None and left <= 0:
                return None
            try:
                self._socket.settimeout(left)
                piece = self._socket.recv(RECEIVE_BYTES)
            except TimeoutError:
                return None
            except OSError as error:
                raise self._fault(f"{error} (limpet explain tells of its tasks)") from None
            if not piece or len(self._received) > LINE_BYTES_MAX:
                raise self._fault("it ended the connection (limpet explain tells of its tasks)")
            self._received += piece
        line, _, self._received = self._received.partition(b"\n")
        said: dict[str, Any] = orjson.loads(line)
        if "error" in said:
            raise LinkError(said["error"])
        return said

    def _send(self, message: bytes) -> None:
        try:
            self._socket.sendall(message)
        except OSError as error:
            raise self._fault(f"{error} (send it again: what it has, it answers known)") from None

    def _fault(self, cause: str) -> LinkError:
        return LinkError(f"cannot ask the agent at {self._context.host}: {cause}")
