"""The whole agent in made-up worlds: nothing lost, nothing twice, whatever happens around it.

`SEEDS=N` is how many worlds, `SEED=N` the first of them. The clock, the processes, the network and
the broker are made up; the Python half with paho, the machine, the policy and the journal are real.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from paho.mqtt import client as paho
from world import World

from limpet.policy import Site

NAMES = ("first", "second")
SEEDS = int(os.environ.get("SEEDS", "30"))
FIRST = int(os.environ.get("SEED", "0"))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """What the policy needs to know of a device whose broker is its own."""
    return Site(
        device="kitchen",
        task_root=str(tmp_path / "tasks"),
        loopback=True,
        worker=["/bin/false"],
        native=["/bin/false"],
    )


def live(seed: int, directory: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> World:
    """Live through the world `seed`; what went wrong is told with how to see it again."""
    directory.mkdir()
    world = World(seed, directory, site)
    monkeypatch.setattr(paho, "time_func", lambda: world.now_ms / 1000)
    try:
        world.run()
    except BaseException:
        print(b"".join(world.lines[-400:]).decode(errors="replace"))
        print(f"replay: SEED={seed} SEEDS=1 .venv/bin/pytest tests/sim")
        raise
    return world


def test_every_seed_keeps_the_promises(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(FIRST, FIRST + SEEDS):
        live(seed, tmp_path / f"{seed}", site, monkeypatch)


def test_one_seed_is_one_history(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    worlds = [live(FIRST, tmp_path / name, site, monkeypatch) for name in NAMES]
    assert worlds[0].trace.hexdigest() == worlds[1].trace.hexdigest()
    ours, theirs = (sorted((tmp_path / name / "journal").glob("*.journal")) for name in NAMES)
    assert [file.read_bytes() for file in ours] == [file.read_bytes() for file in theirs]
