"""A whole task on this machine: the device's own core, policy and limits, and no broker.

Decides what stands in for a controller and a broker: the person at the terminal. Knows the core's
batches, and no protocol.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import signal
import subprocess
import tempfile
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from limpet import policy, task
from limpet.clock import Clock
from limpet.codec import encode
from limpet.controller import present, site
from limpet.controller.document import Document, FileError
from limpet.controller.fleet import show_result
from limpet.errors import EXIT_OK, EXIT_TASK, CoreError, TaskError
from limpet.native.core import Core
from limpet.native.records import (
    ANY_CLOCK,
    CANCEL,
    DELIVERED,
    EXTEND,
    HOST_DONE,
    SUBMIT,
    VERDICTS,
    Item,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limpet.controller.terminal import Screen
    from limpet.native.records import Event

SOURCE = "local"
SEGMENT_BYTES = 4 << 20
SECOND_MS = 1_000
PORTS = {"http": 80, "https": 443}
EXIT_INTERRUPTED = 130

LOCAL_POLICY = """\
# A trial: whoever started it may use every tool, on this machine, as themselves.
[[allow]]
source = "local"
tools = ["*", "exec", "shell"]

[hosts]
allow = [{hosts}]
"""


def run(
    screen: Screen,
    document: Document,
    policy_file: str | None,
    tools: str | None,
    state: str | None,
    allow_reboot: bool,
) -> int:
    """Run `document` to its end and return the exit code that its outcome has.

    `policy_file` None allows everything that is declared; `state` None keeps nothing.
    """
    with _state_directory(state) as directory:
        rules = policy_file or _write_policy(directory, document)
        os.makedirs(os.path.join(directory, "tasks"), exist_ok=True)
        declared = tools or os.path.join(directory, "no-tools")
        table = policy.load(rules, declared, site.trial(directory)).table
        settings = {
            "state_directory": directory,
            "clock": "always",
            "segment_bytes": SEGMENT_BYTES,
            "table": table,
        }
        with Core(settings) as core, _Signals() as signals:
            return _Trial(screen, core, document, allow_reboot).until_over(signals)


class _Signals:
    """SIGINT and SIGTERM as something to wait for instead of an exception anywhere."""

    def __enter__(self) -> _Signals:
        self.fd, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before = signal.set_wakeup_fd(self._writer)
        self._handlers = [
            (number, signal.signal(number, lambda *_: None))
            for number in (signal.SIGINT, signal.SIGTERM)
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers:
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._before)
        os.close(self.fd)
        os.close(self._writer)


class _Trial:
    """One task in one core, and what has been told of it."""

    def __init__(self, screen: Screen, core: Core, document: Document, allow_reboot: bool) -> None:
        self._screen, self._core, self._document = screen, core, document
        self._allow_reboot = allow_reboot
        self._follower = present.Follower(document.names)
        self._start_ms = Clock().boot_ms()
        self._exit: int | None = None
        self._live = ""

    def until_over(self, signals: _Signals) -> int:
        """Submit, follow and carry out what the core asks; return the exit code."""
        body = self._document.body
        item = Item(
            SUBMIT,
            token=1,
            flags=ANY_CLOCK,
            text=encode(self._document.plan),
            digest=hashlib.sha256(body).digest(),
        )
        self._hand_in(item)
        interrupted = False
        poller = select.poll()
        poller.register(self._core.event_fd(), select.POLLIN)
        poller.register(signals.fd, select.POLLIN)
        while self._exit is None:
            ready = dict(poller.poll(SECOND_MS if self._screen.live else None))
            if signals.fd in ready:
                os.read(signals.fd, 64)
                if interrupted:
                    return EXIT_INTERRUPTED
                interrupted = True
                self._cancel()
            for event in self._core.poll():
                self._take(event)
            if self._live:
                elapsed = present.span(Clock().boot_ms() - self._start_ms)
                self._screen.status(f"{elapsed:>7}  {self._live}")
        return self._exit

    def _hand_in(self, item: Item) -> None:
        refused = self._core.submit([item])[0]
        if refused is not None:
            raise refused

    def _cancel(self) -> None:
        self._screen.note("cancelling; `finally` still runs (once more to leave at once)")
        asked = {"id": self._document.id, "source": SOURCE, "by": SOURCE}
        self._hand_in(Item(CANCEL, token=2, text=encode(asked)))

    def _take(self, event: Event) -> None:
        text = event.text
        ours = text.get("id") in (None, self._document.id)
        if event.kind == "answer" and event.token == 1:
            self._answered(VERDICTS[event.code], text)
        elif event.kind == "changed" and ours:
            self._changed(text)
        elif event.kind == "result" and ours:
            told: dict[str, Any] = orjson.loads(event.history)
            self._screen.record({"limpet": 1, "kind": "result", **told})
            show_result(self._screen, told)
            self._hand_in(Item(DELIVERED, target=event.target))
            self._exit = EXIT_OK if text["outcome"] == "succeeded" else EXIT_TASK
        elif event.kind == "work":
            self._work(event)
        elif event.kind == "continue":
            self._continue(event)
        elif event.kind == "trouble":
            raise CoreError(f"{text.get('code')}: {text.get('detail')}")

    def _answered(self, verdict: str, text: dict[str, Any]) -> None:
        task_id = self._document.id
        refused = verdict == "refused"
        answer = {"answer": "accepted" if verdict == "accepted" else "known", "code": None}
        if refused:
            answer = {"answer": "refused", "code": text.get("code")}
        self._screen.record(
            {"limpet": 1, "kind": "answer", "source": SOURCE, "id": task_id, "request": "task"}
            | answer
            | {"detail": text.get("detail")}
        )
        if refused:
            raise TaskError(text["code"], text.get("detail") or "the core does not take the task")
        if verdict == "ended":
            self._screen.say(f"task {task_id} has ended before: {text['outcome']}")
            self._exit = EXIT_OK if text["outcome"] == "succeeded" else EXIT_TASK
            return
        steps = len(self._document.plan["steps"])
        known = "goes on" if verdict == "alive" else "accepted, and durable"
        self._screen.say(f"task {task_id}, steps: {steps}, {known}")

    def _changed(self, text: dict[str, Any]) -> None:
        state = {
            "limpet": 1,
            "kind": "state",
            "source": text["source"],
            "id": text["id"],
            "sequence": text.get("sequence", 0),
            "phase": text["state"],
            "step": text["step"],
            "attempt": text["attempt"] or None,
            "progress": text["progress"],
        }
        self._screen.record(state)
        line = self._follower.line(state, Clock().boot_ms() - self._start_ms)
        if line is not None:
            self._screen.say(line)
        self._live = f"{self._follower.step_name(text['step'])} {text['state']}"

    def _work(self, event: Event) -> None:
        """Carry out what an attempt asks of its host: publish shows, reboot asks for leave."""
        exit_code, why = 0, ""
        if "publish" in event.text:
            said = event.text["publish"]
            payload = encode(said["payload"]).decode()
            self._screen.say(f"         publish {present.cell(said['topic'])} {payload}")
            self._screen.record({"kind": "publish", **said})
        elif not self._allow_reboot:
            exit_code, why = 1, "a trial reboots only with --allow-reboot"
        else:
            done = subprocess.run(["/sbin/reboot"], check=False)
            if done.returncode == 0:
                # The attempt succeeds when the boot id has changed: there is nothing to hand in.
                return
            exit_code, why = 1, f"/sbin/reboot ended with exit code {done.returncode}"
        self._hand_in(Item(HOST_DONE, target=event.target, value=exit_code, text=why.encode()))

    def _continue(self, event: Event) -> None:
        """Compile the steps that a result asks for; steps that cannot be are refused."""
        plan, earlier = event.text["plan"], event.text["extensions"]
        whole = dict(plan)
        for extension in earlier:
            whole["steps"] = [*whole["steps"], *extension["steps"]]
            whole["ceilings"] = extension["ceilings"]
        added: dict[str, object] | None
        try:
            added = task.extend(whole, event.text["step"], event.text["next"])
        except TaskError as error:
            added = None
            self._screen.note(str(error))
        asked = {"plan": plan, "extensions": earlier, "next": added}
        item = Item(EXTEND, token=3, target=event.target, text=encode(asked))
        refused = self._core.submit([item])[0]
        if refused is not None:
            self._screen.note(str(refused))
            self._hand_in(item._replace(text=encode({**asked, "next": None})))
        elif added is not None:
            self._follower.names += [step["name"] for step in event.text["next"]]


@contextlib.contextmanager
def _state_directory(state: str | None) -> Iterator[str]:
    """Give a directory for journal and tasks: the one that is named, or one that is removed."""
    if state is None:
        with tempfile.TemporaryDirectory(prefix="limpet-", ignore_cleanup_errors=True) as made:
            yield made
        return
    directory = os.path.abspath(state)
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
    except OSError as error:
        cause = error.strerror
        raise FileError(f"cannot make {directory}: {cause} (nothing was started)") from None
    yield directory


def _write_policy(directory: str, document: Document) -> str:
    """Write the policy of a trial: every tool, and the hosts that the task's own URLs name."""
    file = os.path.join(directory, "policy.toml")
    hosts = ", ".join(f'"{host}"' for host in sorted(named_hosts(document.plan)))
    with open(file, "w", encoding="utf-8") as stream:
        stream.write(LOCAL_POLICY.format(hosts=hosts))
    return file


def named_hosts(plan: dict[str, Any]) -> set[str]:
    """Return `host:port` of each URL that stands in the inputs of `plan` as it is."""
    hosts = set()
    for step in plan["steps"]:
        url = step["input"].get("url")
        with contextlib.suppress(ValueError):
            parts = urlsplit(url if isinstance(url, str) else "")
            port = parts.port or PORTS.get(parts.scheme)
            if parts.hostname and port:
                hosts.add(f"{parts.hostname}:{port}")
    return hosts
