"""What the running agent imports is written down: a module more is memory on every device."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig

import pytest

from limpet.slim import STAND_INS
from samples import ROOT, VECTORS

ALLOWED = VECTORS / "modules.txt"
CONFIG = """\
[device]
name = "kitchen"
state_directory = "{directory}/state"
[limits]
segment = "1MiB"
[policy]
file = "{directory}/policy.toml"
[socket]
path = "{directory}/limpet.sock"
"""
# Runs the agent up to the point where it would wait for the first time, and one turn of it.
PROGRAM = """\
import sys
from limpet import app, slim
slim.install()
from limpet.loop import Loop
def run(loop):
    loop.turn()
    print("\\n".join(sorted(sys.modules)))
Loop.run = run
from limpet.cli import main
sys.exit(main(["run", "--config", sys.argv[1]]))
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    directory = tmp_path_factory.mktemp("agent")
    (directory / "policy.toml").write_text("")
    config = directory / "limpet.toml"
    config.write_text(CONFIG.format(directory=directory))
    paths = [str(ROOT / "runtime"), sysconfig.get_path("platlib")]
    environment = {"PYTHONPATH": os.pathsep.join(paths), "PATH": os.defpath}
    # Without `site`, as in the single executable.
    done = subprocess.run(
        [sys.executable, "-S", "-c", PROGRAM, str(config)],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return set(done.stdout.decode().split())


def private(name: str) -> bool:
    """Say whether the library made the name up for itself."""
    return name.startswith("_")


def ours(name: str) -> bool:
    return name == "limpet" or name.startswith("limpet.")


def test_the_agent_imports_no_more_than_is_written_down(imported: set[str]) -> None:
    """To allow a module, add it to tests/vectors/modules.txt and say in the commit what it costs.

    Python versions differ in the private modules (`_name`) that they need.
    """
    allowed = set(ALLOWED.read_text().split())
    more = [name for name in imported - allowed if not (private(name) or ours(name))]
    assert sorted(more) == []


def test_nothing_is_allowed_that_is_not_imported(imported: set[str]) -> None:
    """On the oldest Python, for which the list is made; later ones may need less."""
    if sys.version_info[:2] == (3, 11):
        assert sorted(set(ALLOWED.read_text().split()) - imported) == []


def test_the_agent_never_imports_the_controller(imported: set[str]) -> None:
    assert [name for name in imported if name.startswith("limpet.controller")] == []


def test_every_stand_in_is_still_needed(imported: set[str]) -> None:
    """A stand-in that nothing imports any more is a line to delete."""
    needed = set(STAND_INS) & imported
    assert needed == set(STAND_INS)
    code = "import sys; import paho.mqtt.client, orjson; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert set(STAND_INS) <= set(done.stdout.decode().split())


# A class of named fields in all that it can have, told by what it can do.
NAMED = """\
from __future__ import annotations
import sys
from limpet import slim
if sys.argv[1:]:
    slim.install()
from typing import NamedTuple
class Point(NamedTuple):
    "A place."
    x: int
    y: int = 2
    unit = "m"
    def far(self) -> int:
        return self.x + self.y
    @property
    def near(self) -> int:
        return self.x
class Nothing(NamedTuple):
    pass
point = Point(1)
print(point, point == (1, 2), point.far(), point.near, point.unit, point._replace(y=5), hash(point))
print(Point.__doc__, Point.__module__, Point.__qualname__, Point._fields, Point._field_defaults)
print(Point.__bases__, Nothing(), hasattr(sys.modules["typing"], "__file__"))
"""


def test_a_named_tuple_is_as_the_real_ones() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "runtime")}

    def told(*words: str) -> str:
        argv = [sys.executable, "-c", NAMED, *words]
        done = subprocess.run(argv, env=environment, capture_output=True, check=True, text=True)
        return done.stdout

    assert told("slim") == told().replace("True\n", "False\n")


def test_a_real_module_that_is_there_stays() -> None:
    code = "import json; from limpet import slim; slim.install(); print(json.dumps([1]))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "runtime")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=True
    )
    assert done.stdout == b"[1]\n"
