"""What `limpet doctor` says of the machine's memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from limpet.cli import main
from limpet.controller import doctor


def test_every_term_of_the_arena_is_shown_with_its_reason() -> None:
    """A reader can add the terms up and sees why each is there."""
    terms = [["tasks", 2, 100, "one slot per live task"], ["steps", 3, 10, "one pool"]]
    total, *shown = doctor.arena(230, terms)
    assert "230 B" in total.found
    assert [each.found for each in shown] == [
        "2 x 100 B: one slot per live task",
        "3 x 10 B: one pool",
    ]


def test_the_real_terms_sum_to_the_real_arena() -> None:
    """What the core reports of its arithmetic is its arena, to the byte."""
    findings = {each.name.strip(): each.found for each in doctor.examine_core({})}
    sizes = []
    for name in ("tasks", "due", "steps", "attempts", "ids", "effects", "answers"):
        count, rest = findings[name].split(" x ")
        sizes.append(int(count) * int(rest.split(" B")[0]))
    assert f"arena of {sum(sizes)} B" in findings["core"]


def test_the_arena_is_that_of_the_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is shown is what the agent would reserve, not the most there can be."""
    file = tmp_path / "limpet.toml"
    file.write_text('[device]\nname = "kitchen"\n[limits]\ntasks = 32\nids = 64\n')
    main(["doctor", "--config", str(file), "--json"])
    findings = map(json.loads, capsys.readouterr().out.splitlines())
    found = {each["name"].strip(): each["found"] for each in findings}
    assert [found[name].split()[0] for name in ("tasks", "ids")] == ["32", "64"]


def test_memory_divides_as_the_configuration_wants_it() -> None:
    """What is asked for is what is shown; the default of a step is within the pool."""
    wanted = {"agent_bytes": 30 << 20, "pool_bytes": 40 << 20, "step_bytes": None}
    findings = {each.name.strip(): each.found for each in doctor.examine_core({"memory": wanted})}
    shown = [findings[name].partition(":")[0] for name in ("agent", "pool", "step")]
    assert shown == ["30MiB", "40MiB", "40MiB"]
    assert findings["budget"].endswith("of this device")


def test_what_does_not_add_up_fails_with_the_numbers() -> None:
    """The agent would not start so, and says why."""
    wanted = {"agent_bytes": None, "pool_bytes": 1 << 40, "step_bytes": None}
    (finding,) = doctor.examine_core({"memory": wanted})
    assert finding.verdict == "fail"
    assert "a pool of 1099511627776 is wanted" in finding.advice
