"""The command line: which words mean what, which exit code follows, what a program reads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from limpet import app, config, errors, policy
from limpet.cli import CONFIG_FILE, main, read_run
from limpet.controller.arguments import OVERVIEW, build_parser

TASK = {
    "id": "t-1",
    "expires_at": "2037-01-01T00:00:00Z",
    "steps": [{"name": "a", "tool": "sleep", "input": {"duration": "1ms"}}],
}


def write(path: Path, document: object) -> str:
    path.write_text(json.dumps(document))
    return str(path)


@pytest.mark.parametrize(
    ("words", "file"),
    [
        ([], CONFIG_FILE),
        (["--config", "/a"], "/a"),
        (["--config=/a"], "/a"),
        (["--help"], None),
    ],
)
def test_run_is_read_without_argparse(words: list[str], file: str | None) -> None:
    assert read_run(words) == file


@pytest.mark.parametrize(
    "words", [["--config"], ["--config="], ["x"], ["--config", "/a", "b"], ["--confg", "/a"]]
)
def test_run_refuses_what_it_does_not_know(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *words]) == errors.EXIT_USAGE
    assert "cannot run the agent" in capsys.readouterr().err


def test_a_worker_runs_a_python_file_as_a_program(tmp_path: Path) -> None:
    tool = tmp_path / "tool.py"
    tool.write_text("import json, sys; print(__name__, sys.argv, json.load(sys.stdin)['n'])")
    command = [sys.executable, "-m", "limpet", "worker", str(tool), "--fast"]
    done = subprocess.run(command, input='{"n": 7}', capture_output=True, text=True, check=True)
    assert done.stdout == f"__main__ ['{tool}', '--fast'] 7\n"


def test_reading_the_word_run_imports_nothing_of_the_commands() -> None:
    """The agent pays memory for what it imports."""
    code = (
        "import sys; from limpet.cli import main; main(['run', '--help']);"
        "print([m for m in ('argparse', 'limpet.controller', 'paho') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("words", [["sbmit"], ["submit"], ["task"], ["retry", "x.json"], []])
def test_a_wrong_command_line_is_a_usage_error(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == errors.EXIT_USAGE
    assert "cannot read the command line" in capsys.readouterr().err


def test_the_overview_names_every_command() -> None:
    actions = [action for action in build_parser()._actions if action.dest == "==SUPPRESS=="]
    assert len(actions) == 1 and actions[0].choices is not None
    missing = [name for name in actions[0].choices if name not in OVERVIEW]
    assert missing == ["version"]


def test_help_lists_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == errors.EXIT_OK
    told = capsys.readouterr().out
    assert all(text in told for text in errors.EXITS.values())


def test_a_sound_task_passes_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "t.json", TASK)
    assert main(["task", "check", file, "--json"]) == errors.EXIT_OK
    assert json.loads(capsys.readouterr().out) == {
        "kind": "check",
        "ok": True,
        "id": "t-1",
        "steps": 1,
    }


def test_a_mistake_in_a_task_is_told_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = [{"name": "a", "tool": "sleep", "retry": {"jiter": 1}}]
    file = write(tmp_path / "t.json", {**TASK, "steps": steps})
    assert main(["task", "check", file]) == errors.EXIT_TASK
    assert "steps[0].retry.jiter" in capsys.readouterr().err


def test_a_failure_is_one_json_line_for_a_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["task", "check", str(tmp_path / "none"), "--json"]) == errors.EXIT_USAGE
    told = capsys.readouterr()
    assert told.out == ""
    error = json.loads(told.err)
    assert (error["kind"], error["exit"]) == ("error", errors.EXIT_USAGE)


def test_a_broker_that_is_not_there_is_unreachable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "t.json", TASK)
    where = ["--host", "127.0.0.1", "--port", "1"]
    assert main(["submit", file, "-d", "kitchen", *where]) == errors.EXIT_UNREACHABLE
    assert "nothing was sent" in capsys.readouterr().err


def test_a_submission_needs_a_device(tmp_path: Path) -> None:
    assert main(["submit", write(tmp_path / "t.json", TASK)]) == errors.EXIT_USAGE


def test_a_first_configuration_is_sound_and_never_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "device")
    assert main(["init", folder]) == errors.EXIT_OK
    assert main(["config", "check", f"{folder}/limpet.toml"]) == errors.EXIT_OK
    assert main(["policy", "show", "--config", f"{folder}/limpet.toml", "--json"]) == errors.EXIT_OK
    policy = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert policy["tools"]["uptime"]["origin"].startswith(f"{folder}/tools.d/uptime.toml:")
    assert main(["task", "check", f"{folder}/task.json"]) == errors.EXIT_OK
    before = Path(folder, "limpet.toml").read_text()
    assert main(["init", folder]) == errors.EXIT_USAGE
    assert Path(folder, "limpet.toml").read_text() == before


def test_the_first_configuration_of_a_service_allows_nothing(
    tmp_path: Path,
) -> None:
    folder = str(tmp_path / "etc")
    assert main(["init", "--system", folder]) == errors.EXIT_OK
    configured = config.load(f"{folder}/limpet.toml")
    assert configured.policy == config.parse("limpet.toml", "", "kitchen").policy
    rules = policy.load(f"{folder}/policy.toml", f"{folder}/tools.d", app.site(configured))
    assert (rules.table["allow"], rules.operators, rules.trust_any_clock) == ([], (), False)
    assert main(["init", "--system", folder]) == errors.EXIT_USAGE


def test_all_mistakes_of_a_configuration_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "limpet.toml"
    file.write_text('[broker]\nprot = 1\nhost = ""\n')
    assert main(["config", "check", str(file)]) == errors.EXIT_CONFIG
    told = capsys.readouterr().err
    assert f"{file}:2:" in told and f"{file}:3:" in told
