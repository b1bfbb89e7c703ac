"""Mutants: known bugs, each of which a named test must find.

`python tests/mutants/mutate.py` applies each patch beside this file to a copy of the tree in
`build/mutants` and runs the test that its header names. That test must pass without the patch and
fail with it: by a failed test, not because something does not build or takes for ever. `--quick`
leaves out those whose test needs a build of the driver. Exits with 1 when a mutant survives.

A patch begins with what it breaks and what kills it:

    breaks: An accepted task is refilled with time by a restart.
    killer: cargo test -p limpet-core --test machine recovery::the_clock
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import results

ROOT = Path(__file__).resolve().parents[2]
PATCHES = Path(__file__).resolve().parent
TREE = ROOT / "build" / "mutants" / "tree"
TARGET = TREE.parent / "target"
# What a build leaves in the source tree, which Python tests load.
BUILT = ("runtime/limpet/native/_core*.so", "runtime/limpet/native/limpet-tool")

# Far above what a killer takes, its build included: who needs more hangs.
TIMEOUT_S = 600
HEADER = re.compile(r"breaks: (?P<breaks>.+)\nkiller: (?P<killer>.+)\n\n(?=--- a/)")
PASSED = re.compile(r"\b([1-9]\d*) passed\b")
FAILED = re.compile(r"\b([1-9]\d*) failed\b")
# What each runner exits with when it has run tests and some have failed.
EXIT_FAILED = {"cargo": 101, "pytest": 1}


class Mutant(NamedTuple):
    """One patch: what it breaks, and the command that must notice."""

    name: str
    file: Path
    breaks: str
    killer: str

    @property
    def quick(self) -> bool:
        """Whether its test needs no build of the driver."""
        return "limpet-driver" not in self.killer


class Run(NamedTuple):
    """How a killer ended: `passed`, `failed`, or why neither."""

    ended: str
    output: str


def load() -> list[Mutant]:
    """Return every mutant, by name."""
    return [read(file) for file in sorted(PATCHES.glob("*.patch"))]


def read(file: Path) -> Mutant:
    """Return the mutant of a patch file."""
    header = HEADER.match(file.read_text())
    if header is None:
        raise SystemExit(f"cannot read {file.name}: its header is not as mutate.py says")
    return Mutant(file.stem, file, header["breaks"], header["killer"])


def apply(tree: Path, mutant: Mutant, *options: str) -> str:
    """Apply a patch to `tree`; return why that was impossible, or nothing."""
    # Within a repository git would leave out, silently, what is outside of its own directory.
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.parent)}
    done = subprocess.run(
        ["git", "apply", *options, str(mutant.file)],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
    )
    return done.stderr if done.returncode else ""


def copy() -> None:
    """Make the copy equal to the tree. What is equal keeps its time, so that builds go on."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    built = [str(path.relative_to(ROOT)) for name in BUILT for path in ROOT.glob(name)]
    wanted = {name for name in [*listed, *built] if (ROOT / name).is_file()}
    for name in wanted:
        source, target = ROOT / name, TREE / name
        content = source.read_bytes()
        if not target.exists() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            shutil.copymode(source, target)
    for path in [path for path in TREE.rglob("*") if path.is_file()]:
        if str(path.relative_to(TREE)) not in wanted:
            path.unlink()


def run(killer: str) -> Run:
    """Run a killer in the copy."""
    runner, *arguments = shlex.split(killer)
    if runner == "cargo":
        command, folder = ["cargo", *arguments, "--locked"], TREE / "native"
    else:
        # No cache: its bytecode is known by a time in seconds, within which a patch may come.
        command = [sys.executable, "-B", "-m", runner, "-q", "-p", "no:cacheprovider", *arguments]
        folder = TREE
    environment = {
        **os.environ,
        "CARGO_TARGET_DIR": str(TARGET),
        "CARGO_TERM_COLOR": "never",
        "CARGO_PROFILE_DEV_DEBUG": "0",
        "PYTHONPATH": str(TREE / "runtime"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PY_COLORS": "0",
    }
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return Run(f"it did not end within {TIMEOUT_S} s", "")
    return Run(judge(runner, done.returncode, done.stdout), done.stdout)


def judge(runner: str, code: int, output: str) -> str:
    """Say `passed` or `failed` only of tests that have run; else say what happened."""
    if code == 0:
        return "passed" if PASSED.search(output) else "no test has run"
    if code == EXIT_FAILED[runner] and FAILED.search(output):
        return "failed"
    return f"it ended with {code} and no test has failed"


def attempt(mutant: Mutant) -> Run:
    """Let a mutant meet its killer, then mend the copy."""
    fault = apply(TREE, mutant)
    try:
        return Run(f"the patch does not apply: {fault}", "") if fault else run(mutant.killer)
    finally:
        copy()


def say(text: str) -> None:
    """Show progress at once, whoever reads it."""
    print(text, flush=True)


def sound(mutants: list[Mutant]) -> bool:
    """Say whether every killer passes without a patch."""
    fine = True
    for killer in dict.fromkeys(mutant.killer for mutant in mutants):
        ended, output = run(killer)
        say(f"without a patch: {ended}: {killer}")
        if ended != "passed":
            say(output)
            fine = False
    return fine


def hunt(mutants: list[Mutant]) -> tuple[list[dict[str, object]], list[str]]:
    """Let each meet its killer; return a row for each, and who was not killed."""
    rows: list[dict[str, object]] = []
    alive = []
    for number, mutant in enumerate(mutants, start=1):
        begin = time.monotonic()
        ended, output = attempt(mutant)
        seconds = round(time.monotonic() - begin, 1)
        killed = ended == "failed"
        say(
            f"[{number}/{len(mutants)}] {'killed  ' if killed else 'SURVIVED'} {mutant.name} "
            f"in {seconds} s{'' if killed else f': {ended}: {mutant.killer}'}"
        )
        if not killed:
            say(output)
            alive.append(mutant.name)
        rows.append({"name": mutant.name, "breaks": mutant.breaks, "killed": killed})
    return rows, alive


def main() -> int:
    """Run what is asked for; a whole run writes what came of it."""
    parser = argparse.ArgumentParser(description="Known bugs, each of which a test must find.")
    parser.add_argument("--quick", action="store_true", help="only what needs no build of ours")
    parser.add_argument("names", nargs="*", help="mutants to run instead of all")
    arguments = parser.parse_args()
    mutants = [
        mutant
        for mutant in load()
        if (mutant.quick or not arguments.quick)
        and (mutant.name in arguments.names or not arguments.names)
    ]
    copy()
    if not sound(mutants):
        return 1
    rows, alive = hunt(mutants)
    say(f"{len(rows) - len(alive)} of {len(rows)} mutants killed")
    if not arguments.quick and not arguments.names:
        results.write("mutants", "make mutants", {"mutants": rows})
    return 1 if alive or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
