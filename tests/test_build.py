"""The build: what the extension shows, and that header, binding and Rust agree on it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import tomli

import limpet

ROOT = Path(__file__).parents[1]
HEADER = (ROOT / "native/include/limpet.h").read_text(encoding="utf-8")
DECLARED = set(re.findall(r"\b(limpet_\w+)\(", HEADER))


def binary(name: str) -> Path:
    spec = importlib.util.find_spec(f"limpet.native.{name}")
    assert spec is not None and spec.origin is not None, "run `make build`"
    return Path(spec.origin)


def test_the_binding_has_every_function_of_the_header_and_no_other() -> None:
    from limpet.native import _core

    functions = {name for name in dir(_core.lib) if callable(getattr(_core.lib, name))}
    assert DECLARED
    assert functions == DECLARED


def test_the_binding_has_every_constant_of_the_header() -> None:
    from limpet.native import _core

    constants = re.findall(r"^(?:#define | +)(LIMPET_\w+)(?: =)? [-(]?\d", HEADER, re.MULTILINE)
    assert constants
    assert [name for name in constants if not isinstance(getattr(_core.lib, name), int)] == []


def test_the_structures_have_only_fixed_width_integers() -> None:
    """The same record is the same bytes on every board."""
    code = re.sub(r"//.*", "", HEADER)
    bodies = re.findall(r"struct \w+ \{(.*?)\}", code, re.DOTALL)
    types = {field.split()[0] for body in bodies for field in body.split(";") if field.strip()}
    assert types <= {f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)}


def test_the_extension_shows_nothing_but_its_entry() -> None:
    """No symbol of the Rust code can meet one of another library in the process."""
    listing = subprocess.run(
        ["nm", "--dynamic", "--defined-only", binary("_core")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line.split()[-1] for line in listing.stdout.splitlines()] == ["PyInit__core"]


def test_the_extension_needs_only_the_c_library() -> None:
    listing = subprocess.run(
        ["readelf", "--dynamic", binary("_core")], capture_output=True, text=True, check=True
    )
    needed = set(re.findall(r"\(NEEDED\).*\[(\w+)", listing.stdout))
    assert needed <= {"libc", "libgcc_s", "libm", "ld"}


def test_the_native_tool_is_beside_the_extension() -> None:
    assert os.access(binary("_core").with_name("limpet-tool"), os.X_OK)


def test_the_halves_have_one_version() -> None:
    cargo = tomli.loads((ROOT / "native/Cargo.toml").read_text(encoding="utf-8"))
    assert cargo["workspace"]["package"]["version"] == limpet.__version__


def test_the_training_of_a_release_still_works() -> None:
    """It knows how agent, link and core are put together, and releases are rare."""
    done = subprocess.run(
        [sys.executable, "-B", ROOT / "packaging/freeze/train.py", ROOT],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_every_direct_requirement_is_locked() -> None:
    """`make test` installs the lock and nothing else, so what it lacks would fail far from here."""
    project = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    wanted = project["project"]["dependencies"] + extras["test"] + extras["check"]
    wanted += project["build-system"]["requires"]
    lock = (ROOT / "packaging/requirements.txt").read_text(encoding="utf-8")
    locked = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))
    assert {re.split(r"[<>=[]", requirement)[0] for requirement in wanted} <= locked


def test_every_locked_crate_builds_with_the_oldest_rust_we_promise() -> None:
    """A newer compiler builds a crate that asks for too much; a board's distribution does not."""
    manifest = ROOT / "native/Cargo.toml"
    floor = tomli.loads(manifest.read_text(encoding="utf-8"))["workspace"]["package"]
    told = subprocess.run(
        ["cargo", "metadata", "--locked", "--format-version=1", "--manifest-path", manifest],
        capture_output=True,
        check=True,
    )
    crates = json.loads(told.stdout)["packages"]
    assert len(crates) > 10
    asked = {crate["name"]: crate["rust_version"] or "1.0" for crate in crates}
    assert asked["limpet-driver"] == floor["rust-version"]
    newer = {
        name: wanted
        for name, wanted in asked.items()
        if _minor(wanted) > _minor(floor["rust-version"])
    }
    assert newer == {}


def _minor(version: str) -> int:
    return int(version.split(".")[1])
