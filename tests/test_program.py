"""How limpet starts itself: by an interpreter here, as one file where PyInstaller says so."""

from __future__ import annotations

import sys

import pytest

from limpet import program


def test_an_interpreter_is_told_the_package() -> None:
    assert program.words("run") == [sys.executable, "-m", "limpet", "run"]
    tool, word = program.native()
    assert tool.endswith("/limpet/native/limpet-tool") and word == "native"
    assert program.inspect() == [tool, "inspect"]
    assert program.materials() is None


def test_one_file_is_a_program_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "FROZEN", True)
    monkeypatch.setattr(sys, "executable", "/usr/bin/limpet")
    assert program.words("worker", "tool.py") == ["/usr/bin/limpet", "worker", "tool.py"]
    assert program.native() == ["/usr/bin/limpet", "native"]
    assert program.inspect() == ["/usr/bin/limpet", "inspect"]


def test_it_is_started_again_with_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/usr/bin/limpet")
    monkeypatch.setattr(sys, "orig_argv", ["limpet", "run", "--config", "x"])
    assert program.again() == ["/usr/bin/limpet", "run", "--config", "x"]
