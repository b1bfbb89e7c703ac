"""Real brokers on free loopback ports, each started, stopped and started again by a test."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

MOSQUITTO_PROGRAM = Path("/usr/sbin/mosquitto")
START_S = 30.0

# Started by root it would change to a user that cannot write its sessions into our directory.
MOSQUITTO = """\
user root
listener {port} 127.0.0.1
allow_anonymous true
persistence true
persistence_location {directory}/
"""

RUMQTTD = """\
id = 0

[router]
id = 0
max_connections = 50
max_outgoing_packet_count = 200
max_segment_size = 1048576
max_segment_count = 10

[{version}.1]
name = "limpet"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1

[{version}.1.connections]
connection_timeout_ms = 10000
max_payload_size = 262144
max_inflight_count = 100
dynamic_filters = true
"""

LISTENER = """\
listener {0} 127.0.0.1
certfile {1}/broker.pem
keyfile {1}/key.pem
"""
# Where an emulated machine finds this one.
QEMU_HOST = "10.0.2.2"


def free_port() -> int:
    """Return a port that nothing listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Broker:
    """One broker process; `kind` is "mosquitto" or "iotcore", `protocol` what it is to speak.

    `more` is what else stands in mosquitto's configuration.
    """

    def __init__(self, kind: str, protocol: str, directory: Path, more: str = "") -> None:
        self.kind = kind
        self.protocol = protocol
        self.port = free_port()
        # With what a client trusts it, where it speaks TLS.
        self.ca_file = ""
        self._directory = directory
        self._more = more
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return
            except OSError:
                time.sleep(0.02)
        raise AssertionError(f"{self.kind} does not listen: {self.log_file.read_text()}")

    def stop(self) -> None:
        """End it; a persistent broker writes its sessions down first."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def forget(self) -> None:
        """Lose what a persistent broker wrote down; only while it is stopped."""
        (self._directory / "mosquitto.db").unlink(missing_ok=True)

    def tls_settings(self) -> str:
        """Return what an agent's settings say of TLS; nothing where it does not speak that."""
        if not self.ca_file:
            return ""
        return f'\n[broker.tls]\nenabled = true\nca_file = "{self.ca_file}"\n'

    @property
    def log_file(self) -> Path:
        """Where it says what it does."""
        return self._directory / f"{self.kind}.log"

    @contextlib.contextmanager
    def running(self) -> Iterator[Broker]:
        """Start it, and end it afterwards."""
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def _argv(self) -> list[str]:
        file = self._directory / f"{self.kind}.toml"
        if self.kind == "mosquitto":
            told = MOSQUITTO.format(port=self.port, directory=self._directory)
            file.write_text(told + self._more)
            return [str(MOSQUITTO_PROGRAM), "-c", str(file)]
        version = "v5" if self.protocol == "5" else "v4"
        file.write_text(RUMQTTD.format(port=self.port, version=version))
        return [sys.executable, "-m", "iotcore", "--config", str(file)]


class TlsBroker(Broker):
    """mosquitto with a certificate of its own; its plain port is for the controller."""

    def __init__(self, directory: Path) -> None:
        self.tls_port = free_port()
        super().__init__("mosquitto", "5", directory, LISTENER.format(self.tls_port, directory))
        self.ca_file = str(directory / "broker.pem")
        words = "req -x509 -nodes -days 2 -subj /CN=127.0.0.1 -keyout key.pem -out broker.pem"
        words += " -newkey ec -pkeyopt ec_paramgen_curve:P-256 -addext basicConstraints=CA:FALSE"
        words += f" -addext subjectAltName=IP:127.0.0.1,IP:{QEMU_HOST}"
        subprocess.run(["openssl", *words.split()], cwd=directory, check=True, capture_output=True)

    def secured(self, settings: str) -> str:
        """Return an agent's settings, which are for the plain port, as those for TLS."""
        plain, secure = f"port = {self.port}", f"port = {self.tls_port}"
        return settings.replace(plain, secure) + self.tls_settings()
