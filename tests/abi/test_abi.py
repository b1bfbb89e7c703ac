"""The header in the hands of a host in C: it compiles without a warning, links, and works."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import program

from samples import ROOT

HEADER = (ROOT / "native/include/limpet.h").read_text(encoding="utf-8")


def test_a_program_in_c_uses_every_function_of_the_header(tmp_path: Path) -> None:
    """`make valgrind` runs the same program: what it does not call is not looked at there."""
    program.lay_out(tmp_path)
    ran = subprocess.run(
        [program.build(tmp_path)], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert ran.returncode == 0, ran.stderr
    assert set(ran.stdout.split()) == set(re.findall(r"\b(limpet_\w+)\(", HEADER))
