"""A bad network on loopback: what lies between an agent and its broker, cut and slowed at will."""

from __future__ import annotations

import select
import socket
import threading
import time

CHUNK_BYTES = 64 * 1024
LOOK_S = 0.05


class Proxy:
    """Forwards every connection to `port_behind`, until told to be unkind.

    Whoever assigns another port leads the connections there that come from then on.
    """

    def __init__(self, port_behind: int) -> None:
        self.port_behind = port_behind
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._delay_s = 0.0
        self._deaf: set[socket.socket] = set()
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Cut everything and take no more."""
        self._closed = True
        self._thread.join()
        self.cut()
        self._listener.close()

    def cut(self) -> None:
        """End every connection at both ends."""
        for pair in list(self._pairs):
            self._end(pair)

    def half_close(self) -> None:
        """Forward nothing from the broker any more, on the connections that there are now."""
        self._deaf.update(behind for _, behind in self._pairs)

    def delay(self, seconds: float) -> None:
        """Hold back each piece of every connection for so long."""
        self._delay_s = seconds

    def _run(self) -> None:
        while not self._closed:
            ends = [end for pair in self._pairs for end in pair if end not in self._deaf]
            ready, _, _ = select.select([self._listener, *ends], [], [], LOOK_S)
            if ready and self._delay_s:
                time.sleep(self._delay_s)
            for end in ready:
                if end is self._listener:
                    self._accept()
                else:
                    self._forward(end)

    def _accept(self) -> None:
        front, _ = self._listener.accept()
        try:
            behind = socket.create_connection(("127.0.0.1", self.port_behind), 1)
        except OSError:
            front.close()
            return
        self._pairs.append((front, behind))

    def _forward(self, end: socket.socket) -> None:
        pair = next((pair for pair in self._pairs if end in pair), None)
        if pair is None:
            return
        other = pair[0] if end is pair[1] else pair[1]
        try:
            data = end.recv(CHUNK_BYTES)
            if data:
                other.sendall(data)
                return
        except OSError:
            pass
        self._end(pair)

    def _end(self, pair: tuple[socket.socket, socket.socket]) -> None:
        if pair in self._pairs:
            self._pairs.remove(pair)
        self._deaf.discard(pair[1])
        for end in pair:
            end.close()
