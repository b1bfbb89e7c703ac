"""Every mutant still applies to the tree, so that whoever moves its place notices at once."""

from __future__ import annotations

import re

import core
import mutate
import pytest


@pytest.mark.parametrize("mutant", mutate.load(), ids=lambda mutant: mutant.name)
def test_a_mutant_applies_to_the_product(mutant: mutate.Mutant) -> None:
    assert mutate.apply(mutate.ROOT, mutant, "--check") == ""
    changed = re.findall(r"^\+\+\+ b/(\S+)$", mutant.file.read_text(), re.MULTILINE)
    assert changed
    assert all(re.match(r"native/\w+/src/|runtime/limpet/", file) for file in changed)


def test_there_are_enough_mutants_and_a_quick_subset() -> None:
    mutants = mutate.load()
    assert len(mutants) >= 15
    assert any(mutant.quick for mutant in mutants) and not all(mutant.quick for mutant in mutants)


@pytest.mark.parametrize(
    ("runner", "code", "output", "ended"),
    [
        ("cargo", 101, "test result: FAILED. 0 passed; 1 failed; 0 ignored", "failed"),
        (
            "cargo",
            101,
            "error[E0425]: cannot find value",
            "it ended with 101 and no test has failed",
        ),
        ("cargo", 0, "test result: ok. 0 passed; 0 failed; 0 ignored", "no test has run"),
        ("cargo", 0, "test result: ok. 1 passed; 0 failed; 0 ignored", "passed"),
        ("pytest", 1, "1 failed in 0.30s", "failed"),
        ("pytest", 4, "ERROR: not found", "it ended with 4 and no test has failed"),
    ],
)
def test_only_a_failed_test_kills(runner: str, code: int, output: str, ended: str) -> None:
    assert mutate.judge(runner, code, output) == ended


def test_every_survivor_of_the_core_has_a_reason_and_a_place() -> None:
    survivors = core.explained()
    for file, _ in survivors:
        assert (mutate.ROOT / "native" / "core" / "src" / file).is_file()
