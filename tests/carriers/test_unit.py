"""The unit for systemd, as systemd's own tools read it."""

from __future__ import annotations

import configparser
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from limpet import config, errors

UNIT = Path(__file__).resolve().parents[2] / "packaging" / "systemd" / "limpet.service"
NEEDS_SYSTEMD = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (systemd)"
)


def service() -> configparser.SectionProxy:
    reader = configparser.ConfigParser(interpolation=None)
    reader.optionxform = str  # type: ignore[assignment, method-assign]
    reader.read(UNIT)
    return reader["Service"]


@NEEDS_SYSTEMD
def test_systemd_finds_no_mistake(tmp_path: Path) -> None:
    """With a program that is there, as the package's is not."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/usr/bin/limpet", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@NEEDS_SYSTEMD
def test_what_is_hardened_is_so_in_the_eyes_of_systemd() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--json=short", UNIT],
        capture_output=True,
        text=True,
        check=True,
    )
    found = {row["json_field"]: row["set"] for row in json.loads(done.stdout)}
    for field in ("NoNewPrivileges", "LockPersonality", "NotifyAccess"):
        assert found[field], field
    # What a step does to the device must be done to the device.
    for field in ("ProtectSystem", "PrivateTmp", "PrivateDevices", "ProtectHome"):
        assert not found[field], field


def test_an_end_that_a_restart_does_not_help_is_not_restarted() -> None:
    ends = {int(code) for code in service()["RestartPreventExitStatus"].split()}
    assert ends == {errors.EXIT_CONFIG, errors.EXIT_USAGE}


def test_directories_are_those_of_the_defaults() -> None:
    """What systemd makes is where the agent looks when the configuration does not say."""
    read = config.parse("limpet.toml", "", "kitchen")
    unit = service()
    assert read.device.state_directory == f"/var/lib/{unit['StateDirectory']}"
    assert Path(read.socket.path).parent == Path("/run", unit["RuntimeDirectory"])
    assert Path(read.policy.file).parent == Path("/etc", unit["ConfigurationDirectory"])
