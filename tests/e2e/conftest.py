"""Fixtures of the end-to-end tests: brokers in both protocol versions, an agent, a controller."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import MOSQUITTO_PROGRAM, Broker
from fleet import Controller, Device, listening

LANES = [
    pytest.param(("mosquitto", "5"), id="mosquitto-5"),
    pytest.param(("mosquitto", "3.1.1"), id="mosquitto-3.1.1"),
    pytest.param(("iotcore", "5"), id="iotcore-5"),
    pytest.param(("iotcore", "3.1.1"), id="iotcore-3.1.1"),
]


@pytest.fixture(params=LANES)
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    """Each broker in each protocol version."""
    kind, protocol = request.param
    if kind == "mosquitto" and not MOSQUITTO_PROGRAM.exists():
        pytest.skip(f"{MOSQUITTO_PROGRAM} is not installed")
    with Broker(kind, protocol, tmp_path).running() as broker:
        yield broker


@pytest.fixture
def device(broker: Broker, tmp_path: Path) -> Iterator[Device]:
    """An agent that was started; its log is shown when the test fails."""
    device = Device(tmp_path, broker, broker.protocol)
    device.start()
    yield device
    device.stop()
    print(device.log())


@pytest.fixture
def controller(broker: Broker) -> Iterator[Controller]:
    """A controller of that broker."""
    with listening(broker) as controller:
        yield controller
