"""The whole agent in made-up worlds: nothing lost, nothing twice, whatever happens around it.

`SEEDS=N` is how many worlds, `SEED=N` the only or the first of them. The clock, the processes, the
network and the broker are made up; the Python half with paho, the machine, the policy and the
journal are real.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from paho.mqtt import client as paho
from world import World

from limpet.policy import Site

NAMES = ("first", "second")
SEEDS = int(os.environ.get("SEEDS", "1" if "SEED" in os.environ else "30"))
FIRST = int(os.environ.get("SEED", "0"))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """What the policy needs to know of a device whose broker is its own."""
    return Site(
        device="kitchen",
        task_root=str(tmp_path / "tasks"),
        directory_bytes=1 << 28,
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
        print(f"replay: SEED={seed} .venv/bin/pytest tests/sim")
        raise
    return world


def test_every_seed_keeps_the_promises(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, lives, faults = 0, 0, 0
    for seed in range(FIRST, FIRST + SEEDS):
        world = live(seed, tmp_path / f"{seed}", site, monkeypatch)
        tasks += len(world.plans)
        lives += world.lives
        faults += world.faults
        shutil.rmtree(tmp_path / f"{seed}")
    print(f"\nmeasured whole agent: worlds={SEEDS} tasks={tasks} lives={lives} faults={faults}")


def test_one_seed_is_one_history(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    worlds = [live(FIRST, tmp_path / name, site, monkeypatch) for name in NAMES]
    assert worlds[0].trace.hexdigest() == worlds[1].trace.hexdigest()
    ours, theirs = (sorted((tmp_path / name / "journal").glob("*.journal")) for name in NAMES)
    assert [file.read_bytes() for file in ours] == [file.read_bytes() for file in theirs]
