"""Mistakes in a TOML file are found all at once, each with the line it stands on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet import toml
from limpet.fields import REQUIRED, Field, text, whole

SAMPLE = '''# a comment
title = "x"
[table]
key = 1
"quoted" = 2
dotted.name = 3
long = """
[fake]
key = 1
"""
after = 4
[ table . inner ] # spaces are allowed
deep = 5
[[array]]
first = 6
[array.sub]
below = 7
[[array]]
second = 8
'''


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ((), 1),
        (("title",), 2),
        (("table",), 3),
        (("table", "key"), 4),
        (("table", "quoted"), 5),
        (("table", "dotted", "name"), 6),
        (("table", "after"), 11),
        (("table", "inner", "deep"), 13),
        (("array",), 14),
        (("array", 0, "first"), 15),
        (("array", 0, "sub", "below"), 17),
        (("array", 1), 18),
        (("array", 1, "second"), 19),
        (("array", 1, "absent"), 18),
        (("nowhere", "at", "all"), 1),
    ],
)
def test_a_key_is_found_on_its_line(where: tuple[str | int, ...], line: int) -> None:
    assert toml.Source("a.toml", SAMPLE, []).origin(where) == f"a.toml:{line}"


def test_text_that_is_no_toml_is_one_mistake_with_its_line() -> None:
    mistakes: list[str] = []
    source = toml.Source("a.toml", "a = 1\nb = = 2\n", mistakes)
    assert source.root == {}
    assert len(mistakes) == 1
    assert mistakes[0].startswith("a.toml:2: cannot parse: ")


@given(st.text(st.sampled_from("[]{}='\"\\\n.,#a1 "), max_size=80))
def test_any_text_is_parsed_or_one_mistake(content: str) -> None:
    mistakes: list[str] = []
    source = toml.Source("a.toml", content, mistakes)
    assert len(mistakes) <= 1
    assert not (source.root and mistakes)
    assert source.origin(("a", 0, "b")).startswith("a.toml:")


def test_every_mistake_of_a_table_is_told_and_the_rest_is_read() -> None:
    mistakes: list[str] = []
    source = toml.Source("a.toml", "[t]\nnumbr = 1\nword = 2\ncount = 5\n", mistakes)
    fields = {
        "number": Field(3, whole(0, 9)),
        "word": Field("w", text),
        "count": Field(1, whole(0, 9), "_bytes"),
        "needed": Field(REQUIRED, text),
    }
    values = source.take(source.root["t"], ("t",), fields)
    assert values == {"number": 3, "word": "w", "count_bytes": 5}
    assert mistakes == [
        'a.toml:2: t.numbr: is not a known key (did you mean "number"?)',
        "a.toml:3: t.word: must be a text in quotes",
        'a.toml:1: t: needs the key "needed"',
    ]


def test_what_is_no_table_has_its_defaults_and_one_mistake() -> None:
    mistakes: list[str] = []
    source = toml.Source("a.toml", "t = 1\n", mistakes)
    fields = {"a": Field(3, whole(0, 9)), "b": Field(REQUIRED, text)}
    assert source.take(1, ("t",), fields) == {"a": 3}
    assert mistakes == ["a.toml:1: t: must be a table"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "No such file"), (b"\xff", "it is not UTF-8 at byte 0"), (b"#" * 300_000, "more than")],
)
def test_a_file_that_cannot_be_read_is_a_mistake(
    tmp_path: Path, content: bytes | None, expected: str
) -> None:
    file = tmp_path / "a.toml"
    if content is not None:
        file.write_bytes(content)
    mistakes: list[str] = []
    assert toml.load(str(file), mistakes).root == {}
    assert len(mistakes) == 1
    assert mistakes[0].startswith(f"{file}:1: cannot read the file: ")
    assert expected in mistakes[0]


def test_the_parser_is_forgotten_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in toml.PARSER]:
        # Others of these tests have theirs again afterwards.
        monkeypatch.setitem(sys.modules, name, sys.modules[name])
    assert toml.Source("a.toml", "a = 1", []).root == {"a": 1}
    toml.let_go()
    assert "tomli" not in sys.modules
    assert toml.Source("a.toml", "a = 2", []).root == {"a": 2}
