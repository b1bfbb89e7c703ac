"""How `limpet logs` finds what steps have written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from limpet.controller import logs
from limpet.controller.document import FileError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for task in ("ops.app", "lab.app", "north+east.b.c"):
        directory = tmp_path / "state" / "logs" / task
        directory.mkdir(parents=True)
        (directory / "01-use.1.stdout").write_text("later\n")
        (directory / "00-get.2.stderr").write_text("second try\n")
        (directory / "00-get.1.stdout").write_text("first try\n")
        (directory / "something else").write_text("not ours")
    return tmp_path / "state" / "logs"


def test_a_task_is_found_by_its_id_if_that_is_enough(root: Path) -> None:
    """An id alone suffices while one source has used it; otherwise both are named."""
    assert logs.find(str(root), "b.c") == "north+east.b.c"
    assert logs.find(str(root), "ops/app") == "ops.app"
    assert logs.find(str(root), "north.east/b.c") == "north+east.b.c"
    with pytest.raises(FileError, match="lab/app and ops/app"):
        logs.find(str(root), "app")
    with pytest.raises(FileError, match="there are none"):
        logs.find(str(root), "other/app")


def test_logs_come_in_the_order_of_the_steps_and_attempts(root: Path) -> None:
    """Files that the agent did not write are passed over."""
    found = logs.read_names(str(root / "ops.app"))
    assert [(log.step, log.attempt, log.stream) for log in found] == [
        ("get", 1, "stdout"),
        ("get", 2, "stderr"),
        ("use", 1, "stdout"),
    ]


def run(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    config = root.parent / "limpet.toml"
    config.write_text(f'[device]\nname = "d"\nstate_directory = "{root.parent}"\n')
    command = [sys.executable, "-m", "limpet", "logs", *words, "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_copies_what_was_written(root: Path) -> None:
    """One log comes as it is; several come with headings; none is an error."""
    assert run(root, "ops/app", "use").stdout == "later\n"
    both = run(root, "ops/app", "get").stdout
    assert both.index("first try") < both.index("second try")
    assert "attempt 2, stderr" in both
    missing = run(root, "ops/app", "nothing")
    assert missing.returncode != 0
    assert "no such step" in missing.stderr
