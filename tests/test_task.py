"""Task documents: the golden plans, a code and a place for every fault, and no other way out."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet import task
from limpet.errors import TaskError
from samples import NOW_MS, VECTORS, read_vectors

PLANS = sorted(path.name for path in (VECTORS / "plans").iterdir())
REFUSALS = read_vectors("refusals.json")
EXTENSION = read_vectors("extension.json")

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=10,
)
REFERENCES = st.sampled_from(
    ["${steps.a.outcome}", "$${steps.", "${steps.", "${task.id}", "${device.name}", "$", "}", "x"]
)


def one_step(**members: object) -> dict[str, Any]:
    return {
        "limpet": 1,
        "id": "t-1",
        "expires_at": "2026-11-24T05:00:00Z",
        "steps": [{"name": "a", "tool": "x"}, {"name": "b", "tool": "x", **members}],
    }


def compile_step(**members: object) -> Any:
    plan: Any = task.compile(one_step(**members), "ops", NOW_MS)
    return plan["steps"][1]


@pytest.mark.parametrize("name", PLANS)
def test_a_document_compiles_to_its_golden_plan(name: str) -> None:
    vector = read_vectors(f"plans/{name}")
    plan = task.compile(vector["document"], vector["source"], vector["now_ms"])
    assert plan == vector["plan"], vector["about"]


@pytest.mark.parametrize("vector", REFUSALS, ids=[vector["about"] for vector in REFUSALS])
def test_a_faulty_document_is_refused_with_its_code_and_place(vector: dict[str, Any]) -> None:
    with pytest.raises(TaskError) as caught:
        task.compile(vector["document"], "ops", NOW_MS)
    assert caught.value.code == vector["code"]
    assert vector["detail"] in caught.value.detail


def test_an_extension_compiles_to_its_golden_form() -> None:
    extension = task.extend(EXTENSION["plan"], EXTENSION["after"], EXTENSION["next"])
    assert extension == EXTENSION["extension"]


@pytest.mark.parametrize(
    ("steps", "code"),
    [
        ([], "field_invalid"),
        ({}, "field_invalid"),
        ([{"name": f"n{i}", "tool": "x"} for i in range(4)], "extension_above_ceiling"),
        ([{"name": "n", "tool": "reboot"}], "extension_above_ceiling"),
        ([{"name": "think", "tool": "x"}], "step_duplicate"),
        ([{"name": "clean", "tool": "x"}], "step_duplicate"),
        (
            [{"name": "n", "tool": "x", "input": {"a": "${steps.clean.outcome}"}}],
            "reference_unknown",
        ),
        ([{"name": "n", "tool": "x", "next": []}], "field_unknown"),
    ],
)
def test_an_extension_outside_its_ceilings_is_refused(steps: object, code: str) -> None:
    with pytest.raises(TaskError) as caught:
        task.extend(EXTENSION["plan"], 0, steps)
    assert caught.value.code == code


def test_a_second_extension_has_what_the_first_left() -> None:
    first = EXTENSION["extension"]
    plan = {**EXTENSION["plan"], "ceilings": first["ceilings"]}
    plan["steps"] = plan["steps"] + first["steps"]
    step = {"name": "more", "tool": "x", "input": {"a": "${steps.look.outcome}"}}
    second: Any = task.extend(plan, 4, [step])
    assert second["ceilings"]["steps"] == 0
    assert second["steps"][0]["input"] == {"a": {"$": [{"step": 3, "path": ["outcome"]}]}}


def test_the_time_of_expiry_itself_is_too_late() -> None:
    document = {**one_step(), "expires_at": "2026-11-18T11:06:40Z"}
    with pytest.raises(TaskError) as caught:
        task.compile(document, "ops", NOW_MS)
    assert caught.value.code == "expired"
    assert task.compile(document, "ops", NOW_MS - 1)


def test_null_means_the_default_where_the_default_is_none() -> None:
    absent = compile_step()
    assert compile_step(when=None, heartbeat=None, limits={"memory": None}) == absent


def test_a_long_first_interval_lifts_the_longest_one() -> None:
    retry = compile_step(retry={"initial_interval": "5m"})["retry"]
    assert retry["maximum_interval_ms"] == 300_000


def test_no_task_changes_the_defaults_of_the_next() -> None:
    absent = compile_step()
    compile_step(retry={"initial_interval": "5m"}, limits={"memory": "1MiB"}, input={"a": 1})
    assert compile_step() == absent
    forms = (task.DOCUMENT, task.CEILINGS, task.STEP, task.RETRY, task.LIMITS)
    assert [form.defaults for form in forms] == [task.Form(form.fields).defaults for form in forms]


def test_steps_that_came_before_are_the_same_again_in_another_task() -> None:
    """Short ones are not compiled anew, long ones are; nobody sees a difference."""
    for text in ("x", "x" * task.KEPT_BYTES_MAX):
        first, other = one_step(input={"a": text}), one_step(input={"a": text})
        plans: list[Any] = [task.compile(first, "ops", NOW_MS) for _ in range(2)]
        plans.append(task.compile({**other, "id": "t-2", "finally": []}, "dev", NOW_MS))
        assert plans[0] == plans[1] == {**plans[2], "id": "t-1", "source": "ops"}
        assert plans[0]["steps"][1]["input"] == {"a": text}
        last: Any = task.compile({**other, "finally": [{"name": "c", "tool": "x"}]}, "ops", NOW_MS)
        assert last["steps"][:2] == plans[0]["steps"]
        assert last["steps"][2]["finally"]


def test_a_fault_is_found_as_often_as_it_comes() -> None:
    for _ in range(2):
        with pytest.raises(TaskError, match=r"steps\[1\].oops"):
            compile_step(oops=1)


def test_a_number_that_no_message_brings_is_refused_where_it_is_read() -> None:
    with pytest.raises(TaskError, match=r"steps\[1\].heartbeat"):
        compile_step(heartbeat=1 << 70)


def test_an_input_that_nests_too_deep_is_refused() -> None:
    value: object = "x"
    for _ in range(20):
        value = [value]
    with pytest.raises(TaskError) as caught:
        compile_step(input={"v": value})
    assert caught.value.code == "too_deep"


def test_a_when_in_finally_guards_no_main_step() -> None:
    last = {"name": "z", "tool": "x", "when": {"step": "b", "outcome": "failed", "is": True}}
    plan: Any = task.compile({**one_step(), "finally": [last]}, "ops", NOW_MS)
    assert [step["guarded"] for step in plan["steps"]] == [False, False, False]


def test_a_cancel_is_for_the_senders_own_task_and_a_day_unless_it_says_otherwise() -> None:
    assert task.compile_cancel({"limpet": 1, "id": "t-1"}, "ops", NOW_MS) == {
        "id": "t-1",
        "source": "ops",
        "expires_at_ms": NOW_MS + 86_400_000,
    }
    other = {"limpet": 1, "id": "t-1", "source": "x", "expires_at": "2026-11-24T05:00:00Z"}
    assert task.compile_cancel(other, "ops", NOW_MS)["source"] == "x"


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (None, "field_invalid"),
        ({"limpet": 2, "id": "a"}, "version_unsupported"),
        ({"limpet": 1}, "field_missing"),
        ({"limpet": 1, "id": "a", "task": 1}, "field_unknown"),
        ({"limpet": 1, "id": "a", "source": "a/b"}, "field_invalid"),
        ({"limpet": 1, "id": "a", "expires_at": "2020-01-01T00:00:00Z"}, "expired"),
    ],
)
def test_a_faulty_cancel_is_refused(document: object, code: str) -> None:
    with pytest.raises(TaskError) as caught:
        task.compile_cancel(document, "ops", NOW_MS)
    assert caught.value.code == code


@given(JSON)
def test_any_json_is_compiled_or_refused(document: object) -> None:
    for use in (task.compile, task.compile_cancel):
        try:
            use(document, "ops", NOW_MS)
        except TaskError as error:
            assert error.detail


@given(st.dictionaries(st.sampled_from(sorted(task.STEP.fields)), JSON, max_size=3))
def test_any_json_in_a_step_is_compiled_or_refused(members: dict[str, object]) -> None:
    members.pop("name", None)
    try:
        compile_step(**members)
    except TaskError as error:
        assert error.detail


@given(JSON)
def test_any_json_as_a_continuation_is_compiled_or_refused(document: object) -> None:
    try:
        task.extend(EXTENSION["plan"], 0, document)
    except TaskError as error:
        assert error.detail


@given(st.lists(REFERENCES, max_size=8).map("".join))
def test_any_text_of_references_is_compiled_or_refused(text: str) -> None:
    try:
        value = compile_step(input={"v": text})["input"]["v"]
    except TaskError as error:
        assert error.code in ("reference_invalid", "reference_unknown")
        return
    segments = value["$"] if isinstance(value, dict) else [value]
    assert isinstance(value, str) or any(isinstance(segment, dict) for segment in segments)
    neighbours = pairwise(segments)
    assert not any(isinstance(a, str) and isinstance(b, str) for a, b in neighbours)


@given(st.text())
def test_a_text_without_a_mark_stays_as_it_is(text: str) -> None:
    if not any(mark in text for mark in ("${steps.", "${task.", "${device.")):
        assert compile_step(input={"v": text})["input"]["v"] == text


@given(st.text())
def test_an_escaped_text_comes_out_as_it_was_meant(text: str) -> None:
    for mark in ("${steps.", "${task.", "${device."):
        text = text.replace(mark, "")
    meant = f"a ${{steps.{text}"
    escaped = meant.replace("${steps.", "$${steps.")
    assert compile_step(input={"v": escaped})["input"]["v"] == meant
