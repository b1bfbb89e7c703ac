"""The benchmark runs from end to end with tiny counts; no time is judged."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import bars
import beginnings
import boundary
import footprint
import harness
import lateness
import pytest
import report
import ways
from brokers import MOSQUITTO_PROGRAM
from targets import limpet, scripts

import bench

COUNTS = bench.SIZES["tiny"]


@pytest.fixture(scope="module", autouse=True)
def load() -> None:
    """Build the load as the tests of Rust are built: the benchmark itself builds it optimised."""
    if not MOSQUITTO_PROGRAM.exists():
        pytest.skip(f"{MOSQUITTO_PROGRAM} is not installed")
    manifest = harness.ROOT / "native" / "Cargo.toml"
    argv = ["cargo", "build", "--quiet", "--locked", "--manifest-path", str(manifest)]
    subprocess.run([*argv, "-p", "limpet-bench"], check=True)
    harness.LOAD = harness.LOAD.parent.parent / "debug" / harness.LOAD.name


def test_a_turn_measures_the_machine_and_every_target() -> None:
    told = bench.in_turns(COUNTS, [limpet.Limpet, scripts.Naive])
    for figures in told["targets"].values():
        assert figures["first instruction, 1 at once"]["samples"] == COUNTS["dispatch"]
        assert figures["exec, tasks/s"]["p50"] > 0
    assert "noop, tasks/s" in told["targets"]["limpet"]
    assert told["machine"]["broker, there and back, µs"]["samples"] == COUNTS["echoes"]


def test_every_deadline_under_the_storm_tells_how_late_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subjects: list[Any] = [limpet.Stormy]
    monkeypatch.setattr(lateness, "subjects", lambda: subjects)
    (told,) = bench.deadlines(COUNTS).values()
    assert told["C loop, fifo"]["samples"] == COUNTS["deadlines"]
    assert told["subject"]["samples"] > 0


def test_memory_starts_growth_and_crossings_are_told() -> None:
    idle = footprint.idle(limpet.AsShipped, COUNTS["idle"], tls=True)
    assert idle["RSS"] >= idle["PSS"] >= idle["USS"] > 0
    life = footprint.life(limpet.AsShipped, COUNTS)
    assert life["flood"]["peak"]["RSS"] > 0
    assert ways.growth(limpet.Limpet, COUNTS)["waiting"]["tasks"] == COUNTS["waiting"]
    assert beginnings.recovery(limpet.Limpet, COUNTS)["samples"] == 3
    assert boundary.measure(COUNTS["batches"], 4)["crossings per task"] > 0
    assert beginnings.imports()[0]["modules"] > 10


def test_nothing_is_measured_in_memory() -> None:
    argv = ["findmnt", "-nt", "tmpfs", "-o", "TARGET"]
    found = subprocess.run(argv, capture_output=True, text=True).stdout.split()
    if not found:
        pytest.skip("nothing is mounted that is no disk")
    with pytest.raises(SystemExit, match="tmpfs"):
        harness.refuse_memory(Path(found[0]))


def test_a_summary_tells_ranks_that_were_measured() -> None:
    told = harness.summary([float(value) for value in range(1, 1001)], "µs")
    assert [told[share] for share in report.PERCENTILES] == [500, 950, 990, 999, 1000]
    assert bars.paired([4, 9, 2], [2, 3, 2]) == 2
