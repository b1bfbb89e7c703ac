"""JSON in: every bound is kept, by its own code, and no key is lost silently."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.codec import (
    DEPTH_MAX,
    ITEMS_MAX,
    MESSAGE_BYTES_MAX,
    decode,
    encode,
    frame,
)
from limpet.errors import TaskError
from limpet.units import NUMBER_MAX

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
# Texts made of what the scanner has to tell from structure.
TRICKY = st.text(st.sampled_from('\\"{}[]:,09 \n'), max_size=20)
NUMBERS = st.one_of(
    st.integers(-NUMBER_MAX, NUMBER_MAX), st.floats(-1e17, 1e17, allow_subnormal=False)
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS, TRICKY),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(TEXTS, TRICKY), inner, max_size=4)
    ),
    max_leaves=20,
)


def refusal(body: bytes) -> str:
    with pytest.raises(TaskError) as caught:
        decode(body)
    return caught.value.code


@given(VALUES)
def test_any_value_within_the_bounds_comes_back(value: object) -> None:
    assert decode(encode(value)) == value


@given(VALUES, st.sampled_from([None, 1]), st.booleans())
def test_another_writer_is_understood_as_well(
    value: object, indent: int | None, ascii_only: bool
) -> None:
    body = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    assert decode(body) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(body: bytes) -> None:
    try:
        decode(body)
    except TaskError as error:
        assert error.code


@given(st.one_of(TEXTS, TRICKY), VALUES, VALUES)
def test_a_key_that_comes_twice_is_found(key: str, first: object, second: object) -> None:
    name = json.dumps(key)
    body = f'{{"x": {{{name}: {json.dumps(first)}, {name}: {json.dumps(second)}}}}}'
    assert refusal(body.encode()) == "duplicate_key"


def test_a_key_written_in_two_spellings_is_found() -> None:
    assert refusal(rb'{"a": 1, "\u0061": 2}') == "duplicate_key"


def test_the_same_key_in_two_objects_is_no_duplicate() -> None:
    assert decode(b'[{"a": 1}, {"a": {"a": 2}}]') == [{"a": 1}, {"a": {"a": 2}}]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "not_json"),
        (b"{", "not_json"),
        (b"[1,]", "not_json"),
        (b"NaN", "not_json"),
        (b"1e400", "not_json"),
        (b'"\xff"', "not_json"),
        (rb'"\ud800"', "not_json"),
        (b'{"a": 1} {"a": 1}', "not_json"),
        (b" " * (MESSAGE_BYTES_MAX + 1), "body_too_long"),
        (b"[" + b"1," * ITEMS_MAX + b"1,1]", "too_many_values"),
        (b'"" ' * (ITEMS_MAX + 1), "too_many_values"),
        (b"[" * (DEPTH_MAX + 1) + b"]" * (DEPTH_MAX + 1), "too_deep"),
        (b"[" * 100_000, "too_deep"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "too_deep"),
        (b"9007199254740993", "number_range"),
        (b"-9007199254740993", "number_range"),
        (b"1" + b"0" * 18, "number_range"),
    ],
)
def test_a_broken_bound_has_its_own_code(body: bytes, code: str) -> None:
    assert refusal(body) == code


def test_every_bound_itself_is_allowed() -> None:
    deep = b"[" * DEPTH_MAX + b"]" * DEPTH_MAX
    assert decode(deep) is not None
    assert decode(b'"' + b"a" * (MESSAGE_BYTES_MAX - 2) + b'"')
    assert decode(b"[9007199254740992, -9007199254740992]") == [NUMBER_MAX, -NUMBER_MAX]
    assert decode(b"1.5e300") == 1.5e300


@pytest.mark.parametrize("inside", [r"[[[[[[[[[[[[[[[[[[[[", r"\\", r"\"", r"\\\"{:", "9" * 30])
def test_structure_inside_a_text_is_text(inside: str) -> None:
    assert decode(f'{{"{inside}": "{inside}"}}'.encode()) == json.loads(
        f'{{"{inside}": "{inside}"}}'
    )


def test_equal_values_have_equal_bytes() -> None:
    assert encode({"b": 1, "a": [True, None]}) == encode({"a": [True, None], "b": 1})
    assert encode({"b": 1, "a": 2}) == b'{"a":2,"b":1}'


def test_a_frame_is_one_header_line_and_the_body_untouched() -> None:
    assert frame(b'{"a": 1}\n') == b'limpet/1 none\n{"a": 1}\n'


def test_a_frame_above_the_bound_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        frame(b" " * MESSAGE_BYTES_MAX)


def test_a_long_fraction_is_a_float_and_a_long_integer_is_refused() -> None:
    """Only what would silently lose its range is refused; a small float may have many digits."""
    assert decode(b'{"a":0.00008241828333720725}') == {"a": 8.241828333720725e-05}
    with pytest.raises(TaskError, match="number_range"):
        decode(b'{"a":1234567890123456789.5}')
