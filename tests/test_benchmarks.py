"""The page of benchmarks and its plots say what the run has written, and nothing else."""

from __future__ import annotations

import json

import report


def test_the_page_is_what_the_result_file_says() -> None:
    """`python tests/bench/report.py` writes it anew."""
    assert report.PAGE.read_text() == report.page(json.loads(report.RESULT.read_text()))


def test_the_plots_are_what_the_result_file_says() -> None:
    drawn = report.drawn(json.loads(report.RESULT.read_text())["measured"])
    assert {f"{name}.svg": picture for name, picture in drawn.items()} == {
        file.name: file.read_text() for file in report.PLOTS.iterdir()
    }


def test_the_readme_shows_the_plots() -> None:
    text = (report.ROOT / "README.md").read_text()
    assert f"]({report.PAGE.name})" in text
    for file in report.PLOTS.iterdir():
        assert f"]({file.relative_to(report.ROOT)})" in text
