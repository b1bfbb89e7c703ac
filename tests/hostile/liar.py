"""A broker that lies: takes each connection of an agent and follows a script, on loopback only.

With no script left it is honest: it forwards to a real broker. Every wait and every count is
bounded; a script that fails ends its connection and is remembered. Knows MQTT from `mqtt.py` and
no document.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable

import mqtt

CHUNK_BYTES = 64 * 1024
# How long a script waits for a packet of the agent, and how often a forwarder looks up.
PATIENCE_S = 30.0
LOOK_S = 0.05
CONNECTIONS_MAX = 256


class Talk:
    """One connection of the agent, as a script sees it."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._socket.settimeout(PATIENCE_S)
        self._buffer = bytearray()
        # Heard while something else was waited for.
        self._unheard: list[mqtt.Packet] = []
        self.five = True
        self.filters: list[str] = []
        # Whether publications of the agent are acknowledged as they are heard.
        self.acknowledges = True

    def hear(self, kind: int) -> mqtt.Packet:
        """Return the next packet of `kind`; others stay for later. EOFError: the agent left."""
        while True:
            found = next((packet for packet in self._unheard if packet.kind == kind), None)
            if found is not None:
                self._unheard.remove(found)
                return found
            while (packet := mqtt.split(self._buffer)) is None:
                self._buffer += self._more()
            self._unheard.append(packet)
            if packet.kind == mqtt.PUBLISH and self.acknowledges:
                number = mqtt.read_publish(packet, self.five).number
                self.say(mqtt.build_puback(number))

    def say(self, *packets: bytes) -> None:
        """Send bytes as they are, packets or not."""
        self._socket.sendall(b"".join(packets))

    def greet(self, present: bool = False) -> None:
        """Take CONNECT and accept it, claiming a session that is there or not."""
        self.five = mqtt.read_connect(self.hear(mqtt.CONNECT)).five
        self.say(mqtt.build_connack(self.five, present))

    def welcome(self, present: bool = False) -> None:
        """Do that, and grant what is subscribed to."""
        self.greet(present)
        number, self.filters = mqtt.read_subscribe(self.hear(mqtt.SUBSCRIBE), self.five)
        self.say(mqtt.build_suback(self.five, number, len(self.filters)))

    def send(self, topic: str, payload: bytes, number: int = 1, *flags: str) -> None:
        """Publish with QoS 1; `flags` may hold "retain" and "repeated"."""
        publish = mqtt.Publish(number, topic, payload, "retain" in flags, "repeated" in flags)
        self.say(mqtt.build_publish(self.five, publish))

    def take(self) -> mqtt.Publish:
        """Return the agent's next publication."""
        return mqtt.read_publish(self.hear(mqtt.PUBLISH), self.five)

    def drain(self) -> None:
        """Read until the agent leaves, or the front cuts."""
        while True:
            self.hear(mqtt.PUBLISH)

    def mute(self) -> None:
        """Read nothing and say nothing until the agent leaves, or the front cuts."""
        watch = select.poll()
        watch.register(self._socket, select.POLLRDHUP)
        watch.poll(PATIENCE_S * 1000)

    def _more(self) -> bytes:
        data = self._socket.recv(CHUNK_BYTES)
        if not data:
            raise EOFError("the agent left")
        return data


Lie = Callable[[Talk], None]


class Front:
    """What the agent takes for its broker: a list of lies, and the real one behind it."""

    def __init__(self, port_behind: int, connections_max: int = CONNECTIONS_MAX) -> None:
        self._behind = port_behind
        self._connections_max = connections_max
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lies: list[Lie] = []
        self._ends: set[socket.socket] = set()
        # Connections that a script has taken, and what went wrong in scripts, for the test.
        self.told = 0
        self.faults: list[BaseException] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def tell(self, *lies: Lie) -> None:
        """Cut, and let the connections that follow take one lie each; the last lie stays."""
        with self._lock:
            self._lies = list(lies)
        self.cut()

    def repent(self) -> None:
        """Cut, and be honest from now on."""
        self.tell()

    def cut(self) -> None:
        """End every connection."""
        with self._lock:
            ends = list(self._ends)
        for end in ends:
            _shut(end)

    def close(self) -> None:
        """Take no connection any more."""
        _shut(self._listener)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        for _ in range(self._connections_max):
            try:
                end, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._ends.add(end)
                lie = self._lies.pop(0) if len(self._lies) > 1 else next(iter(self._lies), None)
            threading.Thread(target=self._serve, args=(end, lie), daemon=True).start()

    def _serve(self, end: socket.socket, lie: Lie | None) -> None:
        try:
            if lie is None:
                self._forward(end)
            else:
                self.told += 1
                lie(Talk(end))
        except (OSError, EOFError):
            # The agent hung up, or the test cut: what a script gets for its lies.
            pass
        except BaseException as fault:
            self.faults.append(fault)
        finally:
            with self._lock:
                self._ends.discard(end)
            end.close()

    def _forward(self, end: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self._behind), PATIENCE_S) as behind:
            others = {end: behind, behind: end}
            while True:
                ready, _, _ = select.select(list(others), [], [], LOOK_S)
                for one in ready:
                    data = one.recv(CHUNK_BYTES)
                    if not data:
                        return
                    others[one].sendall(data)


def _shut(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        # It had ended already.
        return
