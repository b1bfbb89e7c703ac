"""The agent's own memory: watermarks, tidying, pressure, and when only a new process helps."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from limpet.memory import RESTART_AFTER_MS, Memory, Pressure, full_of, used_bytes

MIB = 1 << 20


class Bench:
    """A budget of 100 MiB and an agent that has what the test says."""

    def __init__(self) -> None:
        self.held = 10 * MIB
        self.pressed: str | None = None
        self.now_ms = 0
        self.memory = Memory(100 * MIB, 0, lambda: self.held, lambda: self.pressed)

    def look(self, held_mib: int | None = None, after_ms: int = 1_000) -> str | None:
        if held_mib is not None:
            self.held = held_mib * MIB
        self.now_ms += after_ms
        self.memory.tick(self.now_ms)
        return self.memory.reason


@pytest.fixture
def collections(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the collections that are asked for."""
    counted: list[int] = []
    monkeypatch.setattr(gc, "collect", lambda: counted.append(1))
    return counted


def test_a_small_agent_refuses_nothing_and_is_not_woken(collections: list[int]) -> None:
    bench = Bench()
    assert bench.look(79) is None
    assert (bench.memory.deadline_ms, bench.memory.restart, collections) == (None, False, [])


def test_near_its_budget_it_refuses_until_it_is_smaller(collections: list[int]) -> None:
    bench = Bench()
    assert bench.look(80) == "the agent has 80MiB of the 100MiB it may have"
    assert bench.memory.deadline_ms == bench.now_ms + 1_000
    assert bench.look(79, after_ms=999) is not None, "it does not look before its time"
    assert bench.look(after_ms=1) is None
    assert collections == []


def test_garbage_is_collected_before_it_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()

    def collect() -> int:
        bench.held = 50 * MIB
        return 0

    monkeypatch.setattr(gc, "collect", collect)
    assert bench.look(95) is None
    assert bench.look(95) is not None, "it does so at most once in ten seconds"
    assert bench.look(95, after_ms=9_000) is None


@pytest.mark.usefixtures("collections")
def test_only_an_agent_that_grew_slowly_is_to_start_anew() -> None:
    bench = Bench()
    for _ in range(20):
        bench.look(101)
    assert not bench.memory.restart, "it would only do so again"
    bench.look(99, after_ms=RESTART_AFTER_MS)
    for _ in range(4):
        bench.look(100)
        assert not bench.memory.restart, "it may pass"
    bench.look(99)
    for _ in range(5):
        bench.look(100)
    assert bench.memory.restart


def test_a_kernel_that_presses_is_a_reason() -> None:
    bench = Bench()
    bench.pressed = "it is short"
    assert bench.look() == "it is short"
    bench.pressed = None
    assert bench.look() is None


def test_pressure_is_read_from_the_group_that_counts_us(tmp_path: Path) -> None:
    file = tmp_path / "memory.pressure"
    text = (
        "some avg10=55.00 avg60=1.00 avg300=0.00 total=1\n"
        "full avg10=12.34 avg60=0.10 avg300=0.00 total=1\n"
    )
    file.write_text(text)
    pressure = Pressure(str(tmp_path))
    assert pressure() == "all wait for memory 12.34% of the time, says the kernel"
    file.write_text(text.replace("12.34", "9.99"))
    assert pressure() is None
    file.unlink()
    assert pressure() is None


def test_a_group_that_was_out_of_memory_presses_once(tmp_path: Path) -> None:
    events = tmp_path / "memory.events"
    events.write_text("low 0\nhigh 3\nmax 9\noom 2\noom_kill 1\noom_group_kill 0\n")
    (tmp_path / "memory.pressure").write_text("")
    pressure = Pressure(str(tmp_path))
    assert pressure() is None, "what was before us is not our affair"
    events.write_text("low 0\nhigh 3\nmax 9\noom 3\noom_kill 1\n")
    told = "the memory that the agent and its steps share ran out, says the kernel"
    assert [pressure(), pressure()] == [told, None]
    events.unlink()
    assert pressure() is None


@pytest.mark.parametrize("text", ["", "some avg10=1.00", "full avg10=", "full avg10=x total=1"])
def test_what_is_no_pressure_file_presses_nothing(text: str) -> None:
    assert full_of(text) == 0.0


def test_what_this_process_holds_is_counted() -> None:
    before = used_bytes()
    held = bytearray(b"x") * (32 * MIB)
    grown = used_bytes() - before
    assert 30 * MIB < grown < 64 * MIB
    assert len(held) == 32 * MIB
