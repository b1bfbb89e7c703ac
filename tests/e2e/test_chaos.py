"""A small run of what `make chaos` does at length."""

from __future__ import annotations

from pathlib import Path

from chaos import Amount, Chaos, check


def test_nothing_is_lost_or_doubled_in_a_small_chaos(tmp_path: Path) -> None:
    told = Chaos(tmp_path, Amount(tasks=60, kills=3, broker_restarts=2, link_faults=3), 7).run()
    print(told)
    check(told)
    assert told["faults and refusals"]["kill"] == 3
