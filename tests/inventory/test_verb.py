"""`limpet inspect` as a command: its words, its exit codes, what it does when it is interrupted."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

from inspecting import finish, inspect, write_gguf

from limpet.controller.arguments import build_parser

HASHED_BYTES = 8 << 30
PAGE = Path(__file__).parents[2] / "INVENTORY.md"


def test_the_completion_has_the_words_that_are_read() -> None:
    """Two lists, in two languages: the help is of the one that reads."""
    actions = build_parser()._subparsers
    assert actions is not None
    (commands,) = actions._group_actions
    assert isinstance(commands.choices, dict)
    spelled = set(commands.choices["inspect"]._option_string_actions)
    told = inspect("--help").out
    for option in spelled:
        assert option in told, option
        wrong = "there is no option"
        assert wrong not in inspect("none", option, "1").error, option
    words = told.replace("|", " ").replace(",", " ").split()
    assert {word for word in words if word.startswith("--") and "..." not in word} <= spelled


def test_the_page_has_every_rule() -> None:
    """As `--rules` prints them: `PYTHONPATH=tests/inventory python -m test_verb` writes it anew."""
    assert PAGE.read_text() == page(PAGE.read_text())


def page(text: str) -> str:
    """Return the page with the rules that the program has."""
    begin, end = "<!-- rules: begin -->\n", "<!-- rules: end -->\n"
    before, rest = text.split(begin)
    rows = "| rule | severity | because |\n| --- | --- | --- |\n"
    for line in inspect("--rules").out.splitlines():
        rule, severity, why = line.split(maxsplit=2)
        rows += f"| `{rule}` | {severity} | {why} |\n"
    return before + begin + rows + end + rest.split(end)[1]


def test_paths_are_told_as_they_are_asked_for(tmp_path: Path) -> None:
    finish(write_gguf(tmp_path / "tiny.gguf"))
    command = [sys.executable, "-m", "limpet", "inspect", "tiny.gguf", "--format", "spdx"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "PackageFileName: tiny.gguf\n" in done.stdout and str(tmp_path) not in done.stdout
    command.append("--absolute")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"PackageFileName: {tmp_path}/tiny.gguf\n" in done.stdout


def test_a_terminal_sees_how_far_it_is_and_may_interrupt(tmp_path: Path) -> None:
    """Only a terminal does; what was to be written is not there afterwards."""
    file, output = tmp_path / "tiny.gguf", tmp_path / "bill.json"
    finish(write_gguf(file))
    with file.open("r+b") as opened:
        opened.truncate(HASHED_BYTES)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "limpet", "inspect", str(file), "--json"]
    child = subprocess.Popen([*command, "--output", str(output)], stderr=theirs)
    os.close(theirs)
    said = b""
    while b"%" not in said:
        said += os.read(ours, 4096)
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=60) == 130
    said += os.read(ours, 4096)
    assert b"tiny.gguf [" in said and b"MiB/s" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.gguf"]
    os.close(ours)
    with file.open("r+b") as opened:
        opened.truncate(HASHED_BYTES >> 3)
    assert inspect(file, "--json").error == ""


def test_it_goes_on_to_say_what_is_wrong_with_the_others(tmp_path: Path) -> None:
    finish(write_gguf(tmp_path / "tiny.gguf"))
    ended = inspect(tmp_path / "tiny.gguf", tmp_path / "none.gguf")
    assert ended.code == 2 and "none.gguf" in ended.error
    os.mkfifo(tmp_path / "pipe.gguf")
    ended = inspect(tmp_path / "tiny.gguf", tmp_path / "pipe.gguf", "--idle")
    assert ended.code == 2 and "it is no regular file" in ended.error
    assert len(ended.json()) == 1


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
