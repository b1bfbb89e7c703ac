"""PROTOCOL.md and the code say the same: examples, schemas, bounds and reason codes."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from limpet import report, task
from limpet.codec import DEPTH_MAX, DIGITS_MAX, ITEMS_MAX, MESSAGE_BYTES_MAX, decode
from limpet.errors import REASONS, TaskError
from samples import NOW_MS, ROOT, VECTORS, history, pictured, read_vectors, row, step

TEXT = (ROOT / "PROTOCOL.md").read_text()
BLOCKS = [json.loads(block.partition("```")[0]) for block in TEXT.split("```json\n")[1:]]
SCHEMAS = {block["$id"].split(":")[-1]: block for block in BLOCKS if "$schema" in block}
EXAMPLES = [block for block in BLOCKS if "$schema" not in block]
NAMES = ["task", "cancel", "look", "answer", "state", "result", "memory", "presence"]


def valid(kind: str, document: object) -> bool:
    return bool(Draft202012Validator(SCHEMAS[kind]).is_valid(document))


def kind_of(document: dict[str, Any]) -> str:
    sent = "task" if "steps" in document else "look" if "for" in document else "cancel"
    return str(document.get("kind", sent))


def test_every_document_has_a_schema_and_an_example() -> None:
    assert list(SCHEMAS) == NAMES
    assert [kind_of(example) for example in EXAMPLES] == NAMES


@pytest.mark.parametrize("kind", NAMES)
def test_a_schema_is_one(kind: str) -> None:
    Draft202012Validator.check_schema(SCHEMAS[kind])


@pytest.mark.parametrize("example", EXAMPLES, ids=kind_of)
def test_an_example_fits_its_schema(example: dict[str, Any]) -> None:
    Draft202012Validator(SCHEMAS[kind_of(example)]).validate(example)


def test_what_is_printed_for_a_device_compiles() -> None:
    assert task.compile_look(EXAMPLES[2]) == 30_000
    assert task.compile(EXAMPLES[0], "ops", NOW_MS) == read_vectors("plans/example.json")["plan"]
    assert task.compile_cancel(EXAMPLES[1], "ops", NOW_MS)["id"] == EXAMPLES[0]["id"]


def test_every_golden_document_fits_the_schema() -> None:
    for path in (VECTORS / "plans").iterdir():
        Draft202012Validator(SCHEMAS["task"]).validate(json.loads(path.read_text())["document"])


def test_what_is_refused_for_its_members_does_not_fit_the_schema() -> None:
    """A schema cannot look across steps; which members there are it judges as the code does."""
    formal = ("field_missing", "field_unknown", "version_unsupported")
    vectors = [vector for vector in read_vectors("refusals.json") if vector["code"] in formal]
    assert len(vectors) >= 8
    for vector in vectors:
        assert not valid("task", vector["document"]), vector["about"]


@given(st.data())
def test_what_compiles_fits_the_schema(data: st.DataObject) -> None:
    """The schema refuses nothing that a device accepts, so a controller may rely on it."""
    values = st.sampled_from(
        [None, True, 0, 1, 0.5, "1s", "1MiB", "stop", "any", {}, {"memory": "1MiB"}, {"jitter": 1}]
    )
    members = data.draw(
        st.dictionaries(st.sampled_from(sorted(task.STEP.fields)), values, max_size=3)
    )
    document = {
        "limpet": 1,
        "id": "a",
        "expires_at": "2026-11-24T05:00:00Z",
        "steps": [{"name": "s", "tool": "t", **members}],
    }
    try:
        task.compile(document, "ops", NOW_MS)
    except TaskError:
        return
    assert valid("task", document)


def result(one: dict[str, Any]) -> bytes:
    return report.build_result(orjson.dumps(history([one])))


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("answer", report.build_answer("ops", "t-1", "accepted")),
        ("answer", report.build_answer("ops", "t-1", "known", request="cancel")),
        ("answer", report.build_answer("ops", None, "refused", code="not_json", detail="x")),
        ("state", report.build_state("ops", "t-1", 1, "waiting")),
        ("state", report.build_state("ops", "t-1", 1, "running", 0, 1, [1])),
        ("result", result(step("a", "out", "err", {"x": 1}))),
        ("result", result(step("a", "x" * 200_000))),
        ("result", result(step("a", result={"v": "x" * 200_000}))),
        ("answer", report.build_answer("ops", None, "accepted", request="look")),
        ("memory", report.build_memory("ops", pictured())),
        ("memory", report.build_memory("ops", pictured(row("a+b.t", 1, None), refusing="x"))),
        ("presence", report.build_presence(True, "n", {"version": "1"})),
    ],
)
def test_what_the_device_says_fits_its_schema(kind: str, body: bytes) -> None:
    Draft202012Validator(SCHEMAS[kind]).validate(decode(body))


@given(
    st.dictionaries(st.sampled_from(["limpet", "for", "id"]), st.sampled_from([1, 2, "5s", "60s"]))
)
def test_a_look_that_is_taken_fits_its_schema(document: dict[str, Any]) -> None:
    try:
        for_ms = task.compile_look(document)
    except TaskError:
        return
    assert 1_000 <= for_ms <= 60_000
    assert valid("look", document)


def test_the_printed_reason_codes_are_those_of_the_code() -> None:
    table = TEXT.partition("## Reason codes")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| `")]
    assert {row[1].strip(" `"): row[2].strip() for row in rows} == REASONS


def test_the_printed_bounds_are_those_of_the_code() -> None:
    table = TEXT.partition("## The body")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| ")][1:]
    bounds = {row[1].strip(): row[2].strip() for row in rows}
    assert bounds == {
        "bytes": f"{MESSAGE_BYTES_MAX // 1024} KiB",
        "nesting": str(DEPTH_MAX),
        "strings, and values": f"{ITEMS_MAX} each",
        "a key in one object": "once",
        "integers": "-2^53 to 2^53",
        "digits in a row before a number's point": str(DIGITS_MAX),
    }


def test_every_member_of_a_task_is_explained() -> None:
    section = TEXT.partition("## Task")[2].partition("\n## ")[0].partition('{"$schema"')[0]
    for form in (task.DOCUMENT, task.STEP, task.RETRY, task.LIMITS):
        for name in form.fields:
            assert f"`{name}`" in section, name
