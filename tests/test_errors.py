"""Errors carry what their reader branches on: exit codes, reason codes, all mistakes at once."""

from __future__ import annotations

import pytest

from limpet import errors
from limpet.errors import ConfigError, CoreError, LimpetError, LinkError, TaskError, check, nearest


def test_every_exit_code_is_documented_and_distinct() -> None:
    codes = [value for name, value in vars(errors).items() if name.startswith("EXIT_")]
    assert sorted(codes) == sorted(set(codes)) == sorted(errors.EXITS)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LimpetError("x"), 70),
        (ConfigError(["a:1: x"]), 78),
        (TaskError("expired", "x"), 1),
        (CoreError("x"), 70),
        (LinkError("x"), 4),
    ],
)
def test_an_error_decides_the_exit_code(error: LimpetError, code: int) -> None:
    assert error.exit_code == code
    assert code in errors.EXITS


def test_a_config_error_shows_every_mistake_on_its_line() -> None:
    error = ConfigError(["a.toml:1: x", "a.toml:2: y"])
    assert str(error).splitlines() == ["a.toml:1: x", "a.toml:2: y"]
    assert error.mistakes == ("a.toml:1: x", "a.toml:2: y")


def test_a_task_error_says_what_happens_next() -> None:
    error = TaskError("expired", "expires_at: is past")
    assert str(error) == "cannot accept the message: expires_at: is past (refused as expired)"


def test_a_task_error_refuses_a_code_that_is_not_listed() -> None:
    with pytest.raises(AssertionError, match="no_such_code"):
        TaskError("no_such_code", "x")


def test_check_raises_when_the_promise_is_broken() -> None:
    check(True, "fine")
    with pytest.raises(AssertionError, match="the sky is up"):
        check(False, "the sky is up")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("jiter", ' (did you mean "jitter"?)'),
        ("keepalive", ' (did you mean "keepalive"?)'),
        ("zzz", ""),
        ("", ""),
        ("x" * 100_000, ""),
    ],
)
def test_nearest_names_a_close_word_or_nothing(word: str, expected: str) -> None:
    assert nearest(word, ["jitter", "keepalive"]) == expected
