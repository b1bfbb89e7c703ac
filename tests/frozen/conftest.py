"""The single executable, and an agent that is one.

LIMPET_FROZEN names the file (`make test-frozen` does); otherwise dist/limpet-ARCH of this machine
is tested if it is there. A file for another processor is run by `packaging/emulated`; what came of
that, and what cannot be seen there, is written to `tests/results/frozen-ARCH.json`.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import Broker
from executable import Frozen, Limpet
from fleet import ROOT, Controller, listening

PATIENCE_S = 120.0
EMULATED = ROOT / "packaging" / "emulated"


def architecture(file: Path) -> str:
    """Return for which processor it is, by its name."""
    return file.name.rpartition("-")[2]


@pytest.fixture(scope="session")
def file() -> Path:
    """Return the single executable."""
    told = os.environ.get("LIMPET_FROZEN")
    file = ROOT / (told or f"dist/limpet-{platform.machine()}")
    if told is None and not file.exists():
        pytest.skip(f"there is no {file.relative_to(ROOT)} (make test-frozen)")
    assert file.exists(), file
    return file


@pytest.fixture(scope="session")
def around(file: Path) -> list[str]:
    """Return the words that go before a command in which the file is to run."""
    foreign = architecture(file) != platform.machine()
    return [str(EMULATED), architecture(file)] if foreign else []


@pytest.fixture(scope="session")
def command(around: list[str], file: Path) -> list[str]:
    """Return the words that start the file."""
    return [*around, str(file)]


@pytest.fixture
def limpet(command: list[str]) -> Limpet:
    def run(*words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *words],
            input=given,
            env={},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    return run


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker("iotcore", "3.1.1", tmp_path).running() as broker:
        yield broker


@pytest.fixture
def device(command: list[str], broker: Broker, tmp_path: Path) -> Iterator[Frozen]:
    device = Frozen(tmp_path, broker, command)
    device.run()
    yield device
    device.stop()
    print(device.log())


@pytest.fixture
def controller(broker: Broker) -> Iterator[Controller]:
    with listening(broker) as controller:
        yield controller
