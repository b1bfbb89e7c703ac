"""The Debian package: what is in it, and that an upgrade in mid-task loses nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from brokers import Broker
from debian import Debian, build_package, needs
from fleet import PATIENCE_S, Controller, Device, task, until

Package = Callable[[str], Path]

OLD, NEW = "0.1.0", "99.0"
PROCESSORS = {"x86_64": "amd64", "aarch64": "arm64", "armv7": "armhf"}
MODES = {
    "usr/bin/limpet": "-rwxr-xr-x",
    "usr/lib/systemd/system/limpet.service": "-rw-r--r--",
    "etc/limpet/limpet.toml": "-rw-r--r--",
    "etc/limpet/policy.toml": "-rw-r--r--",
    "etc/limpet/tools.d/": "drwxr-xr-x",
    "usr/share/bash-completion/completions/limpet": "-rw-r--r--",
    "usr/share/man/man1/limpet.1.gz": "-rw-r--r--",
    "usr/share/doc/limpet/examples/limpet.toml": "-rw-r--r--",
}


def told(package: Path, *words: str) -> str:
    return subprocess.run(
        ["dpkg-deb", *words, package], capture_output=True, text=True, check=True
    ).stdout


def test_its_files_have_their_places_and_modes(package: Package) -> None:
    lines = [line.split() for line in told(package(OLD), "--contents").splitlines()]
    found = {line[5].removeprefix("./"): line[0] for line in lines}
    assert {name: found.get(name) for name in MODES} == MODES
    assert {line[1] for line in lines} == {"root/root"}


def test_it_is_for_its_processor_and_needs_no_more_than_the_floor(
    package: Package, frozen: Path
) -> None:
    needed = told(package(OLD), "--field").splitlines()
    (arch,) = [debian for ours, debian in PROCESSORS.items() if frozen.name.endswith(ours)]
    assert f"Architecture: {arch}" in needed
    (depends,) = [line for line in needed if line.startswith("Depends: ")]
    assert depends == "Depends: libc6 (>= 2.36), adduser, init-system-helpers (>= 1.54)"


def test_the_same_file_and_commit_give_the_same_bytes(
    package: Package, frozen: Path, tmp_path: Path
) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    again = build_package(Path(shutil.copy(frozen, other / "renamed")), other, OLD)
    assert again.read_bytes() == package(OLD).read_bytes()


def test_lintian_has_nothing_to_say(package: Package) -> None:
    needs("lintian")
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error,warning", package(OLD)],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout


def test_it_is_installed_upgraded_removed_and_purged(package: Package, debian: Debian) -> None:
    """What somebody wrote into /etc stays as it is, the state stays until a purge."""
    debian.install(package(OLD))
    assert debian.run("limpet", "version") == f"limpet {OLD}\n"
    assert "_limpet:" in (debian.root / "etc/passwd").read_text()
    shown = json.loads(debian.run("limpet", "policy", "show", "--json"))
    assert shown["allow"] == []
    policy = debian.root / "etc/limpet/policy.toml"
    policy.write_text(policy.read_text() + '[[operator]]\nsource = "ops"\n')
    edited = policy.read_bytes()
    state = debian.root / "var/lib/limpet/journal"
    state.mkdir(parents=True)
    debian.install(package(NEW))
    assert (policy.read_bytes(), state.exists()) == (edited, True)
    debian.run("dpkg", "--remove", "limpet")
    assert (policy.exists(), state.exists()) == (True, True)
    assert not (debian.root / "usr/bin/limpet").exists()
    debian.run("dpkg", "--purge", "limpet")
    assert (policy.exists(), state.parent.exists()) == (False, False)


def test_what_is_installed_works_there(package: Package, debian: Debian) -> None:
    """In a Debian without Python, a compiler or anything else of ours."""
    debian.install(package(OLD))
    assert not list(debian.root.glob("usr/bin/python*"))
    debian.run("limpet", "selftest", "--state", "/var/lib")


def test_an_upgrade_in_mid_task_drains_and_the_new_version_ends_it(
    package: Package, debian: Debian, broker: Broker, tmp_path: Path
) -> None:
    """The sequence of the maintainer scripts, with the agent's processes themselves: TERM, which
    waits for the step that runs; the other version's files; a start over the same state. No step
    may be repeated, so a second start of one would show.
    """
    device = Device(tmp_path, broker, "5")
    patient = (tmp_path / "limpet.toml").read_text().replace('timeout = "1s"', 'timeout = "5m"')
    (tmp_path / "limpet.toml").write_text(patient)

    def installed(*argv: str) -> list[str]:
        return [str(debian.root / "usr/bin/limpet"), "run", "--config", argv[-1]]

    def step(name: str, script: str) -> dict[str, object]:
        return {"name": name, "tool": "shell", "input": {"script": f"cd {tmp_path}; {script}"}}

    steps = [
        step("first", "echo first >> marks"),
        step("long", "echo long >> marks; while [ ! -e go ]; do sleep 0.05; done"),
        step("last", "echo last >> marks"),
    ]
    marks = tmp_path / "marks"
    debian.install(package(OLD))
    device.start(inside=installed)
    controller = Controller(broker)
    try:
        assert controller.wait_online()["facts"]["version"] == OLD
        controller.send(task("upgrade-1", steps))
        until(lambda: marks.exists() and "long" in marks.read_text(), "the long step")
        assert device.process is not None
        device.process.terminate()
        until(lambda: "agent.draining" in device.log(), "the drain")
        assert marks.read_text() == "first\nlong\n"
        (tmp_path / "go").touch()
        # A second TERM would end the drain.
        assert device.process.wait(PATIENCE_S) == 0
        assert controller.all("result", "upgrade-1") == []
        debian.install(package(NEW))
        device.start(inside=installed)
        result = controller.wait("result", "upgrade-1")
    finally:
        device.stop()
        controller.close()
    assert (result["outcome"], marks.read_text()) == ("succeeded", "first\nlong\nlast\n")
    assert controller.faults == []
