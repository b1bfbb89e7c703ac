"""How the agent starts and with which code it ends, as a supervisor sees it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from limpet.errors import EXIT_CONFIG, EXIT_TEMPORARY
from limpet.native.core import Core
from limpet.policy import Site
from manual import policy, settings
from samples import ROOT
from test_slim import CONFIG


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "policy.toml").write_text("")
    file = tmp_path / "limpet.toml"
    file.write_text(CONFIG.format(directory=tmp_path))
    return file


def run(config: Path) -> tuple[int, str]:
    """Run the agent until it ends by itself."""
    done = subprocess.run(
        [sys.executable, "-m", "limpet", "run", "--config", str(config)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "runtime")},
        capture_output=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stderr.decode()


def test_all_mistakes_of_the_configuration_are_told_at_once(config: Path) -> None:
    config.write_text(config.read_text() + "[broker]\nhots = 1\nport = 70000\n")
    code, told = run(config)
    assert code == EXIT_CONFIG
    assert "hots" in told
    assert "70000" in told


def test_a_mistake_of_the_policy_is_one_of_the_configuration(config: Path) -> None:
    (config.parent / "policy.toml").write_text("[[allow]]\nsource = 1\ntools = []\n")
    code, told = run(config)
    assert code == EXIT_CONFIG
    assert "policy.toml" in told


def test_a_journal_that_another_agent_holds_is_worth_a_restart(config: Path, site: Site) -> None:
    directory = config.parent / "state"
    directory.mkdir()
    with Core(settings(directory, policy(site).table)):
        code, told = run(config)
    assert code == EXIT_TEMPORARY
    assert "cannot " in told
