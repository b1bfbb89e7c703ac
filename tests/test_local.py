"""The local socket: whole questions get whole answers, and nobody can make the agent wait."""

from __future__ import annotations

import json
import os
import select
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from limpet.agent import Told
from limpet.codec import MESSAGE_BYTES_MAX
from limpet.config import Socket
from limpet.errors import ConfigError
from limpet.local import CLIENTS_MAX, FOLLOWERS_MAX, REQUEST_BYTES_MAX, Local


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    path = str(tmp_path / "run" / "limpet.sock")
    with Local(Socket(path, None), {"status": lambda: {"device": "kitchen"}}) as local:
        yield local


def client(local: Local) -> socket.socket:
    asker = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    asker.connect(local._path)
    serve(local)
    return asker


def serve(local: Local) -> None:
    poller = select.poll()
    for fd, events in local.wanted().items():
        poller.register(fd, events)
    local.serve(dict(poller.poll(0)))


def test_a_question_in_pieces_is_answered_once_it_is_whole(local: Local) -> None:
    asker = client(local)
    for piece in (b'{"ask":', b'"status"}', b"\n"):
        asker.sendall(piece)
        serve(local)
    assert json.loads(asker.recv(1000)) == {"device": "kitchen"}
    assert asker.recv(1) == b"", "one question per connection"


@pytest.mark.parametrize(
    "line", [b"x\n", b"{}\n", b'{"ask":"secrets"}\n', b'{"ask":"look","bytes":9}\n', b"[1]\n"]
)
def test_another_question_is_told_which_there_are(local: Local, line: bytes) -> None:
    asker = client(local)
    asker.sendall(line)
    serve(local)
    assert "status" in json.loads(asker.recv(1000))["error"]


def test_who_says_nothing_or_too_much_is_bounded(local: Local) -> None:
    askers = [client(local) for _ in range(CLIENTS_MAX)]
    assert len(local.wanted()) == CLIENTS_MAX, "no more are taken until one has gone"
    askers[0].sendall(b"x" * (REQUEST_BYTES_MAX + 1))
    serve(local)
    serve(local)
    assert len(local.wanted()) == CLIENTS_MAX
    assert askers[0].recv(1) == b""


def test_only_the_owner_may_ask_and_the_socket_goes_with_the_agent(tmp_path: Path) -> None:
    path = tmp_path / "limpet.sock"
    path.write_text("left by an agent that was killed")
    with Local(Socket(str(path), None), {}):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


def test_a_place_that_cannot_be_is_said_at_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot listen"):
        Local(Socket(str(tmp_path / "file" / "limpet.sock"), None), {})
    with pytest.raises(ConfigError, match="nonesuch"):
        Local(Socket(str(tmp_path / "limpet.sock"), "nonesuch-group"), {})


def ask(local: Local, line: bytes) -> socket.socket:
    asker = client(local)
    asker.sendall(line)
    serve(local)
    return asker


def told(local: Local, *said: Told) -> None:
    local.tell(list(said))


def follow(local: Local, task: str = "local/t-1") -> socket.socket:
    """Return a client that has sent a task and was told that it is accepted."""
    asker = ask(local, b'{"ask":"task","bytes":3}\nabc')
    (asked,) = local.take()
    told(local, Told(task, b"accepted", False, asked.client))
    assert asker.recv(1000) == b"accepted\n"
    return asker


def test_a_message_comes_whole_with_who_sent_it(local: Local) -> None:
    message = bytes(range(256)) * 512
    assert len(message) == MESSAGE_BYTES_MAX
    asker = client(local)
    asker.sendall(b'{"ask":"task","bytes":%d}\n' % len(message))
    for start in range(0, len(message), 30_000):
        assert local.take() == []
        asker.sendall(message[start : start + 30_000])
        for _ in range(4):
            serve(local)
    (asked,) = local.take()
    assert (asked.request, asked.message, asked.uid) == ("task", message, os.getuid())


@pytest.mark.parametrize(
    "size", [b"0", b"-1", b"131073", b"1.0", b'"3"', b"null", b"true,", b"[3]", b"1e3"]
)
def test_a_message_of_no_size_is_not_taken(local: Local, size: bytes) -> None:
    asker = ask(local, b'{"ask":"task","bytes":' + size + b"}\nabc")
    assert "bytes" in json.loads(asker.recv(1000))["error"]
    assert local.take() == []
    assert asker.recv(1) == b""


def test_who_sends_a_task_follows_it_to_its_end_and_hears_of_no_other(local: Local) -> None:
    asker = follow(local)
    told(local, Told("local/t-2", b"other", False), Told("local/t-1", b"state", False))
    told(local, Told("local/t-1", b"result", True), Told("local/t-1", b"again", True))
    assert asker.recv(1000) == b"state\nresult\n"
    assert asker.recv(1) == b""


def test_who_watches_hears_of_every_task_and_no_answer_to_others(local: Local) -> None:
    watcher, asker = ask(local, b'{"ask":"watch"}\n'), follow(local)
    told(local, Told("ops/t-9", b"state", False), Told("local/t-1", b"result", True))
    assert watcher.recv(1000) == b"state\nresult\n"
    assert asker.recv(1000) == b"result\n"
    told(local, Told("ops/t-9", b"result", True))
    assert watcher.recv(1000) == b"result\n"


def test_those_who_wait_leave_a_place_for_questions(local: Local) -> None:
    watchers = [ask(local, b'{"ask":"watch"}\n') for _ in range(FOLLOWERS_MAX)]
    late = ask(local, b'{"ask":"task","bytes":3}\nabc')
    assert "wait already" in json.loads(late.recv(1000))["error"]
    assert json.loads(ask(local, b'{"ask":"status"}\n').recv(1000)) == {"device": "kitchen"}
    watchers[0].close()
    serve(local)
    assert follow(local)


def test_a_long_answer_arrives_whole(tmp_path: Path) -> None:
    """Longer than what the socket holds: the rest waits for the reader and nobody for it."""
    answer: dict[str, object] = {"text": "x" * (1 << 20)}
    with Local(Socket(str(tmp_path / "limpet.sock"), None), {"status": lambda: answer}) as local:
        asker = ask(local, b'{"ask":"status"}\n')
        received = bytearray()
        while piece := asker.recv(1 << 16):
            received += piece
            serve(local)
        assert json.loads(received) == answer


def test_who_does_not_read_is_cut_off_and_others_are_not(local: Local) -> None:
    deaf, watcher = ask(local, b'{"ask":"watch"}\n'), ask(local, b'{"ask":"watch"}\n')
    count = 0
    while len(local._clients) == 2:
        count += 1
        assert count < 1000
        told(local, Told("ops/t-1", b"x" * 10_000, False))
        assert len(watcher.recv(20_000)) == 10_001
    assert sum(len(one.unread) for one in local._clients.values()) == 0
    deaf.close()


def test_who_has_gone_is_forgotten_and_its_task_is_not(local: Local) -> None:
    asker = ask(local, b'{"ask":"task","bytes":3}\nabc')
    asker.close()
    (asked,) = local.take()
    serve(local)
    told(local, Told("local/t-1", b"accepted", False, asked.client))
    assert local._clients == {}
