"""RELIABILITY.md from what the runs have written: `python tests/reliability.py` writes it anew.

Decides which promise is told with which figures. A test holds the document against the files, so
that no number stands in it that no run has measured.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "tests" / "results"
DOCUMENT = ROOT / "RELIABILITY.md"
README = ROOT / "README.md"
# Told on a page of its own, BENCHMARKS.md.
ELSEWHERE = {"bench"}
BEGIN, END = "<!-- duel: begin -->\n", "<!-- duel: end -->\n"

HEAD = """\
# What has tried to break it

Written by `python tests/reliability.py` from the files in `tests/results/`, each of which a run
wrote together with its command, commit, date and machine. A test fails when this page and those
files differ.

## Promise, test, result

A result without figures is that of every `make test`: it passes, or the change does not land.

| Promise | Test | Result |
| --- | --- | --- |
"""

Measured = dict[str, Any]


class Proof(NamedTuple):
    """One promise, what tries to break it, and what a run of that has measured."""

    promise: str
    test: str
    file: str | None = None
    says: Callable[[Measured], str] | None = None


def load(name: str) -> Measured:
    """Return what the newest run of `name` has written."""
    told: Measured = json.loads((RESULTS / f"{name}.json").read_text())
    return told


def files() -> list[str]:
    """Return the names of the runs that this page tells of."""
    return sorted(file.stem for file in RESULTS.glob("*.json") if file.stem not in ELSEWHERE)


def chaos(told: Measured) -> str:
    """Say what came of tasks under kills."""
    faults = told["faults and refusals"]
    links = sum(faults.get(kind, 0) for kind in ("cut", "half_close", "delay"))
    restarts = faults.get("restart", 0) + faults.get("forget", 0)
    return (
        f"{told['tasks']} tasks, {faults['kill']} kills, {restarts} restarts of the broker "
        f"({faults.get('forget', 0)} without its memory), {links} faults of the link: "
        f"{told['with one outcome']} tasks with one outcome, "
        f"{told['stop steps started twice']} `stop` steps started twice, "
        f"{told['results heard']} results heard, {told['results lost by the broker']} lost by the "
        "broker with its memory and told when asked again"
    )


def duel(told: Measured) -> str:
    """Say how many faults each withstood."""
    rows = told["faults"]
    counts = [sum(row[name]["withstood"] for row in rows) for name in ("limpet", "script")]
    return f"{len(rows)} faults: limpet withstood {counts[0]}, a script of sixty lines {counts[1]}"


def stalls(told: Measured) -> str:
    """Say how late deadlines were, and what the machine alone did to a process that slept."""
    rows = told["stalls"]
    every = [row["deadlines"] for row in rows]
    idle = [row["a process that sleeps"] for row in rows]
    beyond = f"above {told['late ms at most']:g} ms"
    count = sum(one["count"] for one in every)
    late = sum(one[beyond] for one in every)
    within = f"{count - late} within {told['late ms at most']:g} ms"
    return (
        f"{sum(row['runs'] for row in rows)} stalls of {len(rows)} kinds, {count} deadlines: "
        f"{within}, the latest {max(one['latest ms'] for one in every):g} ms late; a process that "
        f"only slept, beside them, was woken {max(one['latest ms'] for one in idle):g} ms late at "
        f"worst, above {told['late ms at most']:g} ms {sum(one[beyond] for one in idle)} times of "
        f"{sum(one['count'] for one in idle)}"
    )


def flash(told: Measured) -> str:
    """Say what a task costs the disk."""
    cost, idle = told["flash"], told["idle"]
    return (
        f"{cost['syncs per task']:g} syncs and {cost['bytes per task'] / 1024:.1f} KiB at the "
        f"block layer per task of three steps with results of {cost['result bytes']} bytes; "
        f"{idle['bytes to its device']} bytes in {idle['seconds']} idle seconds"
    )


def soak(told: Measured) -> str:
    """Say what a long life leaves behind."""
    life, first, last = told["soak"], told["soak"]["samples"][2], told["soak"]["samples"][-1]
    return (
        f"{life['tasks']} tasks and {life['messages sent']} messages in {life['seconds']} s: "
        f"resident {first['resident KiB']} KiB after a tenth, {last['resident KiB']} KiB at the "
        f"end; threads {first['threads']} and {last['threads']}; "
        f"{told['collections']['in the chosen slot']} collections in the loop's own slot, "
        f"{told['collections']['elsewhere']} elsewhere, "
        f"{told['collections']['objects found']} objects of garbage"
    )


def sim(told: Measured) -> str:
    """Say how much was lived through."""
    machine = [told[name] for name in ("calm", "crashes", "everything")]
    agent = told["whole agent"]
    return (
        f"{sum(kind['worlds'] for kind in machine)} histories of the machine with "
        f"{sum(kind['crashes'] for kind in machine)} crashes and "
        f"{sum(kind['results'] for kind in machine)} results; all "
        f"{told['exhaustive']['histories']} histories of a tiny machine; {agent['worlds']} of the "
        f"whole agent with {agent['tasks']} "
        f"tasks, {agent['lives']} lives and {agent['faults']} faults"
    )


def vm(told: Measured) -> str:
    """Say in how many set-ups how many tests passed, and what else they did."""
    return (
        f"Linux {told['kernel']}, {len(told['set-ups'])} set-ups: {told['passed']} tests passed, "
        f"{told['failed']} failed, {told['skipped']} skipped for a reason of the set-up"
    )


def fuzz(told: Measured) -> str:
    """Say how much was tried, and what came of it."""
    targets = told["targets"].values()
    return (
        f"{sum(one['executions'] for one in targets)} executions of {len(targets)} targets in "
        f"{told['seconds per target']} s each: "
        f"{sum(len(one['findings']) for one in targets)} findings"
    )


def inventory(told: Measured) -> str:
    """Say what a look at a header takes, and how fast hashing is."""
    header, hashing = told["header"], told["hashing"]
    return (
        f"{header['file bytes'] / 1e9:.0f} GB with {header['tokens']} tokens, "
        f"{header['stored bytes'] / (1 << 20):.1f} MiB of it stored: {header['ms']:g} ms "
        f"({header['ms with the start of Python']:g} ms where Python is started before), "
        f"{header['extra bytes'] / (1 << 20):.1f} MiB beyond what the program has without a file; "
        f"hashing {hashing['limpet MB/s']} MB/s, sha256sum in turn {hashing['sha256sum MB/s']}"
    )


def valgrind(told: Measured) -> str:
    """Say what was watched, and what was seen."""
    watched = [told["program"], *told["tests"].values()]
    return (
        f"{told['program']['functions']} functions and "
        f"{sum(target['tests'] for target in told['tests'].values())} tests: "
        f"{sum(one['errors'] for one in watched)} errors, "
        f"{sum(one['bytes definitely lost'] for one in watched)} bytes definitely lost"
    )


def mutants(told: Measured) -> str:
    """Say how many known bugs the tests have found."""
    rows = told["mutants"]
    return f"{len(rows)} bugs: {sum(row['killed'] for row in rows)} found by the test named for it"


def core(told: Measured) -> str:
    """Say what the core's tests have noticed."""
    hung, survived = told.get("hung", 0), told.get("survived", 0)
    return (
        f"{told['caught'] + hung + survived} changes: {told['caught']} failed a test, {hung} never "
        f"ended, {survived} survived, of which {told['survived without a reason']} without a "
        "reason in `tests/mutants/survivors.toml`"
    )


def frozen(told: Measured) -> str:
    """Say how large it is, how fast it starts, and what it takes."""
    sizes = ", ".join(f"{name}: {size} bytes" for name, size in told["bytes"].items())
    start, idle = told["start"], told["idle_with_tls"]
    return (
        f"{sizes}; subscribed {start['frozen']['median_ms']} ms after its start in the median of "
        f"{len(start['frozen']['all_ms'])} (from the package for Python, in turn: "
        f"{start['venv']['median_ms']}); connected by TLS and at rest, "
        f"{idle['processes']} process: PSS {idle['pss_mib']} MiB, RSS {idle['rss_mib']}; "
        f"the smallest cap in which it connects "
        f"so: {told['smallest_cap_mib']} MiB"
    )


def reproducible(told: Measured) -> str:
    """Say what was built twice."""
    kind = "a release" if told["release"] else "as it is"
    return (
        f"`{told['file']}`, {kind}: {told['bytes']} bytes, twice SHA-256 `{told['sha256'][:16]}...`"
    )


def release(told: Measured) -> str:
    """Say what training saves."""
    sizes, tasks, training = told["bytes"], told["tasks"], told["training"]
    return (
        f"{sizes['release']} bytes (untrained: {sizes['ordinary']}); in the median of "
        f"{tasks['turns']} turns the thread that runs Python takes "
        f"{tasks['release to ordinary']:g} times the untrained one's for {tasks['tasks']} tasks, "
        f"{training['release to ordinary']:g} times for the work that it was trained by"
    )


def foreign(told: Measured) -> str:
    """Say what a file for another processor is, and what was seen of it under emulation."""
    verified = told["verified"]
    unseen = "; ".join(
        f"`{test}` ({reason})" for test, reason in told["not seen under emulation"].items()
    )
    return (
        f"{told['bytes']} bytes, {verified['version']}, {verified['C library']}, self-test "
        f"{verified['self-test']}, {len(told['passed'])} tests passed, by {told['emulated by']}; "
        f"not seen so: {unseen}"
    )


def systemd(told: Measured) -> str:
    """Say what was booted, and what came of the checks."""
    return (
        f"`{told['package']}` under systemd {told['systemd']}, Linux {told['kernel']}: "
        f"{len(told['checks'])} checks, {told['failed']} failed"
    )


def board(told: Measured) -> str:
    """Say what a file has done on an emulated board."""
    saw = told["saw"]
    checks = told["checks"].values()
    return (
        f"`{told['board']}`, Linux {saw['kernel']}, {saw['machine']}: {len(checks)} checks, "
        f"{told['failed']} failed; connected by TLS it has PSS {saw['pss KiB'] / 1024:.1f} MiB, "
        f"RSS {saw['rss KiB'] / 1024:.1f}; the smallest cap in which it connects so: "
        f"{saw['smallest cap MiB']} MiB"
    )


def sampled(told: Measured) -> str:
    """Say how far limits were passed, and what looking costs."""
    mib = 1 << 20
    rows = "; ".join(
        f"limit {row['limit bytes'] // mib} MiB, {row['rate']}: {row['runs']} runs, passed by "
        f"{row['median bytes'] / mib:.1f} MiB in the median, {row['most bytes'] / mib:.1f} at most"
        for row in told["overshoot"]
    )
    costs = "; ".join(
        f"{cost['percent']:g}% of one core for {cost['steps']} idle steps with limits of "
        f"{cost['limit bytes'] // mib} MiB"
        for cost in told["cost"]
    )
    starts = "; ".join(
        f"{how} the first instruction of a step runs {plain[0]} µs after its order without control "
        f"groups and {begun} µs at most with them ({begun / plain[0]:.2f} times), and the agent "
        f"knows of it after {plain[1]} and at most {known} µs, in the median"
        for pause, how in ((0, "one after the other"), (100, "after a tenth of a second of rest"))
        for *grouped, plain in [
            [
                (it["begun microseconds"], it["known microseconds"])
                for it in told["start"]
                if it["pause ms"] == pause
            ]
        ]
        for begun, known in [map(max, zip(*grouped, strict=True))]
    )
    return f"{rows}; {costs}; {starts} (load of the machine before: {told['load before']:g})"


def capped(told: Measured) -> str:
    """Say what was pressed, and what came of it."""
    told_cases = []
    for case, run in told.items():
        first, last = run["samples"][len(run["samples"]) // 4], run["samples"][-1]
        told_cases.append(
            f"{run['cap bytes'] >> 20} MiB for {case} (memory {run['memory']}): {run['tasks']} "
            f"tasks, {run['messages']} messages, {run['hogs']} hogs and {run['lies']} lies in "
            f"{run['seconds']} s: {sum(run['outcomes'].values())} results, "
            f"{run['kernel kills']} kills by the kernel, at most "
            f"{run['peak charged bytes'] / (1 << 20):.1f} MiB charged, cached files included; "
            f"anonymous memory {first['anonymous KiB']} KiB after a quarter, "
            f"{last['anonymous KiB']} KiB at the end"
        )
    return "; ".join(told_cases)


PROOFS = [
    Proof(
        "An accepted task reaches one outcome, and no `stop` step runs twice",
        "`make chaos`: real broker, processes, disk",
        "chaos",
        chaos,
    ),
    Proof(
        "The same, whatever the machine is told in whatever order, and wherever it dies; clocks "
        "jump by decades, disks tear, stall, rot and fail, a broker repeats, reorders and forgets",
        "`make sim`: `native/core/tests/sim`, `tests/sim`",
        "sim",
        sim,
    ),
    Proof(
        "The journal loses no committed record: each call of the disk fails in turn, each byte is "
        "flipped in turn, every truncation, a full disk at each write",
        "`native/driver/src/store/tests.rs`, `native/driver/tests/store.rs`",
    ),
    Proof(
        "Whatever arrives is taken or refused: packets, frames, tasks, results, inputs, records, "
        "damaged journals",
        "`make fuzz`: `native/fuzz`, `tests/test_fuzz.py`",
        "fuzz",
        fuzz,
    ),
    Proof(
        "Whatever a model file holds, it is judged and told, and every output stays in its form",
        "`make fuzz`, of model files alone: `native/fuzz/src/models.rs`",
        "fuzz-models",
        fuzz,
    ),
    Proof(
        "Every known way to be malformed brings its finding; what a file claims becomes neither "
        "memory (8 MiB at most, counted) nor work beyond its header; the official schemas and "
        "libraries take every output",
        "`native/inventory/tests`, `tests/inventory`",
    ),
    Proof(
        "A look at a model takes less than 50 ms and 8 MiB, whatever its size; hashing is at least "
        "nine tenths as fast as `sha256sum`",
        "`make measure-inspect`",
        "inventory",
        inventory,
    ),
    Proof(
        "Neither the C ABI nor the driver reads, writes or loses memory that it must not",
        "`make valgrind`: a C program that calls every function of the header, the driver's tests",
        "valgrind",
        valgrind,
    ),
    Proof(
        "Threads lose no message and no wake-up, and none waits for ever",
        "`make loom`: every order in which the threads of `native/rings` can meet, up to two "
        "preemptions",
    ),
    Proof(
        "What happens to everybody's first agent does not happen to this one",
        "`make duel`",
        "duel",
        duel,
    ),
    Proof(
        "No deadline waits: not for Python that hangs in a C call or is stopped (a task ends "
        "durably meanwhile and is told afterwards), not for the threads of journal, spawner and "
        "uplink, nor for a name lookup or a broker that is silent",
        "`make stalls`: each is held up for 5 s, Python for 10 s; `tests/e2e/test_stalls.py`",
        "stalls",
        stalls,
    ),
    Proof(
        "No step takes more than its limits, and none of its descendants outlives it, with control "
        "groups of version 2: for root, in a service's group, for a user in a delegated group; and "
        "without them or without their memory controller the results say what is not kept",
        "`make test-vm`: Debian's kernel, emulated; `tests/vm`",
        "vm",
        vm,
    ),
    Proof(
        "An agent under a cap loses nothing and is never what the kernel takes: with its steps in "
        "a group that it may not write to, as an ordinary user; and alone, its steps beside it",
        "`make capped`; `tests/e2e/test_capped.py`",
        "capped",
        capped,
    ),
    Proof(
        "The same for the single executable, whose own pages count: with its steps, and alone in "
        "20 MiB with TLS",
        "`make capped-frozen`",
        "capped-frozen",
        capped,
    ),
    Proof(
        "Steps share a pool of memory: what fits runs, what never fits is refused, a large step is "
        "not starved, and what a process that does not die holds stays counted",
        "`native/core/tests/machine/admission.rs`, `native/core/tests/sim`, "
        "`native/driver/tests/driver`",
    ),
    Proof(
        "The agent stays within its own budget: it refuses, tidies up, and starts anew in order",
        "`tests/test_memory.py`, `tests/test_loop.py`",
    ),
    Proof("Flash is spared", "`make soak`: a file system of its own", "soak", flash),
    Proof("Memory, descriptors and threads stay as they are", "`make soak`", "soak", soak),
    Proof(
        "Tests notice what breaks a promise: known bugs are put into the product, one at a time",
        "`make mutants`: `tests/mutants`",
        "mutants",
        mutants,
    ),
    Proof(
        "A step keeps within its memory where the kernel lends no controller: what it passes its "
        "limit by, and what looking at it costs",
        "`tests/e2e/sampled.py`: `native/driver/tests/process_memory.rs`",
        "memory-sampled",
        sampled,
    ),
    Proof(
        "Tests notice any small change of the core: each that cargo-mutants can think of",
        "`make mutants-core`: `native/core`",
        "mutants-core",
        core,
    ),
    Proof(
        "The single executable is small, starts at once and rests in little memory",
        "`make measure-frozen`: `tests/frozen/measure.py`",
        "frozen",
        frozen,
    ),
    Proof(
        "Two builds of one commit, in two places and from nothing, are byte-identical",
        "`make test-reproducible`: `packaging/freeze/twice`",
        "reproducible",
        reproducible,
    ),
    Proof(
        "A release (`RELEASE=1`), trained by an agent's work, is smaller and takes less of the "
        "processor",
        "`make measure-release`: `tests/frozen/release.py`",
        "release",
        release,
    ),
    *(
        Proof(
            f"The single executable for {arch} does what that for x86-64 does",
            f"`make test-frozen` with ARCH={arch}: `tests/frozen`, by qemu-user",
            f"frozen-{arch}",
            foreign,
        )
        for arch in ("aarch64", "armv7")
    ),
    *(
        Proof(
            f"On a board ({arch}) it runs a task to its end, ends a step beyond its memory with "
            "and without the kernel's controller, and loses nothing in a power cut",
            f"`make test-board` with ARCH={arch}: Debian's kernel, emulated; `tests/vm/board.py`",
            f"board-{arch}",
            board,
        )
        for arch in ("aarch64", "armv7")
    ),
    Proof(
        "The Debian package serves under systemd: it is ready when it says so, allows nothing "
        "until it is told, keeps limits in delegated groups, comes back after a kill and by its "
        "watchdog, drains when it is stopped and when it is upgraded in mid-task",
        "`make test-systemd`: Debian, emulated; `tests/carriers/booted.py`",
        "systemd",
        systemd,
    ),
]


def document() -> str:
    """Return the whole page."""
    rows = "".join(_row(proof) for proof in PROOFS)
    return f"{HEAD}{rows}\n{_duel_section()}\n{_runs()}"


def _row(proof: Proof) -> str:
    said = "holds"
    if proof.file is not None and proof.says is not None:
        said = proof.says(load(proof.file)["measured"])
    return f"| {proof.promise} | {proof.test} | {said} |\n"


def _duel_section() -> str:
    rows = load("duel")["measured"]["faults"]
    meanings = "".join(f"- **{row['fault']}**: {row['meaning']}\n" for row in rows)
    return f"""\
## The duel

The script is `tests/e2e/naive.py`: paho, json and subprocess, with a session that the broker keeps
and QoS 1 both ways. Both meet each fault with a broker of their own; what is told is evidence from
outside.

{duel_table()}
{meanings}"""


def duel_table() -> str:
    """Return the table of what happened to each."""
    rows = load("duel")["measured"]["faults"]
    lines = "".join(
        f"| {row['fault']} | {_fate(row['limpet'])} | {_fate(row['script'])} |\n" for row in rows
    )
    return f"| | limpet | the script everybody writes |\n| --- | --- | --- |\n{lines}"


def _fate(facts: Measured) -> str:
    said = ["held" if facts["withstood"] else "**broke**"]
    if "starts" in facts:
        said.append({0: "never started", 1: "started once", 2: "started twice"}[facts["starts"]])
    if "left" in facts:
        said.append(f"{facts['left']} processes left" if facts["left"] else "nothing left")
    if "deadline late by s" in facts:
        said.append(f"deadline {facts['deadline late by s']:g} s late")
    if "memory grew MB" in facts:
        said.append(f"memory grew by {facts['memory grew MB']} MB")
    told = dict.fromkeys(facts["told"])
    said.append("told `" + "`, `".join(told) + "`" if told else "told nothing")
    return "; ".join(said)


def _runs() -> str:
    lines = ""
    for name in files():
        told = load(name)
        changed = " with changes" if told["modified"] else ""
        lines += (
            f"| `{told['command']}` | {told['date']} | {told['commit']}{changed} | "
            f"{told['machine']}, Python {told['python']} |\n"
        )
    return (
        f"## The runs\n\n| Command | Date | Commit | Machine |\n| --- | --- | --- | --- |\n{lines}"
    )


def readme(text: str) -> str:
    """Return the text of README with the table of the duel as it is now."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{duel_table()}{END}{after}"


def main() -> int:
    """Write both."""
    DOCUMENT.write_text(document())
    README.write_text(readme(README.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
