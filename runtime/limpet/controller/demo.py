"""The demonstration: a broker, an agent and a file server on loopback, and three tasks.

Decides the order of what is shown and what must be true of it. The agent is a process of its own,
started as on a device; everything ends when this does.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import os
import signal
import socket
import subprocess
import tempfile
import threading
from typing import TYPE_CHECKING, Any

from limpet import program
from limpet.clock import Clock
from limpet.codec import frame
from limpet.controller import demo_files, document, fleet
from limpet.controller.context import Context
from limpet.controller.present import Follower
from limpet.controller.session import Session, seconds
from limpet.errors import EXIT_OK, EXIT_TASK, EXIT_TEMPORARY, LimpetError
from limpet.topics import Address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limpet.controller.document import Document
    from limpet.controller.terminal import Screen

LOOPBACK = "127.0.0.1"
PAYLOAD_BYTES = 256 * 1024
# Above the largest message of the protocol; the broker's own default is far below.
BROKER_BYTES_MAX = 256 * 1024
PATIENCE_S = 30.0
STOP_S = 15.0
LOG_LINES = 12


class DemoError(LimpetError):
    """Something that the demonstration needs is missing, or did not happen in time."""

    exit_code = EXIT_TEMPORARY


def run(screen: Screen) -> int:
    """Show it; EXIT_OK if everything that was to be seen was seen."""
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(tempfile.TemporaryDirectory(prefix="limpet-demo-"))
        payload = os.urandom(PAYLOAD_BYTES)
        url = stack.enter_context(_file_server(root, payload))
        port = stack.enter_context(broker())
        write_device(root, port)
        screen.say(f"broker on {LOOPBACK}:{port}, agent and file server beside it; files in {root}")
        agent = stack.enter_context(Agent(root))
        session = stack.enter_context(Session(_context(port)))
        session.subscribe([f"limpet/{demo_files.DEVICE}/+/{demo_files.SOURCE}"])
        session.subscribe([f"limpet/{demo_files.DEVICE}/presence"])
        show = _Show(screen, session, agent)
        show.wait_for_presence()
        show.whole_task(url, hashlib.sha256(payload).hexdigest())
        show.power_cut()
        show.refusal()
        return show.verdict()


class _Show:
    """The three acts and what was proven by them."""

    def __init__(self, screen: Screen, session: Session, agent: Agent) -> None:
        self._screen, self._session, self._agent = screen, session, agent
        self._proven: list[tuple[bool, str]] = []

    def wait_for_presence(self) -> None:
        """Wait until the agent says that it is there."""
        self._screen.status("waiting for the agent")
        while True:
            heard = self._hear()
            if heard["kind"] == "presence" and heard["online"]:
                return

    def whole_task(self, url: str, sha256: str) -> None:
        """One task with everything: results, references, a retry, a deadline, `finally`."""
        screen = self._screen
        screen.say()
        screen.say(screen.paint("1. A task of five steps, and one that runs in any case", "bold"))
        for name, caption in demo_files.CAPTIONS.items():
            screen.say(f"   {name:<9} {caption}")
        screen.say()
        result = self._run(_task(demo_files.first_task(url)))
        steps = {step["name"]: step for step in result["steps"]}
        hashed = (steps["check"].get("result") or {}).get("sha256")
        self._prove(result["outcome"] == "succeeded", "the task succeeded")
        self._prove(hashed == sha256, "the file came whole: both sides have the same SHA-256")
        self._prove(steps["flaky"]["attempts"] == 2, "the flaky step was tried exactly twice")
        late = steps["stubborn"]
        self._prove(late["outcome"] == "timed_out", "the stubborn step was ended at its deadline")
        left = left_behind(self._agent.root)
        self._prove(not left, "and so was the child it had started: no process is left")
        self._prove(steps["bye"]["outcome"] == "succeeded", "`finally` ran")

    def power_cut(self) -> None:
        """A task whose agent is killed in the middle."""
        screen = self._screen
        screen.say()
        screen.say(screen.paint("2. The agent is killed (SIGKILL) while a step runs", "bold"))
        task = _task(demo_files.second_task())
        result = self._run(task, kill_at="nap")
        self._prove(result["outcome"] == "succeeded", "the killed agent's task went on to its end")

    def refusal(self) -> None:
        """A task that the policy does not allow."""
        screen = self._screen
        screen.say()
        screen.say(screen.paint("3. A task that wants a shell, which no rule allows", "bold"))
        task = _task(demo_files.third_task())
        self._send(task)
        answer = self._hear(task.id)
        screen.record(answer)
        screen.say(f"   {answer['answer']}: {answer.get('detail')}")
        self._prove(answer.get("code") == "not_allowed", "what policy does not allow is refused")

    def verdict(self) -> int:
        """Print what was proven."""
        screen = self._screen
        screen.say()
        for proven, text in self._proven:
            mark = screen.paint("yes", "green") if proven else screen.paint("NO ", "red")
            screen.record({"kind": "proof", "proven": proven, "text": text})
            screen.say(f"  {mark}  {text}")
        if all(proven for proven, _ in self._proven):
            return EXIT_OK
        self._agent.show_log(screen)
        return EXIT_TASK

    def _prove(self, proven: bool, text: str) -> None:
        self._proven.append((proven, text))

    def _send(self, task: Document) -> None:
        address = Address(demo_files.DEVICE, "task", demo_files.SOURCE)
        self._session.publish(address, frame(task.body), PATIENCE_S)

    def _run(self, task: Document, kill_at: str | None = None) -> dict[str, Any]:
        """Send `task`, follow it and return its result; kill the agent once at step `kill_at`."""
        follower = Follower(task.names)
        start = seconds()
        self._send(task)
        while True:
            said = self._hear(task.id)
            self._screen.record(said)
            if said["kind"] == "result":
                fleet.show_result(self._screen, said)
                return said
            if said["kind"] != "state":
                continue
            line = follower.line(said, round((seconds() - start) * 1000))
            if line is not None:
                self._screen.say(line)
            at = follower.step_name(said["step"])
            if kill_at == at and said["phase"] == "running":
                kill_at = None
                self._agent.kill()
                self._screen.say("         the agent is dead; another is started on its journal")
                self._agent.start()

    def _hear(self, task_id: str | None = None) -> dict[str, Any]:
        """Return the next document, or the next of one task; DemoError after a long silence."""
        end = seconds() + PATIENCE_S
        while True:
            heard = self._session.hear(max(0.0, end - seconds()))
            if heard is None:
                self._agent.show_log(self._screen)
                raise DemoError(f"cannot go on: the agent said nothing for {PATIENCE_S:.0f} s")
            if task_id is None or heard.document.get("id") == task_id:
                return heard.document


class Agent:
    """The agent as a process, started as on a device; leaving the `with` stops it."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._log_file = os.path.join(root, "agent.log")

    def __enter__(self) -> Agent:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def start(self) -> None:
        """Start the agent on the device's files."""
        command = program.words("run", "--config", f"{self.root}/limpet.toml")
        with open(self._log_file, "ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """End the agent as a power cut would: it gets no word in."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def show_log(self, screen: Screen) -> None:
        """Print the end of what the agent logged."""
        with open(self._log_file, encoding="utf-8", errors="replace") as log:
            for line in log.read().splitlines()[-LOG_LINES:]:
                screen.note(f"agent: {line}")


@contextlib.contextmanager
def broker() -> Iterator[int]:
    """Run a broker on a free port of loopback and give the port."""
    try:
        import iotcore
    except ImportError:
        raise DemoError("cannot start a broker: pip install iotcore (nothing runs)") from None
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
    with iotcore.Broker(port=port, listen=LOOPBACK, max_payload_size=BROKER_BYTES_MAX):
        yield port


@contextlib.contextmanager
def _file_server(root: str, payload: bytes) -> Iterator[str]:
    """Serve `payload` on loopback from a thread and give its URL."""
    folder = os.path.join(root, "served")
    os.mkdir(folder)
    with open(os.path.join(folder, "payload"), "wb") as file:
        file.write(payload)
    handler = functools.partial(_QuietHandler, directory=folder)
    with http.server.ThreadingHTTPServer((LOOPBACK, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://{LOOPBACK}:{server.server_port}/payload"
        server.shutdown()
        thread.join()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing about it."""

    def log_message(self, format: str, *args: object) -> None:
        """Drop the line."""


def left_behind(root: str) -> list[int]:
    """Return the processes whose working directory lies below `root`."""
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdecimal() and os.readlink(f"/proc/{name}/cwd").startswith(f"{root}/"):
                found.append(int(name))
    return found


def write_device(root: str, port: int) -> None:
    """Write the demonstration's device below `root`; `port` is its broker's."""
    for folder in ("state", "tools.d"):
        os.mkdir(os.path.join(root, folder))
    files = demo_files.device_files(root, port, program.words("worker"))
    for path, content in files.items():
        with open(os.path.join(root, path), "w", encoding="utf-8") as file:
            file.write(content)


def _context(port: int) -> Context:
    return Context(
        host=LOOPBACK,
        port=port,
        prefix="limpet",
        source=demo_files.SOURCE,
        device=demo_files.DEVICE,
        username=None,
        password_file=None,
        tls=False,
        ca_file=None,
    )


def _task(content: dict[str, Any]) -> Document:
    now_ms = Clock().wall_ms()
    return document.compile(document.fill(content, "demo", "0", now_ms), demo_files.SOURCE, now_ms)
