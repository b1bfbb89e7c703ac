"""The single executable on an emulated board: `python tests/vm/board.py dist/limpet-ARCH`.

The board is QEMU's, without acceleration: a processor of that architecture, Debian's kernel for it
with control groups of version 2, a disk, a network, and beside the file nothing but the C library
and busybox. Broker (with TLS) and controller are on this machine. Decides what counts as proven;
writes `tests/results/board-ARCH.json`. Needs the build root of `make freeze`, and root.
"""

from __future__ import annotations

import contextlib
import http.server
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import fleet
import image
from brokers import QEMU_HOST, TlsBroker
from emulate import Broken, check_programs
from fleet import DEVICE, ROOT, Controller, task

import results
from limpet.controller import demo_files

BUILD = ROOT / "build" / "vm"
FREEZE = ROOT / "packaging" / "freeze"
PAYLOAD = b"board" * 4096
# How long to wait for what must come: the processor is emulated.
fleet.PATIENCE_S = 300.0
# Tried downwards until one is too small to connect in, for as long as that may take.
CAPS_MIB = range(16, 5, -1)
START_CAPPED_S = 90.0
MODULES = ("virtio_pci", "virtio_mmio", "virtio_blk", "virtio_net", "crc32c_generic", "ext4")


class Kind(NamedTuple):
    """A kind of board."""

    machine: tuple[str, ...]
    # Debian's name of the architecture, and its kernel for it.
    debian: str
    kernel: str
    console: str = "ttyAMA0"


KINDS = {
    "aarch64": Kind(
        ("qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a53"), "arm64", "linux-image-arm64"
    ),
    "armv7": Kind(
        ("qemu-system-arm", "-M", "virt,highmem=off", "-cpu", "cortex-a15"),
        "armhf",
        "linux-image-armmp",
    ),
}
NEEDS = {
    "qemu-system-aarch64": "qemu-system-arm",
    "mke2fs": "e2fsprogs",
    "modprobe": "kmod",
    "cpio": "cpio",
    "mosquitto": "mosquitto",
    "openssl": "openssl",
}

# The first process.
INIT = """\
#!/bin/busybox sh
# Whatever fails here ends the first process, and with it the board.
set -e
/bin/busybox --install -s
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for module in $(cat /modules/order); do
    # One that is for what this processor has not is refused.
    insmod "/modules/$module" || true
done
ifconfig lo 127.0.0.1 up
ifconfig eth0 10.0.2.15 up
mount -t ext4 /dev/vda /data
cap=$(sed -n 's/.*limpet_cap=\\([0-9]*\\).*/\\1/p' /proc/cmdline)
if [ "$cap" ]; then
    # The steps' groups will be beside it.
    agent=/sys/fs/cgroup/limpet/limpet.agent
    mkdir -p $agent
    echo +memory >/sys/fs/cgroup/cgroup.subtree_control
    echo +memory >/sys/fs/cgroup/limpet/cgroup.subtree_control
    echo "${cap}M" >$agent/memory.max
    echo 0 >$agent/memory.swap.max
    echo $$ >$agent/cgroup.procs
fi
exec /data/limpet run --config /data/limpet.toml
"""
EATS = "kept = [bytearray(b'x') * 2**20 for _ in range(200)]\nimport time\ntime.sleep(600)\n"
# What the kernel says of the agent's memory.
WEIGHS = """\
import json, os
lines = open(f"/proc/{os.getppid()}/smaps_rollup").read().splitlines()[1:]
told = {name[:-1]: int(value) for name, value, *_ in map(str.split, lines)}
kib = {"rss KiB": told["Rss"], "pss KiB": told["Pss"], "private dirty KiB": told["Private_Dirty"]}
print(json.dumps({"result": kib}), file=os.fdopen(3, "w"), flush=True)
"""
TOOL = """\
name = "{name}"
argv = ["/data/limpet", "worker", "/data/{name}.py"]
on_interruption = "any"
"""
# As the kernel of a Raspberry Pi comes.
NO_CONTROLLER = "cgroup_disable=memory"


def build_root() -> Path:
    """Return the newest build root, which knows Debian's packages for every architecture."""
    roots = sorted((ROOT / "build" / "freeze").glob("root-*"), key=lambda it: it.stat().st_mtime)
    if not roots:
        raise Broken("cannot emulate: there is no build root (make freeze)")
    return roots[-1]


def fetch(kind: Kind) -> Path:
    """Return the folder with Debian's kernel and busybox, unpacked once and never installed."""
    kept = BUILD / f"board-{kind.debian}"
    if kept.exists():
        return kept
    folder = ROOT / "build" / "freeze" / "board"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    named = f"apt-cache depends {kind.kernel}:{kind.debian}"
    newest = rf"{named} | sed -n 's/.*Depends: \(linux-image-[^: ]*\).*/\1:{kind.debian}/p'"
    script = f"cd /build/board && apt-get -qq download busybox-static:{kind.debian} $({newest})"
    subprocess.run([FREEZE / "root", "run", build_root(), "sh", "-ec", script], check=True)
    unpacked = kept.with_name(f"part-{kept.name}")
    shutil.rmtree(unpacked, ignore_errors=True)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, unpacked], check=True)
    shutil.rmtree(folder)
    unpacked.rename(kept)
    return kept


def modules(unpacked: Path) -> list[Path]:
    """Return the kernel's modules that a board needs, in the order in which they are loaded."""
    (version,) = (unpacked / "lib" / "modules").iterdir()
    subprocess.run(["depmod", "-b", unpacked, version.name], check=True)
    command = ["modprobe", "-d", str(unpacked), "-S", version.name, "--show-depends"]
    found: dict[Path, None] = {}
    for name in MODULES:
        told = subprocess.run([*command, name], check=True, stdout=subprocess.PIPE, text=True)
        lines = [line.split() for line in told.stdout.splitlines()]
        found |= dict.fromkeys(Path(words[1]) for words in lines if words[0] == "insmod")
    return list(found)


def pack(arch: str, kind: Kind, target: Path) -> None:
    """Write the first file system, which is in memory: everything but limpet and its files."""
    unpacked = fetch(kind)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for folder in ("bin", "sbin", "usr/bin", "usr/sbin", "lib", "modules"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for folder in ("proc", "sys", "dev", "data", "tmp", "etc"):
            (root / folder).mkdir()
        shutil.copy(unpacked / "bin" / "busybox", root / "bin")
        for library in c_library(arch):
            shutil.copy(library, root / "lib")
        order = modules(unpacked)
        for module in order:
            shutil.copy(module, root / "modules")
        (root / "modules" / "order").write_text("\n".join(module.name for module in order))
        (root / "init").write_text(INIT)
        (root / "init").chmod(0o755)
        packed = f"find . | cpio --quiet -o -H newc -R 0:0 | gzip -1 > {target}"
        subprocess.run(["sh", "-ec", packed], cwd=root, check=True)


def c_library(arch: str) -> list[Path]:
    """Return the files of the build root's C library."""
    told = subprocess.run(
        ["bash", "-ec", '. "$0/target.sh" && echo "$triple $dynamic_loader"', FREEZE],
        env={**os.environ, "ARCH": arch},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    triple, loader = told.stdout.split()
    folder = build_root() / "usr" / "lib" / triple
    return [folder / name for name in (loader, "libc.so.6", "libm.so.6")]


def fill(disk: Path, file: Path, broker: TlsBroker) -> None:
    """Write the board's disk: limpet, what the demonstration has, and two tools more."""
    files = demo_files.device_files("/data", broker.port, ["/data/limpet", "worker"])
    told = broker.secured(files["limpet.toml"]).replace(broker.ca_file, "/data/broker.pem")
    files["limpet.toml"] = told.replace("127.0.0.1", QEMU_HOST).replace(demo_files.DEVICE, DEVICE)
    files["broker.pem"] = Path(broker.ca_file).read_text()
    files["policy.toml"] = files["policy.toml"].replace('"sleep"', '"sleep", "eats", "weighs"')
    for tool, script in (("eats", EATS), ("weighs", WEIGHS)):
        files |= {f"{tool}.py": script, f"tools.d/{tool}.toml": TOOL.format(name=tool)}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "tools.d").mkdir()
        shutil.copy(file, root / "limpet")
        for path, text in files.items():
            (root / path).write_text(text)
        image.write(disk, root)


class Board:
    """A board that is switched on."""

    def __init__(self, kind: Kind, place: Path, log: Path, words: str = "") -> None:
        (kernel,) = fetch(kind).glob("boot/vmlinuz-*")
        command = [*kind.machine, "-accel", "tcg,thread=multi", "-m", "512", "-smp", "2"]
        command += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        command += ["-kernel", str(kernel), "-initrd", str(place / "initrd")]
        command += ["-append", f"console={kind.console} panic=-1 loglevel=4 {words}"]
        command += ["-drive", f"file={place / 'disk'},format=raw,if=none,id=disk"]
        command += ["-device", "virtio-blk-pci,drive=disk", "-netdev", "user,id=net"]
        command += ["-device", "virtio-net-pci,netdev=net,romfile=", "-serial", f"file:{log}"]
        self._process = subprocess.Popen(command)

    def is_on(self) -> bool:
        """Whether it has not switched itself off, as its kernel does without a first process."""
        return self._process.poll() is None

    def cut_power(self) -> None:
        """Switch it off without a word."""
        self._process.kill()
        self._process.wait()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def served() -> Iterator[str]:
    """Serve a file to the board; gives its address."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "payload").write_bytes(PAYLOAD)
        handler = partial(Quiet, directory=name)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://{QEMU_HOST}:{server.server_port}/payload"
            server.shutdown()


class Proof:
    """What happens to one board, and what is seen of it."""

    def __init__(self, kind: Kind, place: Path, log: Path, controller: Controller) -> None:
        self._board = (kind, place, log)
        self.board = Board(*self._board)
        self.controller = controller
        self.facts: dict[str, Any] = {}

    def it_is_there_with_control_groups(self) -> None:
        facts = self.controller.wait_online()["facts"]
        assert (facts["containment"], facts["memory"]) == ("cgroup_v2", "cgroup_v2"), facts

    def the_first_task_of_the_demonstration_runs_to_its_end(self) -> None:
        with served() as url:
            document = demo_files.first_task(url)
            document["schedule_to_close"] = "10m"
            document["steps"][1]["start_to_close"] = "2m"
            result = self._done(document)
        steps = {one["name"]: one for one in result["steps"]}
        self.facts = steps["facts"]["result"]
        assert result["outcome"] == "succeeded", result
        assert steps["get"]["result"]["bytes"] == len(PAYLOAD), result
        assert steps["flaky"]["attempts"] == 2, result
        assert steps["stubborn"]["outcome"] == "timed_out", result
        assert steps["bye"]["outcome"] == "succeeded", result

    def the_kernel_tells_what_memory_it_has(self) -> None:
        weighs = {"name": "weighs", "tool": "weighs"}
        (weighed,) = self._done({"id": "weighed", "steps": [weighs]})["steps"]
        self.facts |= weighed["result"]

    def a_step_beyond_its_memory_is_ended_by_the_kernel(self) -> None:
        self._eat("eaten-1", "cgroup_v2")

    def without_the_memory_controller_it_is_ended_as_well(self) -> None:
        """As on Raspberry Pi OS, where nobody has switched it on."""
        assert self._comes_back(NO_CONTROLLER, fleet.PATIENCE_S)
        self._eat("eaten-2", "sampled")

    def the_smallest_cap_in_which_it_connects_is_found(self) -> None:
        """One of a control group, without swap; the C library's pages are not counted there."""
        caps = (
            cap for cap in CAPS_MIB if not self._comes_back(f"limpet_cap={cap}", START_CAPPED_S)
        )
        self.facts["smallest cap MiB"] = next(caps, CAPS_MIB[-1] - 1) + 1
        assert self.facts["smallest cap MiB"] in CAPS_MIB

    def _comes_back(self, words: str, seconds: float) -> bool:
        """Whether the board, switched off and on with these words to its kernel, connects."""
        self.board.cut_power()
        before = len(self.controller.all("presence"))
        self.board = Board(*self._board, words)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if any(said["online"] for said in self.controller.all("presence")[before:]):
                return True
            time.sleep(0.1)
        return False

    def _eat(self, name: str, tier: str) -> None:
        eats = {"name": "eats", "tool": "eats", "limits": {"memory": "48MiB"}}
        (ended,) = self._done({"id": name, "steps": [eats]})["steps"]
        assert (ended["outcome"], ended["memory"]) == ("out_of_memory", tier), ended
        facts = {"name": "facts", "tool": "facts"}
        after = self._done({"id": f"{name}-after", "steps": [facts]})
        assert after["outcome"] == "succeeded", after

    def a_power_cut_in_mid_step_loses_nothing(self) -> None:
        """A step that may run again does; one that may not is told with what is known of it."""
        again: dict[str, Any] = demo_files.second_task()
        again["steps"][0]["input"]["duration"] = "20s"
        once: dict[str, Any] = {"id": "once-1", "steps": [{"name": "once", "tool": "stubborn"}]}
        for document in (again, once):
            self._send(document)
            fleet.until(partial(self.controller.all, "state", document["id"]), "the first step")
        self.board.cut_power()
        assert not self.controller.all("result", again["id"])
        self.board = Board(*self._board)
        outcomes = [self.controller.wait("result", it["id"])["outcome"] for it in (again, once)]
        assert outcomes == ["succeeded", "uncertain"], outcomes

    def nobody_said_what_the_protocol_does_not_know(self) -> None:
        assert self.controller.faults == []

    def _send(self, document: dict[str, Any]) -> None:
        more = {name: value for name, value in document.items() if name not in ("id", "steps")}
        self.controller.send(task(document["id"], document["steps"], **more))

    def _done(self, document: dict[str, Any]) -> dict[str, Any]:
        self._send(document)
        return self.controller.wait("result", document["id"])


CHECKS: tuple[Callable[[Proof], None], ...] = (
    Proof.it_is_there_with_control_groups,
    Proof.the_first_task_of_the_demonstration_runs_to_its_end,
    Proof.the_kernel_tells_what_memory_it_has,
    Proof.a_step_beyond_its_memory_is_ended_by_the_kernel,
    Proof.a_power_cut_in_mid_step_loses_nothing,
    Proof.without_the_memory_controller_it_is_ended_as_well,
    Proof.the_smallest_cap_in_which_it_connects_is_found,
    Proof.nobody_said_what_the_protocol_does_not_know,
)


def prove(arch: str, file: Path) -> int:
    """Do it all; return how many checks failed."""
    kind, started = KINDS[arch], time.monotonic()
    log = BUILD / f"board-{arch}.log"
    with tempfile.TemporaryDirectory(dir=BUILD) as name:
        place = Path(name)
        pack(arch, kind, place / "initrd")
        broker = TlsBroker(place)
        fill(place / "disk", file, broker)
        with broker.running():
            controller = Controller(broker, demo_files.SOURCE)
            proof = Proof(kind, place, log, controller)
            try:
                ends = {check.__name__.replace("_", " "): end(proof, check) for check in CHECKS}
            finally:
                proof.board.cut_power()
                controller.close()
    failed = [name for name, why in ends.items() if why != "ok"]
    for check, why in ends.items():
        sys.stderr.write(f"{check}: {why}\n")
    measured = {
        "board": " ".join(kind.machine),
        "saw": proof.facts,
        "bytes": file.stat().st_size,
        "checks": ends,
        "failed": len(failed),
        "seconds": round(time.monotonic() - started),
    }
    results.write(f"board-{arch}", f"make test-board ARCH={arch}", measured)
    return len(failed)


def end(proof: Proof, check: Callable[[Proof], None]) -> str:
    """Return `ok`, or why a check failed."""
    try:
        assert proof.board.is_on(), "the board is off"
        check(proof)
    except AssertionError as error:
        return str(error) or "it does not hold"
    return "ok"


def main(name: str) -> int:
    """Return 1 unless everything is proven."""
    file = Path(name).resolve(strict=True)
    arch = file.name.rpartition("-")[2]
    try:
        # Where the programs of root are, which are called by their names.
        os.environ["PATH"] += ":/usr/sbin:/sbin"
        check_programs(NEEDS)
        if arch not in KINDS:
            raise Broken(f"cannot emulate a board for {arch}: there is {' and '.join(KINDS)}")
        BUILD.mkdir(parents=True, exist_ok=True)
        return 1 if prove(arch, file) else 0
    except Broken as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
