"""How the runs in emulated machines are judged: `tests/vm`, without a machine."""

from __future__ import annotations

from typing import Any

import emulate
import guest

OUTPUT = """
running 3 tests
test keeps ... ok
test needs_more ... ok
test breaks ... FAILED

successes:

---- needs_more stdout ----
skipped: needs root


successes:
    keeps
"""
USER = next(setup for setup in guest.SETUPS if setup.user)
ROOT = guest.SETUPS[0]


def told(tests: dict[str, str], status: int = 0) -> list[dict[str, Any]]:
    return [
        {"program": name, "tests": tests, "status": status, "output": "", "seconds": 1.0}
        for name in emulate.TARGETS
    ]


def test_outcomes_are_read_with_their_reasons() -> None:
    assert guest.outcomes(OUTPUT) == {
        "keeps": "ok",
        "needs_more": "skipped: needs root",
        "breaks": "failed",
    }


def test_a_skip_proves_nothing_unless_it_is_part_of_the_set_up() -> None:
    skipped = told({"keeps": "ok", "needs_more": "skipped: needs root"})
    assert emulate.unproven(USER, skipped) == []
    assert len(emulate.unproven(ROOT, skipped)) == len(emulate.TARGETS)


def test_what_failed_or_did_not_run_proves_nothing() -> None:
    assert emulate.unproven(ROOT, told({"keeps": "ok"})) == []
    assert len(emulate.unproven(ROOT, told({"keeps": "ok"}, 101))) == len(emulate.TARGETS)
    assert len(emulate.unproven(ROOT, told({}))) == len(emulate.TARGETS)
    assert len(emulate.unproven(ROOT, told({"keeps": "ok"})[1:])) == 1
