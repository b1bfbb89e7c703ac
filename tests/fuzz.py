"""Feeds everything that parses with anything, for SECONDS: `make fuzz SECONDS=60`; or, with
ONLY=models, what reads model files.

Decides how the time is shared, what of a search is kept and what it tells. The Rust targets are
searched by coverage (`native/fuzz`), the Python ones by chance (`tests/test_fuzz.py`). A finding
ends the run with the command that repeats it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import results

ROOT = Path(__file__).resolve().parent.parent
CORPUS = ROOT / "native" / "fuzz" / "corpus"
WORK = ROOT / "build" / "fuzz"
LIBRARY = ROOT / "native" / "fuzz" / "src" / "lib.rs"
# Instrumented by the compiler's own pass, which stable compilers have too.
COVERAGE = (
    "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 "
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters "
    "-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares "
    "-Ccodegen-units=1 -Cdebug-assertions=on"
)
INPUT_BYTES_MAX = 2048
# Of one input; far above what any needs, below what somebody would wait for.
HANG_S = 20
MEMORY_MB = 1024
# A shorter run is a check, and nothing to tell about.
WORTH_TELLING_S = 300


class Search(NamedTuple):
    """What one target's search came to."""

    executions: int
    corpus: int
    findings: list[str]


def main() -> int:
    """Search; 1 if anything was found."""
    seconds = int(os.environ.get("SECONDS") or "60")
    targets, only = _targets(), os.environ.get("ONLY", "")
    share = max(1, seconds // (len(targets) + (not only)))
    program = _build()
    told: dict[str, Any] = {}
    for target in targets:
        told[target] = _search(program, target, share)._asdict()
        print(f"{target}: {told[target]['executions']} executions", flush=True)
    if not only:
        told["python"] = _documents(share)._asdict()
        print(f"python: {told['python']['executions']} executions", flush=True)
    findings = [finding for search in told.values() for finding in search["findings"]]
    if seconds >= WORTH_TELLING_S:
        measured = {"seconds per target": share, "targets": told}
        name, words = (f"fuzz-{only}", f" ONLY={only}") if only else ("fuzz", "")
        results.write(name, f"make fuzz SECONDS={seconds}{words}", measured)
    for finding in findings:
        print(f"found: {finding}")
    return 1 if findings else 0


def _targets() -> list[str]:
    """Return the names of the targets: of all modules, or of the one that ONLY names."""
    module = os.environ.get("ONLY") or r"\w+"
    found = re.findall(rf'^    \("(\w+)", {module}::', LIBRARY.read_text(), re.MULTILINE)
    if not found:
        sys.exit(f"cannot search {module}: it has no targets (nothing is done)")
    return found


def _build() -> Path:
    """Build the search into a directory of its own; return its program."""
    host = subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True).stdout
    triple = re.search(r"^host: (.*)$", host, re.MULTILINE)
    assert triple is not None
    # With a target named, build scripts are not instrumented.
    command = ["cargo", "build", "--release", "--locked", "--package", "limpet-fuzz"]
    command += ["--features", "engine", "--target", triple[1]]
    command += ["--manifest-path", str(ROOT / "native" / "Cargo.toml")]
    environment = {
        **os.environ,
        "RUSTFLAGS": COVERAGE,
        "CARGO_TARGET_DIR": str(WORK / "target"),
        "CARGO_PROFILE_RELEASE_LTO": "off",
        "CARGO_PROFILE_RELEASE_STRIP": "none",
    }
    subprocess.run(command, env=environment, check=True)
    return WORK / "target" / triple[1] / "release" / "fuzz"


def _search(program: Path, target: str, seconds: int) -> Search:
    """Search one target from what is kept of it; what is new is kept if it reaches more."""
    kept, found, artefacts = CORPUS / target, WORK / "new" / target, WORK / "found"
    for directory in (kept, found, artefacts):
        directory.mkdir(parents=True, exist_ok=True)
    before = set(artefacts.iterdir())
    options = [
        f"-max_total_time={seconds}",
        f"-timeout={HANG_S}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-max_len={INPUT_BYTES_MAX}",
        f"-artifact_prefix={artefacts}/{target}-",
        "-print_final_stats=1",
    ]
    environment = {**os.environ, "TARGET": target}
    command = [str(program), *options, str(found), str(kept)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, errors="replace"
    )
    count = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    findings = [f"TARGET={target} {program} {file}" for file in set(artefacts.iterdir()) - before]
    if done.returncode and not findings:
        findings = [f"{target} ended with {done.returncode}"]
    if findings:
        print(done.stderr[-4000:])
    if os.environ.get("KEEP"):
        _keep(program, target)
    return Search(int(count[1]) if count else 0, len(list(kept.iterdir())), sorted(findings))


def _keep(program: Path, target: str) -> None:
    """Replace the kept corpus by a small one that reaches every place it or what is new does."""
    kept, found, merged = CORPUS / target, WORK / "new" / target, WORK / "merged" / target
    shutil.rmtree(merged, ignore_errors=True)
    merged.mkdir(parents=True)
    # How often a place is reached is left to the search: the repository keeps which.
    options = ["-set_cover_merge=1", "-use_counters=0", f"-max_len={INPUT_BYTES_MAX}"]
    command = [str(program), *options, str(merged)]
    environment = {**os.environ, "TARGET": target}
    subprocess.run(
        [*command, str(kept), str(found)], env=environment, capture_output=True, check=True
    )
    shutil.rmtree(kept)
    shutil.copytree(merged, kept)


def _documents(seconds: int) -> Search:
    """Search the Python half: documents of controllers, as bytes and as values."""
    environment = {**os.environ, "FUZZ_SECONDS": str(seconds)}
    command = [sys.executable, "-m", "pytest", "-q", "-s", "tests/test_fuzz.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    count = sum(int(number) for number in re.findall(r"^examples: (\d+)$", done.stdout, re.M))
    findings = []
    if done.returncode:
        print(done.stdout[-4000:])
        findings = [f"FUZZ_SECONDS={seconds} {' '.join(command[1:])}"]
    corpus = len(list((ROOT / "tests" / "vectors" / "plans").iterdir()))
    return Search(count, corpus, findings)


if __name__ == "__main__":
    sys.exit(main())
