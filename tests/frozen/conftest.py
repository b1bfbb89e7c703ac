"""The single executable, and an agent that is one.

LIMPET_FROZEN names the file (`make test-frozen` does); otherwise dist/limpet-ARCH of this machine
is tested if it is there. A foreign file is run by qemu-user over the C library of the build root.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import Broker
from executable import Frozen, Limpet
from fleet import ROOT, Controller, listening

FOREIGN = {
    "aarch64": ("qemu-aarch64-static", "aarch64-linux-gnu"),
    "armv7": ("qemu-arm-static", "arm-linux-gnueabihf"),
}
PATIENCE_S = 120.0


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the words that start the file."""
    told = os.environ.get("LIMPET_FROZEN")
    file = ROOT / (told or f"dist/limpet-{platform.machine()}")
    if told is None and not file.exists():
        pytest.skip(f"there is no {file.relative_to(ROOT)} (make test-frozen)")
    assert file.exists(), file
    arch = file.name.rpartition("-")[2]
    if arch == platform.machine():
        return [str(file)]
    emulator, libraries = FOREIGN[arch]
    root = tmp_path_factory.mktemp("root")
    (build_root,) = (ROOT / "build" / "freeze").glob("root-*")
    shutil.copytree(build_root / "usr" / "lib" / libraries, root / "lib", symlinks=True)
    return [emulator, "-L", str(root), str(file)]


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
