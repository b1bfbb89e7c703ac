"""What every figure is measured with: a broker, a target that has subscribed, a load, a summary."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import holds
import targets
from brokers import Broker

ROOT = targets.ROOT
BUILT = ROOT / "build" / "bench"
LOAD = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "native" / "target")) / "release/limpet-bench"
PROBES = Path(__file__).parent / "probes"
PATIENCE_S = 120.0
# For as long as ids are remembered; the rate times this must fit the table of ids.
EXPIRES_S = 30.0

# It tells when a client subscribes, keeps for it whatever comes, and does not hold small packets
# back for 40 ms (Nagle's algorithm, which meets the other side's late acknowledgements).
BROKER = """\
max_queued_messages 0
set_tcp_nodelay true
log_dest stderr
log_type subscribe
log_type error
log_type warning
"""
TLS = """\
cafile {0}/ca.pem
certfile {0}/server.pem
keyfile {0}/server.key
"""

Facts = dict[str, Any]
T = TypeVar("T", bound=targets.Target)


class Scene(NamedTuple):
    """A target that takes commands, and its broker."""

    target: Any
    broker: Broker
    directory: Path
    # From the start of its process to its subscription.
    start_s: float


def say(text: str) -> None:
    """Tell whoever waits."""
    os.write(2, f"{time.strftime('%H:%M:%S')} {text}\n".encode())


def refuse_memory(directory: Path) -> None:
    """Nothing that is durable can be measured where nothing is written."""
    kind = subprocess.run(
        ["findmnt", "-no", "FSTYPE", "-T", str(directory)], capture_output=True, text=True
    ).stdout.strip()
    if kind in ("tmpfs", "ramfs"):
        raise SystemExit(f"cannot measure in {directory}: it is a {kind} (nothing is measured)")


def probe(name: str) -> Path:
    """Return a program of `probes`, compiled if it has changed."""
    BUILT.mkdir(parents=True, exist_ok=True)
    source, program = PROBES / f"{name}.c", BUILT / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        # Static: its first instruction is its own, not the dynamic linker's.
        holds.compile_c(source.read_text(), program, "-O2", "-static")
    return program


def numbers(*argv: object, **options: Any) -> list[int]:
    """Run a probe and return what it printed."""
    done = subprocess.run(
        [str(word) for word in argv], check=True, capture_output=True, text=True, **options
    )
    return [int(line) for line in done.stdout.split()]


@contextlib.contextmanager
def place() -> Iterator[Path]:
    """Give a directory on the disk of the build, for the time of one measurement."""
    BUILT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILT) as name:
        yield Path(name)


@contextlib.contextmanager
def broker(directory: Path, tls: bool = False) -> Iterator[Broker]:
    """Run a mosquitto that says when somebody subscribes."""
    more = BROKER
    if tls:
        certify(directory)
        more = TLS.format(directory) + more
    told = Broker("mosquitto", "5", directory, more)
    if tls:
        told.ca_file = str(directory / "ca.pem")
    with told.running():
        yield told


def certify(directory: Path) -> None:
    """Make a broker's certificate, and the authority that signed it."""
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"]
    curve = ["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    authority = ["-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=bench"]
    server = ["-keyout", "server.key", "-out", "server.pem", "-subj", "/CN=localhost"]
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "subjectAltName=DNS:localhost"]
    end = ["-addext", "basicConstraints=critical,CA:FALSE"]
    for more in (authority, [*server, *signed, *end]):
        argv = [*request, *curve, *more]
        subprocess.run(argv, cwd=directory, check=True, capture_output=True)


def await_subscription(told: Broker, before: int, process: targets.Process) -> float:
    """Wait until the target has subscribed once more than `before`; return when."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if subscriptions(told) > before:
            return time.monotonic()
        if process.process is not None and process.process.poll() is not None:
            break
        time.sleep(0.001)
    log = (process.directory / "agent.log").read_text(errors="replace")
    raise AssertionError(f"no subscription: {log}")


def subscriptions(told: Broker) -> int:
    """Return how many topics of commands have been subscribed to by devices."""
    text = told.log_file.read_text(errors="replace")
    return sum("kitchen" in line and "/task" in line for line in text.splitlines())


def restart(scene: Scene) -> float:
    """Start the target again; return how long it took to subscribe."""
    before, began = subscriptions(scene.broker), time.monotonic()
    scene.target.start()
    return await_subscription(scene.broker, before, scene.target) - began


@contextlib.contextmanager
def running(kind: type[T], tls: bool = False) -> Iterator[Scene]:
    """Run a target with a broker of its own."""
    with place() as directory, broker(directory, tls) as told:
        refuse_memory(directory)
        target: Any = kind(directory, told)
        began = time.monotonic()
        target.start()
        try:
            start_s = await_subscription(told, 0, target) - began
            # What follows a subscription: a presence, a first collection.
            time.sleep(0.3)
            yield Scene(target, told, directory, start_s)
        except BaseException:
            say((directory / "agent.log").read_text(errors="replace")[-2000:])
            raise
        finally:
            target.stop()


def order(port: int, command: targets.Command, tasks: int, in_flight: int, **more: Any) -> Facts:
    """Return what the load is told; see native/bench/src/load.rs."""
    return {
        "port": port,
        **command._asdict(),
        "prefix": f"b{time.monotonic_ns()}-",
        "tasks": tasks,
        "in_flight": in_flight,
        "rate": 0,
        "expires_s": EXPIRES_S,
        "patience_s": PATIENCE_S,
        **more,
    }


def load(port: int, command: targets.Command, tasks: int, in_flight: int, **more: Any) -> Facts:
    """Send so many commands, so many at a time; return what the load measured."""
    told = json.dumps(order(port, command, tasks, in_flight, **more))
    done = subprocess.run([str(LOAD)], input=told, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(done.stderr)
    figures: Facts = json.loads(done.stdout)
    return figures


def nonsense(scene: Scene) -> targets.Command:
    """Return a command that is cut off in the middle, which nobody answers with a result."""
    whole: targets.Command = scene.target.command(targets.EXEC, ["/bin/true"])
    return whole._replace(hear=[], template=whole.template[: len(whole.template) // 2])


@contextlib.contextmanager
def beside(port: int, command: targets.Command, tasks: int, **more: Any) -> Iterator[None]:
    """Send commands that nobody waits for, as long as this lasts."""
    with subprocess.Popen([str(LOAD)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as flood:
        assert flood.stdin is not None
        flood.stdin.write(json.dumps(order(port, command, tasks, 20, **more)).encode())
        flood.stdin.close()
        try:
            yield
        finally:
            flood.kill()


def rank(ordered: list[float], share: float) -> float:
    """Return the value that `share` of all do not exceed."""
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def summary(values: list[float], unit: str, repetitions: list[float] | None = None) -> Facts:
    """Return what is told of many samples, and the medians of the repetitions they came in."""
    ordered = sorted(values)
    told: Facts = {"unit": unit, "samples": len(ordered)}
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999), ("max", 1)):
        told[name] = significant(rank(ordered, share))
    if repetitions is not None:
        told["repetitions"] = [significant(value) for value in repetitions]
    return told


def histogram(values: list[float]) -> dict[str, int]:
    """Count samples in ten buckets a decade; a key is the number of a bucket's lower bound."""
    counts: dict[str, int] = {}
    for value in values:
        key = str(math.floor(10 * math.log10(max(value, 1e-3))))
        counts[key] = counts.get(key, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: int(item[0])))


def significant(value: float) -> float:
    """Return a number in four digits: no more is known."""
    return float(f"{value:.4g}")


def median(values: list[float]) -> float:
    """Return the middle one."""
    return rank(sorted(values), 0.5)


def await_so(happened: Callable[[], bool]) -> None:
    """Wait until something has happened."""
    end = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < end, "it has not happened in time"
        time.sleep(0.05)


def settle(pid: int, quiet_s: float = 0.5) -> None:
    """Wait until a process has used no processor for a while."""
    end, last, since = time.monotonic() + PATIENCE_S, -1, time.monotonic()
    while time.monotonic() < end and time.monotonic() - since < quiet_s:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used = int(fields[11]) + int(fields[12])
        if used != last:
            last, since = used, time.monotonic()
        time.sleep(0.02)
