"""`limpet selftest`: what it proves here, and that it notices when there is nothing to prove."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from limpet.controller import selftest, site
from limpet.controller.document import FileError
from limpet.controller.terminal import Screen
from limpet.errors import EXIT_OK, EXIT_TASK


def prove(
    capsys: pytest.CaptureFixture[str], directory: str
) -> tuple[int, dict[str, dict[str, str]]]:
    """Return the exit code and the findings by their names."""
    code = selftest.run(Screen(sys.stdout, sys.stderr, json=True), directory)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return code, {line["name"]: line for line in lines}


def test_every_check_is_proven_and_nothing_is_left(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, found = prove(capsys, str(tmp_path))
    assert code == EXIT_OK, found
    assert list(found) == ["limpet", *selftest.CHECKS]
    # Which tier did it is said in the terms of presence and of results.
    assert found["memory"]["found"].split()[4].startswith(("cgroup_v1", "cgroup_v2", "sampled"))
    assert list(tmp_path.iterdir()) == []


def test_a_build_without_its_native_tools_is_found(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = site.trial

    def broken(directory: str) -> object:
        return real(directory)._replace(native=["/nowhere/limpet", "native"])

    monkeypatch.setattr(site, "trial", broken)
    monkeypatch.setattr(selftest, "CHECKS", {"native tools": selftest.CHECKS["native tools"]})
    code, found = prove(capsys, str(tmp_path))
    assert code == EXIT_TASK
    assert found["native tools"]["verdict"] == "fail"
    assert "exec_failed" in found["native tools"]["found"]


@pytest.mark.parametrize(
    ("check", "tool", "program"),
    [
        # One that goes by itself has not shown that a deadline ends it.
        ("deadline", "stubborn", ""),
        # One that takes little has not shown that too much is noticed.
        ("memory", "hog", ""),
        # One that ends at once leaves nothing that a restart could find.
        ("restart", "patient", ""),
        ("python tools", "answer", "import sys\nsys.exit(3)\n"),
    ],
)
def test_a_check_that_shows_nothing_fails(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    check: str,
    tool: str,
    program: str,
) -> None:
    monkeypatch.setitem(selftest.TOOLS, tool, program)
    monkeypatch.setattr(selftest, "CHECKS", {check: selftest.CHECKS[check]})
    code, found = prove(capsys, str(tmp_path))
    assert (code, found[check]["verdict"]) == (EXIT_TASK, "fail"), found


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="nowhere"):
        selftest.run(Screen(sys.stdout, sys.stderr), str(tmp_path / "nowhere"))
