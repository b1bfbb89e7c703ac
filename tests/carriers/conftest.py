"""Fixtures of the tests of carriers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from brokers import MOSQUITTO_PROGRAM, Broker
from debian import (
    BUILD,
    FROZEN,
    Debian,
    build_package,
    fetch_debian,
    needs,
    needs_its_processor,
)


@pytest.fixture(scope="session")
def frozen() -> Path:
    """The frozen file."""
    if not FROZEN:
        pytest.skip("no frozen file is named (make test-carriers)")
    return Path(FROZEN).resolve(strict=True)


@pytest.fixture(scope="session")
def package(frozen: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the Debian package of a version, made once."""
    needs("dpkg-deb", "help2man")
    made: dict[str, Path] = {}

    def make(version: str) -> Path:
        if version not in made:
            made[version] = build_package(frozen, tmp_path_factory.mktemp("deb"), version)
        return made[version]

    return make


@pytest.fixture
def debian(tmp_path: Path) -> Iterator[Debian]:
    """A Debian of this machine's release, fresh for each test; it is fetched once."""
    needs("mmdebstrap", "unshare")
    needs_its_processor()
    kept = BUILD / "debian.tar"
    if not kept.exists():
        fetch_debian(kept)
    root = tmp_path / "debian"
    root.mkdir()
    subprocess.run(["tar", "-xf", kept, "-C", root, "--exclude=./dev/*"], check=True)
    yield Debian(root)
    shutil.rmtree(root)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    if not MOSQUITTO_PROGRAM.exists():
        pytest.skip(f"{MOSQUITTO_PROGRAM} is not installed")
    with Broker("mosquitto", "5", tmp_path).running() as broker:
        yield broker
