"""The local socket: whole questions get whole answers, and nobody can make the agent wait."""

from __future__ import annotations

import json
import select
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from limpet.config import Socket
from limpet.errors import ConfigError
from limpet.local import CLIENTS_MAX, REQUEST_BYTES_MAX, Local


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
    ready, _, _ = select.select(list(local.wanted()), [], [], 0)
    local.serve(dict.fromkeys(ready, select.POLLIN))


def test_a_question_in_pieces_is_answered_once_it_is_whole(local: Local) -> None:
    asker = client(local)
    for piece in (b'{"ask":', b'"status"}', b"\n"):
        asker.sendall(piece)
        serve(local)
    assert json.loads(asker.recv(1000)) == {"device": "kitchen"}
    assert asker.recv(1) == b"", "one question per connection"


@pytest.mark.parametrize("line", [b"x\n", b"{}\n", b'{"ask":"secrets"}\n', b"[1]\n"])
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
