"""The page of proofs says what the runs have written, and nothing else."""

from __future__ import annotations

import reliability


def test_the_page_is_what_the_result_files_say() -> None:
    """`python tests/reliability.py` writes it anew."""
    assert reliability.DOCUMENT.read_text() == reliability.document()


def test_the_readme_shows_the_newest_duel() -> None:
    text = reliability.README.read_text()
    assert reliability.BEGIN in text
    assert text == reliability.readme(text)


def test_every_result_file_is_told_about() -> None:
    """A measurement that nobody reads is not a proof."""
    told = {proof.file for proof in reliability.PROOFS if proof.file is not None}
    assert set(reliability.files()) == told


def test_every_proof_can_be_run() -> None:
    """What the page names exists: a target of the Makefile, or a file."""
    makefile = (reliability.ROOT / "Makefile").read_text()
    for proof in reliability.PROOFS:
        for name in proof.test.split("`")[1::2]:
            if name.startswith("make "):
                assert f"\n{name.removeprefix('make ')}:" in makefile, name
            else:
                assert (reliability.ROOT / name).exists(), name
