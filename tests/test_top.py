"""`limpet top`: what a person sees at any width, and that the terminal is given back."""

from __future__ import annotations

import io
import re
from collections.abc import Generator, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet import errors
from limpet.cli import main
from limpet.controller import local, picture, present, top
from limpet.controller.context import Context
from limpet.controller.session import Heard
from limpet.controller.terminal import Screen
from limpet.topics import Address
from samples import pictured, row

SOCKET = Context("/s", 0, "limpet", "local", "kitchen", None, None, False, None, "/s")
BROKER = SOCKET._replace(socket=None, source="ops")
MIB = 1 << 20


def screen(json: bool = False, canvas: bool = False) -> Screen:
    return Screen(io.StringIO(), io.StringIO(), json=json, canvas=canvas)


def written(on: Screen) -> str:
    out = on._out
    assert isinstance(out, io.StringIO)
    return out.getvalue()


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (None, "-"),
        (0, "0 KiB"),
        (640 << 10, "640 KiB"),
        (30 * MIB, "30.0 MiB"),
        (3 << 29, "1.5 GiB"),
    ],
)
def test_a_size_is_short(size_bytes: int | None, text: str) -> None:
    assert present.size(size_bytes) == text


def test_a_table_without_a_terminal_has_no_bars() -> None:
    told = picture.lines(screen(), pictured(row("ops.t-1", 30 * MIB), refusing="no\x1b[2J room"))
    assert told == [
        "kitchen: memory is kept by sampled, containment by marker",
        "takes no task: no[2J room",
        "",
        "agent  20.0 MiB of 64.0 MiB",
        "pool   64.0 MiB of 512.0 MiB held, 30.0 MiB used",
        "",
        "SOURCE  TASK  STEP  NOW       PEAK      LIMIT     PROCESSES  TIER",
        "ops     t-1   hold  30.0 MiB  30.0 MiB  64.0 MiB  2          sampled",
    ]


def test_a_terminal_gets_bars_of_used_and_set_aside_and_free() -> None:
    told = picture.lines(screen(), pictured(row("ops.t-1", 32 * MIB)), 120)
    agent, pool, step = told[2], told[3], told[6]
    assert re.search(r"64.0 MiB +(█+░+)$", agent) is not None
    assert agent.count("█") == -(-20 * (agent.count("█") + agent.count("░")) // 64)
    assert re.search(r"used  █+▒+░+$", pool) is not None
    assert abs(step.count("█") - step.count("░")) <= 2


@given(
    st.integers(1, 300),
    st.lists(st.tuples(st.integers(0, 1 << 40), st.none() | st.integers(0, 1 << 40)), max_size=5),
)
def test_no_line_is_wider_than_the_terminal(
    width: int, sizes: list[tuple[int, int | None]]
) -> None:
    """However much anybody has of however little."""
    rows = [row(f"ops.t-{n}", used, limit) for n, (used, limit) in enumerate(sizes)]
    told = picture.lines(screen(), pictured(*rows), width)
    bars = [line for line in told if "░" in line or "█" in line]
    assert all(len(line) <= width for line in bars)
    assert all(len(line) <= max(width, 72) for line in told)


def test_hidden_steps_are_counted() -> None:
    told = picture.lines(screen(), {**pictured(), "hidden_steps": 3})
    assert told[-1].endswith("only an operator is shown: 3")


def answers(monkeypatch: pytest.MonkeyPatch, told: Iterable[Any]) -> None:
    """Let the agent's socket answer one of `told` after the other; an exception is raised."""
    rest = iter(told)

    def answer(_agent: Context, question: str) -> Any:
        assert question == "memory"
        said = next(rest)
        if isinstance(said, BaseException):
            raise said
        return said

    monkeypatch.setattr(local, "ask_agent", answer)
    monkeypatch.setattr(top, "_pause", lambda _: None)


def test_the_agent_is_asked_again_until_it_knows_its_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    young = {**pictured(), "age_ms": None}
    answers(monkeypatch, [young, young, pictured(row("ops.t-1", MIB))])
    on = screen(json=True)
    assert top.show(on, SOCKET, 1.0, 1) == errors.EXIT_OK
    assert '"id":"t-1"' in written(on)
    assert written(on).count("\n") == 1


def test_ctrl_c_ends_well_and_gives_the_terminal_back(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, [pictured(), pictured(), KeyboardInterrupt()])
    on = screen(canvas=True)
    assert top.show(on, SOCKET, 1.0, None) == errors.EXIT_OK
    told = written(on)
    assert told.startswith("\x1b[?1049h\x1b[?25l\x1b[H")
    assert told.endswith("\x1b[?25h\x1b[?1049l")
    assert told.count("\x1b[?1049h") == 1 and told.count("\x1b[H") == 2


def test_a_failure_gives_the_terminal_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, [pictured(), errors.LinkError("gone")])
    on = screen(canvas=True)
    with pytest.raises(errors.LinkError):
        top.show(on, SOCKET, 1.0, None)
    assert written(on).endswith("\x1b[?1049l")


def test_without_a_terminal_nothing_is_drawn_over(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, [pictured(), pictured()])
    on = screen()
    assert top.show(on, SOCKET, 1.0, 2) == errors.EXIT_OK
    assert "\x1b" not in written(on)
    assert written(on).count("kitchen") == 2


class Broker:
    """A session that hears what a test says, a second apart, and keeps what was published."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *heard: tuple[str, dict[str, Any]]) -> None:
        self.now_s = 0.0
        self.published: list[tuple[float, Address]] = []
        self.left = list(heard)
        monkeypatch.setattr(top, "Session", lambda _: self)
        monkeypatch.setattr(top, "seconds", lambda: self.now_s)

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *_: object) -> None:
        self.left = []

    def subscribe(self, filters: list[str]) -> None:
        assert "limpet/kitchen/memory/ops" in filters

    def publish(self, address: Address, message: bytes, _timeout_s: float) -> None:
        assert message.endswith(b'{"for":"10s","limpet":1}')
        self.published.append((self.now_s, address))

    def hear(self, _timeout_s: float) -> Heard | None:
        self.now_s += 1.0
        if not self.left:
            return None
        kind, document = self.left.pop(0)
        return Heard(Address("kitchen", kind, "ops"), document)


def collected(pictures: Generator[dict[str, Any], None, None], count: int) -> list[Any]:
    return [next(pictures) for _ in range(count)]


def test_the_broker_s_device_is_asked_again_before_its_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accepted = {"request": "look", "answer": "accepted"}
    broker = Broker(monkeypatch, ("answer", accepted), *[("memory", pictured())] * 12)
    collected(top._sent(screen(), BROKER, 1.0), 12)
    assert [at for at, _ in broker.published] == [0.0, 5.0, 10.0]
    assert {address for _, address in broker.published} == {Address("kitchen", "look", "ops")}


def test_an_interval_passes_over_what_comes_between(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [("memory", {**pictured(), "age_ms": number}) for number in range(9)]
    Broker(monkeypatch, *told)
    shown = collected(top._sent(screen(), BROKER, 3.0), 3)
    assert [each["age_ms"] for each in shown] == [0, 2, 5]


def test_a_refusal_and_silence_have_their_exit_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = {"request": "look", "answer": "refused", "code": "busy_looks", "detail": "4 look"}
    Broker(monkeypatch, ("answer", {"request": "task", "answer": "refused"}), ("answer", refused))
    with pytest.raises(top.Refused, match=r"refused: 4 look \(busy_looks\)") as caught:
        top.show(screen(), BROKER, 1.0, 1)
    assert caught.value.exit_code == errors.EXIT_TASK
    Broker(monkeypatch, ("presence", {"online": False}), ("memory", {"age_ms": None}))
    on = screen()
    with pytest.raises(top.Silent) as silent:
        top.show(on, BROKER, 1.0, 1)
    assert silent.value.exit_code == errors.EXIT_TIMEOUT
    assert on._err.getvalue() == "kitchen is offline\n"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "words",
    [
        ["--interval", "500ms"],
        ["--interval", "2h"],
        ["--count", "0"],
        ["--count", "-1"],
        ["--once", "--count", "2"],
        ["--local", "-d", "kitchen"],
    ],
)
def test_a_wrong_command_line_is_a_usage_error(words: list[str]) -> None:
    assert main(["top", *words]) == errors.EXIT_USAGE
