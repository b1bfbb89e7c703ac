"""The single executable does what limpet does: alone in a file, one process, nothing unpacked."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import Broker
from executable import Frozen, Limpet
from fleet import DEVICE, ROOT, Controller, processes_with, step, task, until

import limpet as package
from limpet.controller import demo_files

WORKER_MODULES = ROOT / "packaging" / "freeze" / "worker-modules.txt"
PAYLOAD = b"frozen" * 4096
MIB = 1 << 20


def listed(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if line and not line.startswith("#")]


def test_it_tells_its_version_and_that_it_is_one_file(limpet: Limpet) -> None:
    told = json.loads(limpet("version", "--json").stdout)
    assert (told["limpet"], told["frozen"]) == (package.__version__, True)


def test_its_bill_of_materials_lists_every_crate_and_package(limpet: Limpet) -> None:
    bill = json.loads(limpet("version", "--sbom").stdout)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    components = bill["components"]
    names = {entry["name"] for entry in components}
    assert {"cpython", "libffi", "zlib", "orjson", "paho-mqtt", "tomli", "cffi"} <= names
    assert {"pyinstaller", "limpet-core", "limpet-driver", "rustls", "ring"} <= names
    references = [entry["bom-ref"] for entry in components]
    assert len(set(references)) == len(references)
    assert bill["dependencies"][0]["dependsOn"] == references
    for entry in components:
        assert entry["licenses"] and entry["version"] and entry["purl"], entry
        if not entry["name"].startswith("limpet-"):
            assert re.fullmatch("[0-9a-f]{64}", entry["hashes"][0]["content"]), entry


def test_a_worker_finds_what_is_promised_of_the_standard_library(
    limpet: Limpet, tmp_path: Path
) -> None:
    tool = tmp_path / "tool.py"
    names = listed(WORKER_MODULES)
    lines = [f"import {name}" for name in names]
    tool.write_text("\n".join([*lines, "import sys", "print(*sys.argv[1:])"]))
    done = limpet("worker", str(tool), "a", "b")
    assert (done.returncode, done.stdout) == (0, "a b\n"), done.stderr
    tool.write_text(
        "import decimal, hashlib, socket, statistics, sys\n"
        "hashes = [hashlib.new(n, b'x').hexdigest() for n in ('md5', 'sha256', 'sha3_256')]\n"
        "assert statistics.stdev([1, 2, 3, 4]) and decimal.Decimal('0.1') + 1\n"
        "assert socket.getaddrinfo('127.0.0.1', 80)\n"
        "print(hashlib.sha256(b'x').hexdigest(), '\\u00e9')\n"
    )
    done = limpet("worker", str(tool))
    assert done.stdout == f"{hashlib.sha256(b'x').hexdigest()} \u00e9\n", done.stderr


def test_no_module_comes_from_beside_the_file(limpet: Limpet, tmp_path: Path) -> None:
    """Not from its directory, not from the working directory, not from the environment."""
    (tmp_path / "planted.py").write_text("")
    tool = tmp_path / "tool.py"
    tool.write_text("import os, sys; os.chdir(os.path.dirname(sys.argv[0])); import planted")
    done = limpet("worker", str(tool))
    assert done.returncode == 1 and "No module named 'planted'" in done.stderr


def test_a_native_tool_works_without_python(limpet: Limpet, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(PAYLOAD)
    call = {"input": {"path": "file"}, "beneath": {"path": str(tmp_path)}}
    assert limpet("native", "hash", given=json.dumps(call)).returncode == 0
    assert limpet("native", "nonesuch").returncode == 2


def test_a_model_is_inspected_without_python(limpet: Limpet, tmp_path: Path) -> None:
    """A sound file of GGUF with no key and no tensor; then with a version that nobody knows."""
    model = tmp_path / "model.gguf"
    for version, verdict, code in ((3, "ok", 0), (9, "malformed", 2)):
        model.write_bytes(b"GGUF" + version.to_bytes(4, "little") + bytes(16))
        done = limpet("inspect", str(model), "--json")
        assert (json.loads(done.stdout)["verdict"], done.returncode) == (verdict, code)
    listed = tmp_path / "trusted"
    listed.write_text("# none\n")
    gate = ("native", "gate", "--trusted", str(listed), "--model", str(model), "--", "/bin/true")
    assert limpet(*gate).returncode == 126


def test_the_demonstration_says_what_it_lacks(limpet: Limpet) -> None:
    done = limpet("demo")
    assert done.returncode != 0
    assert "cannot show the demonstration: its broker is no part" in done.stderr


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "payload").write_bytes(PAYLOAD)
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "served")
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/payload"
        server.shutdown()


def test_the_demonstration_s_task_runs_to_its_end(
    broker: Broker, command: list[str], file: Path, limpet: Limpet, url: str, tmp_path: Path
) -> None:
    """Agent and controller are both the file; a worker, a native tool, a retry, a deadline."""
    root = tmp_path / "demo"
    (root / "tools.d").mkdir(parents=True)
    files = demo_files.device_files(str(root), broker.port, [str(file), "worker"])
    for name, content in files.items():
        (root / name).write_text(content)
    document = tmp_path / "task.json"
    document.write_text(json.dumps(demo_files.first_task(url)))
    where = ("--host", "127.0.0.1", "--port", str(broker.port), "--source", demo_files.SOURCE)
    with subprocess.Popen([*command, "run", "--config", f"{root}/limpet.toml"], env={}) as agent:
        try:
            until(lambda: '"online":true' in limpet("devices", "--json", *where).stdout, "an agent")
            done = limpet(
                "submit", str(document), "-d", demo_files.DEVICE, "--wait", "--json", *where
            )
        finally:
            agent.terminate()
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    steps = {one["name"]: one for one in result["steps"]}
    assert result["outcome"] == "succeeded"
    assert steps["check"]["result"]["sha256"] == hashlib.sha256(PAYLOAD).hexdigest()
    assert steps["flaky"]["attempts"] == 2
    assert steps["stubborn"]["outcome"] == "timed_out"
    assert steps["bye"]["outcome"] == "succeeded"


def test_it_is_one_process_and_its_kill_leaves_no_orphan(
    device: Frozen, controller: Controller
) -> None:
    controller.wait_online()
    assert len(processes_with(str(device.directory / "limpet.toml"))) == 1
    mark = f"sleep 4{os.getpid()}"
    controller.send(task("orphan-1", [step("nap", "/bin/sh", "-c", f"{mark} & wait")]))
    until(lambda: processes_with(mark.replace(" ", "\0")), "the step")
    device.kill()
    device.run()
    until(lambda: not processes_with(mark.replace(" ", "\0")), "the step's end")
    assert controller.wait("result", "orphan-1")["steps"][0]["outcome"] == "uncertain"


def test_a_step_beyond_its_memory_is_ended(
    device: Frozen, controller: Controller, file: Path, tmp_path: Path
) -> None:
    controller.wait_online()
    tool = tmp_path / "eats.py"
    tool.write_text(
        "import time\nkept = [bytearray(b'x') * 2**20 for _ in range(100)]\ntime.sleep(60)"
    )
    eats = step("eats", str(file), "worker", str(tool), limits={"memory": "48MiB"})
    controller.send(task("memory-1", [eats]))
    result = controller.wait("result", "memory-1")
    assert result["steps"][0]["outcome"] == "out_of_memory", result
    controller.send(task("memory-2", [step("next", "/bin/true")]))
    assert controller.wait("result", "memory-2")["outcome"] == "succeeded"


def test_a_running_agent_is_not_mixed_with_the_file_that_took_its_place(
    broker: Broker, around: list[str], file: Path, controller: Controller, tmp_path: Path
) -> None:
    """What it has not imported yet comes from the file that it was started from."""
    copy = tmp_path / "limpet-copy"
    shutil.copy(file, copy)
    device = Frozen(tmp_path, broker, [*around, str(copy)])
    device.run()
    controller.wait_online()
    other = tmp_path / "other"
    other.write_bytes(b"another version altogether")
    other.replace(copy)
    controller.send(task("replaced-1", [step("a", "/bin/true")]))
    assert controller.wait("result", "replaced-1")["outcome"] == "succeeded"
    assert device.stop() == 0, device.log()


def test_it_starts_itself_anew_in_the_same_process(limpet: Limpet, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("")
    (tmp_path / "limpet.toml").write_text(
        f'[device]\nname = "{DEVICE}"\nstate_directory = "{tmp_path}/state"\n'
        f'[broker]\nhost = "127.0.0.1"\n[policy]\nfile = "{tmp_path}/policy.toml"\n'
    )
    tool = tmp_path / "twice.py"
    tool.write_text(
        "import os, sys\n"
        "from limpet import app\n"
        "from limpet.cli import main\n"
        "def serve(*_):\n"
        "    again = os.path.exists(sys.argv[2])\n"
        "    open(sys.argv[2], 'w').close()\n"
        "    print(os.getpid(), again, flush=True)\n"
        "    return not again\n"
        "app._serve = serve\n"
        "sys.exit(main(['run', '--config', sys.argv[1]]))\n"
    )
    done = limpet("worker", str(tool), f"{tmp_path}/limpet.toml", f"{tmp_path}/mark")
    first, second = (line.split() for line in done.stdout.splitlines())
    assert (first[1], second[1]) == ("False", "True")
    assert first[0] == second[0]


# What a program does to files: opened for writing, or by name.
WRITES = re.compile(
    r'(?:open|openat|creat)\(.*?"([^"]*)".*(?:O_WRONLY|O_RDWR|O_CREAT)'
    r"|(?:mkdir|mkdirat|rename|renameat2?|unlink|unlinkat|symlink|link|linkat|truncate|mknod)"
    r'\(.*?"([^"]*)"'
)


def traced(calls: str, trace: Path) -> list[str]:
    """Return the words that start a program so that `trace` tells of these system calls."""
    return ["/usr/bin/strace", "-D", "-f", "-qq", "-y", "-e", f"trace={calls}", "-o", str(trace)]


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_start_writes_nothing_outside_the_state_directory(
    broker: Broker, around: list[str], file: Path, controller: Controller, tmp_path: Path
) -> None:
    if around:
        pytest.skip("strace would see what the emulator does")
    trace = tmp_path / "trace"
    device = Frozen(tmp_path, broker, [*traced("file", trace), str(file)])
    device.run()
    controller.wait_online()
    device.stop()
    written = set()
    for line in trace.read_text().splitlines():
        found = WRITES.search(line)
        if found and "= -1 " not in line:
            written.add(found[1] or found[2])
    ours = (f"{tmp_path}/state", f"{tmp_path}/limpet.sock", "/dev/null", "/proc/", "/sys/fs/cgroup")
    assert {path for path in written if path.startswith("/") and not path.startswith(ours)} == set()


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_start_over_its_state_writes_there_once(
    around: list[str], device: Frozen, controller: Controller, file: Path, tmp_path: Path
) -> None:
    """From the second start on, which finds its files."""
    if around:
        pytest.skip("strace would see what the emulator does")
    controller.wait_online()
    assert device.stop() == 0, device.log()
    heard, trace = len(controller.all("presence")), tmp_path / "trace"
    device.command = [*traced("write,writev,pwrite64,pwritev,pwritev2", trace), str(file)]
    device.run()
    until(lambda: any(one["online"] for one in controller.all("presence")[heard:]), "a presence")
    state = re.escape(f"<{tmp_path}/state/")
    written = [line for line in trace.read_text().splitlines() if re.search(state, line)]
    assert len(written) == 1, written
