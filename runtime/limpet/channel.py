"""Our end of the uplink's socket pair: one read serves many packets, and one write.

Decides how much is kept before it is read or written. Knows where a packet ends, and no packet.
"""

from __future__ import annotations

import socket

from limpet import packets

# One read from the kernel serves many small packets: paho alone makes four per message.
BUFFER_BYTES = 16 * 1024
READ_BYTES_MAX = 64 * 1024
# What is kept for one write; a result has at most half of it.
UNSENT_BYTES_MAX = 256 * 1024


class Channel:
    """A non-blocking stream socket with a buffer on either way."""

    __slots__ = ("_buffer", "_end", "_socket", "_start", "unsent")

    def __init__(self, fd: int) -> None:
        """Own the descriptor `fd`, a non-blocking stream socket."""
        self._socket = socket.socket(fileno=fd)
        self._buffer = bytearray(BUFFER_BYTES)
        self._start = self._end = 0
        # What waits for `flush`.
        self.unsent = bytearray()

    def packet(self) -> tuple[int, bytes] | None:
        """Take the next packet, its first byte and its body; None if not all of it is here yet."""
        if self._start == self._end:
            try:
                self._start, self._end = 0, self._socket.recv_into(self._buffer)
            except OSError:
                return None
        found = packets.bounds(self._buffer, self._start, self._end)
        if found is None:
            return None
        first, (body, end) = self._buffer[self._start], found
        self._start = end
        return first, bytes(self._buffer[body:end])

    def recv(self, size: int) -> bytes:
        """Return 1 to `size` bytes, or none at the end; BlockingIOError if there are none yet."""
        if self._start == self._end:
            if size >= BUFFER_BYTES:
                return self._socket.recv(min(size, READ_BYTES_MAX))
            self._start, self._end = 0, self._socket.recv_into(self._buffer)
        start = self._start
        self._start = min(start + size, self._end)
        return bytes(self._buffer[start : self._start])

    def pending(self) -> int:
        """Say how many bytes were received and not read; the descriptor does not show them."""
        return self._end - self._start

    def send(self, data: bytes) -> int:
        """Keep `data` for `flush` and return how much that is; BlockingIOError if too much is."""
        if len(self.unsent) > UNSENT_BYTES_MAX:
            raise BlockingIOError
        self.push(data)
        return len(data)

    def push(self, data: bytes) -> None:
        """Keep `data` for `flush` in any case."""
        self.unsent += data

    def flush(self) -> None:
        """Send what is kept, as far as there is room. That the other end is gone is read."""
        try:
            while self.unsent:
                del self.unsent[: self._socket.send(self.unsent)]
        except BlockingIOError:
            return
        except OSError:
            self.unsent.clear()

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._socket.fileno()

    def setblocking(self, flag: bool) -> None:
        """Stay as the uplink made it: paho asks for no blocking, which is so."""

    def close(self) -> None:
        """Close the descriptor; what was written still goes out, as far as there is room."""
        self.flush()
        self._socket.close()
