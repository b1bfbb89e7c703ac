"""The shipped task: it downloads a model, checks it, and only then activates it."""

from __future__ import annotations

import hashlib
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
from inspecting import finish, write_gguf

CONFIGS = Path(__file__).parents[2] / "configs"
POLICY = """\
[[allow]]
source = "local"
tools = ["fetch", "inspect", "model-activate"]

[hosts]
allow = ["127.0.0.1:*"]

[models]
trusted = "{root}/trusted"
"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A web server that says nothing."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "web").mkdir()
    handler = partial(Quiet, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def run(root: Path, port: int, listed: bool, without_check: bool = False) -> dict[str, Any]:
    """Run the shipped task against files of this test; return its steps by name."""
    model = root / "web" / "model.gguf"
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    (root / "trusted").write_text(f"{sha256}  model.gguf\n" if listed else "# none\n")
    (root / "models").mkdir()
    (root / "policy.toml").write_text(POLICY.format(root=root))
    (root / "tools.d").mkdir()
    tool = (CONFIGS / "tools.d" / "model-activate.toml").read_text()
    tool = tool.replace("/var/lib/models", f"{root}/models")
    (root / "tools.d" / "model-activate.toml").write_text(tool)
    task = json.loads((CONFIGS / "tasks" / "model-update.json").read_text())
    get, _check, activate = task["steps"]
    get["input"].update(url=f"http://127.0.0.1:{port}/model.gguf", sha256=sha256)
    del get["retry"]
    activate["input"]["to"] = f"{root}/models/assistant.gguf"
    if without_check:
        task["steps"] = [get, activate]
    (root / "task.json").write_text(json.dumps(task))
    command = [sys.executable, "-m", "limpet", "try", str(root / "task.json"), "--json"]
    command += ["--policy", str(root / "policy.toml"), "--tools", str(root / "tools.d")]
    done = subprocess.run(command, capture_output=True, text=True)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    (result,) = [line for line in said if "steps" in line and "outcome" in line]
    return {step["name"]: step for step in result["steps"]}


def write_model(root: Path) -> Path:
    file = root / "web" / "model.gguf"
    writer = write_gguf(file)
    writer.add_tensor("t", numpy.zeros(64, dtype="float32"))
    finish(writer)
    return file


def test_a_trusted_model_is_activated(tmp_path: Path, port: int) -> None:
    model = write_model(tmp_path).read_bytes()
    steps = run(tmp_path, port, listed=True)
    assert [step["outcome"] for step in steps.values()] == ["succeeded"] * 3
    assert steps["check"]["result"]["trusted"] is True
    assert (tmp_path / "models" / "assistant.gguf").read_bytes() == model


def test_a_model_that_is_not_listed_is_not_activated(tmp_path: Path, port: int) -> None:
    write_model(tmp_path)
    steps = run(tmp_path, port, listed=False)
    assert steps["check"]["outcome"] == "failed"
    assert steps["check"]["result"]["findings"][0]["rule"] == "trust.unlisted"
    assert steps["activate"]["outcome"] == "skipped"
    assert not list((tmp_path / "models").iterdir())


def test_the_gate_holds_where_a_task_does_not_check(tmp_path: Path, port: int) -> None:
    write_model(tmp_path)
    steps = run(tmp_path, port, listed=False, without_check=True)
    assert (steps["activate"]["outcome"], steps["activate"]["exit_code"]) == ("failed", 126)
    assert "trust.unlisted" in steps["activate"]["stderr"]["head"]
    assert not list((tmp_path / "models").iterdir())
