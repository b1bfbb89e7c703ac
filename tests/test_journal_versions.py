"""A journal that an earlier version was killed over is gone on with: `vectors/journals`.

One file for each version, never changed again; `python tests/test_journal_versions.py` writes
that of the version at hand.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest

from limpet import __version__
from limpet.errors import EXIT_TASK
from samples import VECTORS

JOURNALS = VECTORS / "journals"
COMMAND = [sys.executable, "-m", "limpet"]
# It waits for ever in its first life.
WAIT = """[ -e begun ] && exit; touch begun; echo '{"progress": 1}' >&3; sleep 600"""
TASK = {
    "limpet": 1,
    "id": "kept-1",
    "expires_at": "2037-01-01T00:00:00Z",
    "steps": [
        {
            "name": "ask",
            "tool": "shell",
            "input": {"script": """echo '{"result": {"n": 7}}' >&3"""},
        },
        {
            "name": "wait",
            "tool": "shell",
            "input": {"script": WAIT},
            "on_interruption": "rerun",
        },
        {"name": "say", "tool": "exec", "input": {"argv": ["/bin/echo", "${steps.ask.result.n}"]}},
    ],
    "finally": [{"name": "bye", "tool": "shell", "input": {"script": "echo bye"}}],
}


def words(directory: Path) -> list[str]:
    task = directory / "task.json"
    task.write_text(json.dumps(TASK))
    return [*COMMAND, "try", str(task), "--state", str(directory / "state"), "--json"]


@pytest.mark.parametrize("file", sorted(JOURNALS.iterdir()), ids=lambda file: str(file.name))
def test_a_task_of_an_earlier_version_comes_to_its_end(file: Path, tmp_path: Path) -> None:
    # Not by tarfile: what it must be told differs between Python 3.11.2 and 3.12.
    subprocess.run(["tar", "-xJf", file, "-C", tmp_path], check=True)
    done = subprocess.run(words(tmp_path), capture_output=True, text=True)
    said: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    result = said[-1]
    # Between the two lives lies more than the hour that the task may take.
    told = (done.returncode, result.get("outcome"), result.get("clock"))
    assert told == (EXIT_TASK, "timed_out", "schedule_to_close"), done.stderr
    assert [one["answer"] for one in said if one["kind"] == "answer"] == ["known"]
    ask, wait, say, bye = result["steps"]
    outcomes = [step["outcome"] for step in (ask, wait, say, bye)]
    assert outcomes == ["succeeded", "timed_out", "skipped", "succeeded"]
    # Its end is what the earlier version wrote, not one that was made up since.
    assert ask["result"] == {"n": 7}
    assert ask["ended_ms"] - result["accepted_ms"] < 60_000 < bye["started_ms"] - ask["ended_ms"]


def test_there_is_a_journal_of_this_version() -> None:
    assert (JOURNALS / f"{__version__}.tar.xz").exists()


def main() -> None:
    """Be killed in mid-step, and keep what is left."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with subprocess.Popen(words(directory), stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert any(json.loads(line).get("progress") for line in process.stdout)
            process.kill()
        JOURNALS.mkdir(exist_ok=True)
        with tarfile.open(JOURNALS / f"{__version__}.tar.xz", "x:xz") as archive:
            archive.add(directory / "state", "state")


if __name__ == "__main__":
    main()
