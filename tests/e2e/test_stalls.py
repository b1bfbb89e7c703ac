"""Whatever holds a thread of the agent up, tasks go on and deadlines pass; `make stalls` says how
late. Here order and outcomes are judged, and a thread is held only for as long as that needs."""

from __future__ import annotations

from pathlib import Path

import pytest
import stalls
from brokers import Broker


@pytest.mark.parametrize("broker", [("iotcore", "5")], ids=["iotcore-5"], indirect=True)
@pytest.mark.parametrize("held", stalls.SCENARIOS)
def test_no_deadline_waits_while(held: str, broker: Broker, tmp_path: Path) -> None:
    stalls.run(held, broker, tmp_path, long=False)
