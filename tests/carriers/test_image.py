"""The image: run as on a small device, capped, read-only and without swap."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import Broker
from debian import ROOT, needs, needs_its_processor
from fleet import PATIENCE_S, Controller, task, until

# As small a container as limpet must fit, steps included.
CAP = "32m"
HEALTH = ["/usr/bin/limpet", "status"]
# A pod's file systems, and what a container without privileges is refused here.
ENGINE = ("--storage-driver", "vfs", "--runtime", "runc", "--cgroup-manager", "cgroupfs")
BOUNDS = ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096")

# Added to what the image brings along.
CONFIG = """\
[device]
name = "kitchen"

[broker]
host = "127.0.0.1"
port = {port}

[drain]
timeout = "5m"

[socket]
path = "/var/lib/limpet/limpet.sock"
"""
POLICY = """\
[[allow]]
source = "ops"
tools = ["sleep", "write", "hash", "read"]

[clock]
untrusted = "accept"
"""


@pytest.fixture(scope="module")
def archive(frozen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image of the frozen file alone."""
    needs("buildah", "readelf")
    target = tmp_path_factory.mktemp("image") / "limpet.oci.tar"
    subprocess.run([ROOT / "packaging" / "oci" / "build.sh", target, frozen], check=True)
    return target


# What `readelf` calls the machine -> what an image calls it.
PLATFORMS = {
    "Advanced Micro Devices X86-64": ("amd64", None),
    "AArch64": ("arm64", None),
    "ARM": ("arm", "v7"),
}


def read(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None, name
    return file.read()


def elf(file: Path) -> str:
    """Return what is said of a program's machine, loader and libraries."""
    options = ("--wide", "--file-header", "--program-headers", "--dynamic")
    return subprocess.run(
        ["readelf", *options, file], capture_output=True, text=True, check=True
    ).stdout


def test_it_says_for_whom_it_is_and_holds_what_the_file_needs(archive: Path, frozen: Path) -> None:
    with tarfile.open(archive) as opened:

        def blob(descriptor: dict[str, Any]) -> bytes:
            return read(opened, f"blobs/{descriptor['digest'].replace(':', '/')}")

        (platforms,) = json.loads(read(opened, "index.json"))["manifests"]
        (manifest,) = json.loads(blob(platforms))["manifests"]
        image = json.loads(blob(manifest))
        config = json.loads(blob(image["config"]))
        (layer,) = map(blob, image["layers"])
    told = elf(frozen)
    (machine,) = re.findall(r"Machine: +(.*)", told)
    platform = manifest["platform"]
    assert (platform["architecture"], platform.get("variant")) == PLATFORMS[machine]
    assert config["architecture"] == platform["architecture"]
    assert config["config"]["Entrypoint"] == ["/usr/bin/limpet"]
    with tarfile.open(fileobj=io.BytesIO(layer)) as files:
        names = set(files.getnames())
        assert read(files, "usr/bin/limpet") == frozen.read_bytes()
    (loader,) = re.findall(r"program interpreter: /(.*)\]", told)
    needed = set(re.findall(r"NEEDED.*\[(.*)\]", told)) - {Path(loader).name}
    assert loader in names
    assert needed and needed <= {Path(name).name for name in names if name.startswith("lib/")}
    assert "etc/ssl/certs/ca-certificates.crt" in names


class Engine:
    """podman with a storage of its own."""

    def __init__(self, directory: Path) -> None:
        names = ("root", "runroot", "tmpdir")
        places = [f"--{name}={directory / name}" for name in names]
        self._command = ["podman", *places, *ENGINE, "--events-backend", "file"]

    def run(self, *words: str, code: int | None = 0) -> str:
        """Run podman and return what it wrote; with `code` None any end will do."""
        done = subprocess.run([*self._command, *words], capture_output=True, text=True)
        assert code is None or done.returncode == code, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout + (done.stderr if code is None else "")


@pytest.fixture
def engine(archive: Path) -> Iterator[Engine]:
    """An engine that has the image as `limpet`."""
    needs("podman", "runc")
    needs_its_processor()
    there = set(groups())
    # podman refuses a path as long as pytest's are.
    with tempfile.TemporaryDirectory(prefix="limpet-") as directory:
        engine = Engine(Path(directory))
        name = engine.run("pull", "--quiet", f"oci-archive:{archive}").strip()
        engine.run("tag", name, "limpet")
        yield engine
        engine.run("rm", "--all", "--force", "--time", "1", "--volumes")
        engine.run("rmi", "--all", "--force")
    # A container's monitor ends after it.
    until(lambda: removed(set(groups()) - there), "the end of the containers' groups")


def groups() -> Iterable[Path]:
    """Return what podman leaves behind in each hierarchy of control groups."""
    return Path("/sys/fs/cgroup").glob("**/libpod_parent")


def removed(groups: set[Path]) -> bool:
    """Remove the groups that are empty; whether all were."""
    for group in groups:
        for inner in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
            with contextlib.suppress(OSError):
                inner.rmdir()
        with contextlib.suppress(OSError):
            group.rmdir()
    return not any(group.exists() for group in groups)


def start(engine: Engine, directory: Path, broker: Broker, *options: str) -> None:
    """Start the agent as the container `agent`, in a small cap, with files of ours as its own."""
    files = {
        "limpet.toml": CONFIG.format(port=broker.port),
        "policy.toml": POLICY,
    }
    for name, content in files.items():
        (directory / name).write_text(content)
    mounts = [f"--volume={directory / name}:/etc/limpet/{name}:ro" for name in files]
    engine.run(
        *("run", "--detach", "--name", "agent", "--network", "host", *BOUNDS),
        *("--memory", CAP, "--memory-swap", CAP, "--read-only", "--read-only-tmpfs=false"),
        *("--volume", "state:/var/lib/limpet", *mounts),
        *("--health-cmd", json.dumps(HEALTH), "--health-interval", "disable"),
        *(*options, "limpet"),
    )


def three_steps() -> dict[str, Any]:
    """Return a task whose steps need no other program than limpet's own file."""
    nap = {"name": "nap", "tool": "sleep", "input": {"duration": "100ms"}}
    write = {"name": "write", "tool": "write", "input": {"path": "file", "data": "kept"}}
    path = "${steps.write.result.path}"
    return task(
        "carried-1", [nap, write, {"name": "read", "tool": "read", "input": {"path": path}}]
    )


@pytest.mark.parametrize("user", ["0:0", "1000:1000"])
def test_an_agent_in_a_small_container_runs_a_task_is_healthy_and_drains(
    engine: Engine, broker: Broker, tmp_path: Path, user: str
) -> None:
    """A stop lets the step that runs end; the next start goes on over the same volume."""
    start(engine, tmp_path, broker, "--user", user)
    controller = Controller(broker)
    try:
        controller.wait_online()
        controller.send(three_steps())
        result = controller.wait("result", "carried-1")
        assert result["outcome"] == "succeeded", result
        assert result["steps"][2]["result"]["data"] == "kept"
        engine.run("healthcheck", "run", "agent")
        naps = [
            {"name": f"nap-{number}", "tool": "sleep", "input": {"duration": "1s"}}
            for number in range(4)
        ]
        controller.send(task("drained-1", naps))
        until(lambda: controller.all("state", "drained-1"), "the first step")
        engine.run("stop", "--time", str(int(PATIENCE_S)), "agent")
        assert json.loads(engine.run("inspect", "agent"))[0]["State"]["ExitCode"] == 0
        assert controller.all("result", "drained-1") == []
        engine.run("start", "agent")
        result = controller.wait("result", "drained-1")
        # None of the steps may be repeated, and none was cut off.
        assert [step["outcome"] for step in result["steps"]] == ["succeeded"] * 4
        assert controller.faults == []
    finally:
        print(engine.run("logs", "agent", code=None))
        controller.close()


def test_it_allows_nothing_until_somebody_says_so(engine: Engine) -> None:
    words = ("policy", "show", "--json")
    shown = engine.run("run", "--rm", "--network", "none", *BOUNDS, "limpet", *words)
    assert json.loads(shown)["allow"] == []
