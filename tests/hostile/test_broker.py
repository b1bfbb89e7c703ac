"""A broker that lies to the real agent: it survives, says why, and no task is the worse for it.

Each test runs a task first, tells its lies while that task runs, and lets the good broker return:
then the running task and a later one have ended well, each having run once, in the same process.

Lies that need no agent to be seen through are proven below it, on every path and byte by byte:
headers in every split in `native/driver/tests/uplink_guard.rs`; each stage's silence, hanging
lookups and backpressure in `uplink.rs` and `uplink_tls.rs`; refused and unanswered subscriptions
and a keepalive without answer in `tests/test_link.py`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mqtt
import pytest
from brokers import Broker
from fleet import AGENT, DEVICE, SOURCE, Controller, Device, step, task, until
from liar import Front, Lie, Talk

from limpet.codec import frame

# The agent with a schedule that comes back at once: what is tested is not how long it waits.
AGENT_SOON = f"""\
from limpet import backoff
backoff.Backoff.__init__.__defaults__ = (50, 100)
{AGENT}"""
TIMEOUTS = """
[broker.timeouts]
resolve = "1s"
connect = "1s"
handshake = "1s"
connack = "1s"
"""
# What a lie may add to the agent's resident memory; the floods below are several times that.
GROWTH_BYTES_MAX = 12 << 20
TASK_TOPIC = f"limpet/{DEVICE}/task/{SOURCE}"
CANCEL_TOPIC = f"limpet/{DEVICE}/cancel/{SOURCE}"
PRESENCE_TOPIC = f"limpet/{DEVICE}/presence"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker("iotcore", "5", tmp_path).running() as broker:
        yield broker


@pytest.fixture
def scene(broker: Broker, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(broker, tmp_path)
    yield scene
    scene.close()
    print(scene.device.log())
    assert scene.front.faults == []


class Scene:
    """An agent, the front that it takes for its broker, and a controller at the real one."""

    def __init__(self, broker: Broker, directory: Path) -> None:
        self.directory = directory
        self.front = Front(broker.port)
        self.device = Device(directory, self.front, "5", TIMEOUTS)
        self.controller = Controller(broker)

    def close(self) -> None:
        try:
            assert self.device.stop() == 0
        finally:
            self.controller.close()
            self.front.close()

    def start(self) -> None:
        """Start the agent and a task that waits for `finish`."""
        self.device.start(AGENT_SOON)
        self.controller.wait_online()
        script = f"echo ran >> {self.runs}; {self.until_finish}"
        wait = {"name": "wait", "tool": "shell", "input": {"script": script}}
        self.controller.send(task("running", [{**wait, "on_interruption": "rerun"}]))
        until(self.runs.exists, "the running task")

    def lie(self, *lies: Lie) -> None:
        """Tell lies from the next connection on."""
        self.reset_peak()
        self.front.tell(*lies)

    def until_logged(self, *words: str) -> None:
        """Wait for one line of the log that holds all of `words`."""

        def logged() -> bool:
            lines = self.device.log().splitlines()
            return any(all(word in line for word in words) for line in lines)

        until(logged, f"a line with {words} in the log")

    def until_lost(self, code: str, *words: str) -> None:
        """Wait for the log to say why the connection ended and what happens next."""
        self.until_logged("link.lost", f"code={code}", "again_in_ms=", *words)

    def finish(self, runs: str = "ran\n") -> None:
        """Let the good broker return; what ran and what comes later must both end well."""
        self.front.repent()
        (self.directory / "go").touch()
        assert self.controller.wait("result", "running")["outcome"] == "succeeded"
        self.controller.send(task("later", [step("a", "/bin/echo", "well")]))
        later = self.controller.wait("result", "later")
        assert later["steps"][0]["stdout"]["head"] == "well\n"
        assert self.runs.read_text() == runs
        assert self.device.process is not None
        assert self.device.process.poll() is None

    @property
    def until_finish(self) -> str:
        """Shell that waits for `finish`: what follows it ends when the good broker is back."""
        return f"while [ ! -e {self.directory}/go ]; do sleep 0.05; done"

    @property
    def runs(self) -> Path:
        return self.directory / "runs"

    def reset_peak(self) -> None:
        """Let the kernel count the peak anew, and remember where it stands."""
        assert self.device.process is not None
        Path(f"/proc/{self.device.process.pid}/clear_refs").write_text("5")
        self._before = self._memory_bytes("VmRSS")

    def growth_bytes(self) -> int:
        """Return by how much the resident memory has grown at its peak since `reset_peak`."""
        return self._memory_bytes("VmHWM") - self._before

    def _memory_bytes(self, name: str) -> int:
        assert self.device.process is not None
        status = Path(f"/proc/{self.device.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith(name))
        return int(line.split()[1]) * 1024


def message(task_id: str, *argv: str, **more: Any) -> bytes:
    document = task(task_id, [step("a", *(argv or ("/bin/true",)))], **more)
    return frame(json.dumps(document).encode())


def test_a_packet_of_256_mib_is_cut_at_its_header(scene: Scene) -> None:
    """paho alone would set the memory aside at once."""
    scene.start()

    def announce(talk: Talk) -> None:
        talk.welcome()
        talk.say(b"\x30\xff\xff\xff\x7f", b"x" * 100_000)
        talk.drain()

    scene.lie(announce)
    scene.until_lost("packet_too_large", "268435455 bytes")
    assert scene.growth_bytes() < GROWTH_BYTES_MAX
    scene.finish()


def test_a_broker_that_ignores_our_receive_maximum_is_left_waiting(scene: Scene) -> None:
    """600 tasks of 100 KB, none waiting for an acknowledgement, and no answer acknowledged."""
    scene.start()
    padding = [{"name": "a", "tool": "nonesuch", "input": {"text": "x" * 100_000}}]
    sent = threading.Event()

    def flood(talk: Talk) -> None:
        talk.acknowledges = False
        talk.welcome()
        for number in range(1, 601):
            talk.send(TASK_TOPIC, frame(json.dumps(task(f"f-{number}", padding)).encode()), number)
        sent.set()
        talk.drain()

    scene.lie(flood)
    until(sent.is_set, "the end of the flood")
    scene.until_logged("message.left")
    assert scene.growth_bytes() < GROWTH_BYTES_MAX
    scene.finish()


def opening(packet: bytes) -> Lie:
    """Answer CONNECT with `packet`, and hang up."""

    def lie(talk: Talk) -> None:
        talk.hear(mqtt.CONNECT)
        talk.say(packet)

    return lie


def following(packet: bytes, leave: bool = False) -> Lie:
    """Say `packet` on a connection that was good so far; hang up at once or never."""

    def lie(talk: Talk) -> None:
        talk.welcome()
        talk.say(packet)
        if not leave:
            talk.drain()

    return lie


MALFORMED: list[tuple[Lie, str]] = [
    (opening(b"\x20\x03\x00"), "closed_by_broker"),
    (opening(b"\x20\x80\x80\x80\x80\x01"), "packet_malformed"),
    (opening(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "not_connack"),
    (following(b"\x32\x7f" + b"x" * 20, leave=True), "closed_by_broker"),
    (following(b"\x05\x00"), "packet_malformed"),
    (following(b"\x32\x04\xff\xff\x00\x00"), "packet_malformed"),
    (following(b"\x32\x08\x00\x01a\x00\x01\x02\x7f\x00"), "packet_malformed"),
    (following(b"\x90\x01\x00"), "packet_malformed"),
    (following(b"\x40\x01\x00"), "packet_malformed"),
    (following(b"\xd0\x01\x00"), "packet_malformed"),
    (following(b"\x34\x06\x00\x01a\x00\x01\x00"), "packet_unasked"),
    (following(b"\x62\x02\x00\x01"), "packet_unasked"),
    (following(b"\xe0\x01\x8b"), "closed_by_broker"),
]


def test_malformed_and_truncated_packets_each_end_a_connection_by_name(scene: Scene) -> None:
    """The agent comes back after each of them, and its log has the causes in the same order."""
    scene.start()
    mute = following(b"")
    scene.lie(*(lie for lie, _ in MALFORMED), mute)
    until(lambda: scene.front.told > len(MALFORMED), "as many connections")
    lost = [line for line in scene.device.log().splitlines() if "link.lost" in line]
    codes = [line.split("code=")[1].split()[0] for line in lost[-len(MALFORMED) :]]
    assert codes == [code for _, code in MALFORMED]
    assert scene.growth_bytes() < GROWTH_BYTES_MAX
    scene.finish()


def test_silence_after_accept_and_after_connect_is_given_up(scene: Scene) -> None:
    scene.start()

    def listen(talk: Talk) -> None:
        talk.hear(mqtt.CONNECT)
        talk.drain()

    scene.lie(Talk.mute, listen)
    until(lambda: scene.front.told >= 3, "a third try")
    lost = [line for line in scene.device.log().splitlines() if "code=connack_timeout" in line]
    assert len(lost) >= 2
    assert "no answer within 1000 ms" in lost[0]
    scene.finish()


def test_retained_floods_are_acknowledged_and_ignored(scene: Scene) -> None:
    scene.start()
    count = 1_500
    done = threading.Event()
    kept = frame(json.dumps({"limpet": 1, "id": "running"}).encode())

    def flood(talk: Talk) -> None:
        talk.welcome()
        for number in range(1, count + 1):
            topic = (TASK_TOPIC, CANCEL_TOPIC, PRESENCE_TOPIC)[number % 3]
            payload = kept if topic == CANCEL_TOPIC else message("kept")
            talk.send(topic, payload + b" " * 8_000, number, "retain")
        acknowledged = [mqtt.read_puback(talk.hear(mqtt.PUBACK)) for _ in range(count)]
        assert acknowledged == list(range(1, count + 1))
        done.set()
        talk.drain()

    scene.lie(flood)
    until(done.is_set, "every acknowledgement")
    assert scene.growth_bytes() < GROWTH_BYTES_MAX
    scene.finish()
    assert "id=kept" not in scene.device.log()


def test_what_is_for_other_devices_is_nothing_to_us(scene: Scene) -> None:
    """Only our own topics count, whatever the broker delivers: acknowledged and ignored."""
    scene.start()
    foreign = [
        f"limpet/pantry/task/{SOURCE}",
        f"limpet/pantry/cancel/{SOURCE}",
        f"limpet/pantry/look/{SOURCE}",
        "limpet/pantry/presence",
        f"limpet/{DEVICE}/result/{SOURCE}",
        f"{TASK_TOPIC}/more",
        f"other/{DEVICE}/task/{SOURCE}",
        f"limpet/{DEVICE}/task/+",
        "$SYS/broker/uptime",
        "",
    ]
    done = threading.Event()

    def misdeliver(talk: Talk) -> None:
        talk.welcome()
        for number, topic in enumerate(foreign, 1):
            cancel = frame(b'{"limpet": 1, "id": "running"}')
            payload = cancel if "cancel" in topic else message("foreign")
            talk.send(topic, payload, number)
        for number in range(1, len(foreign) + 1):
            assert mqtt.read_puback(talk.hear(mqtt.PUBACK)) == number
        done.set()
        talk.drain()

    scene.lie(misdeliver)
    until(done.is_set, "every acknowledgement")
    scene.until_logged("message.ignored", "limpet/pantry/task")
    scene.finish()
    assert "id=foreign" not in scene.device.log()


def collect(talk: Talk, count: int) -> list[dict[str, Any]]:
    """Take publications until there are `count` answers to what is sent here; return those."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        publish = talk.take()
        document = json.loads(publish.payload)
        if publish.topic == f"limpet/{DEVICE}/answer/{SOURCE}" and document["id"] != "running":
            found.append(document)
    return found


def test_two_messages_of_one_number_are_two_messages(scene: Scene) -> None:
    """Each is answered and acknowledged; what is the same by its bytes runs once."""
    scene.start()
    # Not before: a result that the liar acknowledges has been told, as far as the agent can know.
    line = f"{scene.until_finish}; echo twin >> {scene.directory}/twins"
    first, second = (message(name, "/bin/sh", "-c", line) for name in ("twin-1", "twin-2"))
    told: list[list[dict[str, Any]]] = []

    def repeat(talk: Talk) -> None:
        talk.welcome()
        for payload in (first, second, first):
            talk.send(TASK_TOPIC, payload, 7)
        answers = collect(talk, 3)
        for _ in range(3):
            assert mqtt.read_puback(talk.hear(mqtt.PUBACK)) == 7
        told.append(answers)
        talk.drain()

    scene.lie(repeat)
    until(lambda: told, "the answers")
    answers = [(answer["id"], answer["answer"]) for answer in told[0]]
    assert sorted(answers) == [("twin-1", "accepted"), ("twin-1", "known"), ("twin-2", "accepted")]
    scene.finish()
    for name in ("twin-1", "twin-2"):
        scene.controller.wait("result", name)
    assert (scene.directory / "twins").read_text() == "twin\n" * 2


def test_lies_about_the_session_change_nothing(scene: Scene) -> None:
    """Present or not: the agent subscribes, and a result comes until it is acknowledged."""
    scene.start()
    heard: list[tuple[bool, bool]] = []

    def claim(present: bool) -> Lie:
        def lie(talk: Talk) -> None:
            talk.acknowledges = False
            talk.welcome(present)
            while talk.take().topic != f"limpet/{DEVICE}/result/{SOURCE}":
                pass
            heard.append((present, TASK_TOPIC.replace(SOURCE, "+") in talk.filters))

        return lie

    def keep_result(talk: Talk) -> None:
        """Acknowledge what comes before the task has ended, and hang up then."""
        talk.welcome()
        talk.send(TASK_TOPIC, message("session"))
        while talk.take().topic != f"limpet/{DEVICE}/answer/{SOURCE}":
            pass
        talk.acknowledges = False
        talk.drain()

    scene.lie(keep_result, claim(True), claim(False), claim(True), following(b""))
    scene.until_logged("task.ended", "id=session")
    scene.front.cut()
    until(lambda: len(heard) >= 3, "the result on each connection")
    assert heard == [(True, True), (False, True), (True, True)]
    scene.finish()
    scene.controller.wait("result", "session")


def test_a_restored_session_replays_old_tasks_and_none_runs_again(scene: Scene) -> None:
    """What we remember is known, what is a week old has expired; new ids of old numbers run."""
    scene.start()
    line = f"echo old >> {scene.directory}/old"
    done = message("done", "/bin/sh", "-c", line)
    scene.controller.send_bytes(done)
    scene.controller.wait("result", "done")
    stale = message("stale", "/bin/sh", "-c", line, expires_at="2026-01-05T00:00:00Z")
    told: list[dict[str, Any]] = []

    def replay(talk: Talk) -> None:
        talk.welcome(present=True)
        for number, payload in enumerate((done, stale, done, stale), 1):
            talk.send(TASK_TOPIC, payload, number, "repeated")
        told.extend(collect(talk, 4))
        talk.drain()

    scene.lie(replay)
    until(lambda: len(told) == 4, "the answers")
    known = {"id": "done", "answer": "known", "code": None, "outcome": "succeeded"}
    expired = {"id": "stale", "answer": "refused", "code": "expired"}
    for wanted in (known, expired):
        assert sum(wanted.items() <= answer.items() for answer in told) == 2, told
    scene.finish()
    assert (scene.directory / "old").read_text() == "old\n"


# A certificate authority that vouches for nobody: a file that can be read is all that is needed.
AUTHORITY = """\
-----BEGIN CERTIFICATE-----
MIIBeTCCAR+gAwIBAgIUaeURbBvVcENsBykbUEVOp8Vn7EEwCgYIKoZIzj0EAwIw
ETEPMA0GA1UEAwwGbm9ib2R5MCAXDTI2MTEyMzA4NDIzNVoYDzIxMjYxMDMwMDg0
MjM1WjARMQ8wDQYDVQQDDAZub2JvZHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AARo5naGypwHJmlAhbWkz87V630MfU8P0t1buOaNtsjHzpF/3Ze8B6/tvVSwsbKt
TOXbnaaGYkGWYgKtXTpr+F5Qo1MwUTAdBgNVHQ4EFgQUG5OYuQb+9jQmfIDAIbIu
FVYvZMMwHwYDVR0jBBgwFoAUG5OYuQb+9jQmfIDAIbIuFVYvZMMwDwYDVR0TAQH/
BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiBT15TOxlvMbQFM/FMIbu6hE3I8QAk3
1nvr8+ulbUP4PwIhAPdEUOaCcVn2UJOk8KOndTRCFPs/Ai+dAwA/HrdpqmYP
-----END CERTIFICATE-----
"""


def change(scene: Scene, old: str, new: str) -> None:
    """Start the agent again, by another configuration; its task begins again."""
    scene.device.kill()
    file = scene.directory / "limpet.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    scene.device.start(AGENT_SOON)


def test_silence_in_a_tls_handshake_is_given_up(scene: Scene) -> None:
    scene.start()
    scene.front.tell(Talk.mute)
    authority = scene.directory / "ca.pem"
    authority.write_text(AUTHORITY)
    tls = f'\n[broker.tls]\nenabled = true\nca_file = "{authority}"\n'
    change(scene, TIMEOUTS, tls + TIMEOUTS)
    scene.until_lost("handshake_timeout", "no answer within 1000 ms")
    change(scene, tls, "")
    scene.finish(runs="ran\n" * 3)


SLOW_LOOKUP = """\
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>
#include <unistd.h>
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **found) {
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
        dlsym(RTLD_NEXT, "getaddrinfo");
    if (access(getenv("SLOW_WHILE"), F_OK) == 0)
        sleep(30);
    return real(node, service, hints, found);
}
"""


def test_dns_that_takes_30_s_holds_up_nothing(scene: Scene) -> None:
    """The C library knows no bound: at most two lookups are left behind, and an end waits for
    none of them."""
    compiler = shutil.which("cc")
    assert compiler is not None
    library, slow = scene.directory / "slow.so", scene.directory / "slow"
    (scene.directory / "slow.c").write_text(SLOW_LOOKUP)
    argv = [compiler, "-shared", "-fPIC", "-o", str(library), str(library.with_suffix(".c"))]
    subprocess.run(argv, check=True)
    scene.device.environment |= {"LD_PRELOAD": str(library), "SLOW_WHILE": str(slow)}
    file = scene.directory / "limpet.toml"
    file.write_text(file.read_text().replace('host = "127.0.0.1"', 'host = "localhost"'))
    scene.start()
    slow.touch()
    scene.front.tell(following(b""))
    until(lambda: scene.device.log().count("code=resolve_timeout") >= 3, "three timeouts")
    scene.until_lost("resolve_timeout", "localhost", "no answer within 1000 ms")
    assert scene.device.process is not None
    threads = Path(f"/proc/{scene.device.process.pid}/task").iterdir()
    names = [(thread / "comm").read_text().strip() for thread in threads]
    assert names.count("uplink-lookup") == 2
    slow.unlink()
    assert scene.device.stop() == 0
    scene.device.start(AGENT_SOON)
    scene.finish(runs="ran\n" * 2)
