"""Reports: the same arguments give the same bytes, and a result fits without hiding what it cut."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.codec import MESSAGE_BYTES_MAX
from limpet.report import build_answer, build_presence, build_result, build_state
from samples import history, step


def result_of(steps: list[dict[str, Any]], bytes_max: int = MESSAGE_BYTES_MAX) -> Any:
    body = build_result(orjson.dumps(history(steps)), bytes_max)
    assert len(body) <= bytes_max
    return orjson.loads(body)


def test_a_result_that_fits_is_told_whole() -> None:
    steps = [step("a", "out", "err", {"x": 1})]
    assert result_of(steps) == {**history(steps), "limpet": 1, "kind": "result"}


def test_the_order_of_members_does_not_change_what_is_cut() -> None:
    first = history([step("a", "x" * 200_000)])
    second = dict(reversed(first.items()))
    assert build_result(orjson.dumps(first)) == build_result(orjson.dumps(second))


def test_long_outputs_are_cut_to_one_length_and_short_ones_left_whole() -> None:
    steps = [step("a", "x" * 90_000, "y" * 90_000), step("b", "short"), step("c", "z" * 90_000)]
    a, b, c = result_of(steps)["steps"]
    assert b["stdout"]["head"] == "short"
    lengths = [len(a["stdout"]["head"]), len(a["stderr"]["tail"]), len(c["stdout"]["head"])]
    assert max(lengths) - min(lengths) <= 2
    assert sum(lengths) > MESSAGE_BYTES_MAX - 2_000
    assert a["stdout"]["truncated"] is c["stdout"]["truncated"] is True
    assert (a["stdout"]["bytes"], c["stdout"]["bytes"]) == (90_000, 90_000)


def test_a_head_keeps_its_beginning_and_a_tail_its_end() -> None:
    (cut,) = result_of([step("a", "B" + "x" * 5_000, "y" * 5_000 + "E")], 3_000)["steps"]
    assert cut["stdout"]["head"].startswith("B")
    assert cut["stderr"]["tail"].endswith("E")


def test_what_json_spells_longer_is_counted_as_it_is_spelled() -> None:
    (cut,) = result_of([step("a", "\x00" * 30_000)])["steps"]
    assert 20_000 < len(cut["stdout"]["head"]) < 30_000


def test_when_outputs_are_not_enough_the_largest_results_go_first() -> None:
    steps = [step(f"s{i}", "x" * 100, result={"v": "r" * (4_000 + i)}) for i in range(32)]
    told = result_of(steps, 110_000)["steps"]
    omitted = [i for i, one in enumerate(told) if one["result"] is None]
    assert omitted == list(range(omitted[0], 32))
    assert all(told[i]["result_omitted"] is True for i in omitted)
    assert "result_omitted" not in told[0]


def test_a_step_that_never_started_is_told_as_it_is() -> None:
    skipped = {"name": "b", "tool": "x", "outcome": "skipped", "attempts": 0}
    told = result_of([step("a", "x" * 200_000), skipped])["steps"]
    assert told[1] == skipped


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
            st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
            st.text(max_size=100).map(lambda text: {"v": text.encode("ascii", "replace").decode()}),
        ),
        max_size=6,
    ),
    st.integers(2_500, 6_000),
)
def test_any_result_fits_and_keeps_what_it_can(
    outputs: list[tuple[str, str, object]], bytes_max: int
) -> None:
    steps = [step(f"s{i}", out, err, result) for i, (out, err, result) in enumerate(outputs)]
    told = result_of(steps, bytes_max)["steps"]
    for before, after in zip(steps, told, strict=True):
        assert before["stdout"]["head"].startswith(after["stdout"]["head"])
        assert before["stderr"]["tail"].endswith(after["stderr"]["tail"])
        for stream, end in (("stdout", "head"), ("stderr", "tail")):
            whole = before[stream][end] == after[stream][end]
            assert whole or after[stream]["truncated"]


def test_an_answer_has_a_code_exactly_when_it_refuses() -> None:
    refused = build_answer("ops", None, "refused", code="not_json", detail="x")
    assert orjson.loads(refused)["code"] == "not_json"
    for answer, code in (("accepted", "expired"), ("refused", None), ("perhaps", None)):
        with pytest.raises(AssertionError):
            build_answer("ops", "t-1", answer, code=code)


def test_a_state_says_where_the_task_is() -> None:
    state = orjson.loads(build_state("ops", "t-1", 4, "running", 0, 2, {"percent": 40}))
    assert state == {
        "limpet": 1,
        "kind": "state",
        "source": "ops",
        "id": "t-1",
        "sequence": 4,
        "phase": "running",
        "step": 0,
        "attempt": 2,
        "progress": {"percent": 40},
    }


def test_a_will_and_a_birth_of_one_connection_share_the_nonce() -> None:
    birth = orjson.loads(build_presence(True, "n1", {"version": "1"}))
    will = orjson.loads(build_presence(False, "n1", {}))
    assert (birth["online"], will["online"]) == (True, False)
    assert birth["nonce"] == will["nonce"] == "n1"
