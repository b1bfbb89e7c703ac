"""Topics: what is built can be read back, and what is outside the grammar is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.errors import TaskError
from limpet.topics import (
    FROM_DEVICE,
    TO_DEVICE,
    Address,
    build,
    controller_filters,
    device_filters,
    is_name,
    is_prefix,
    parse,
)

NAMES = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,20}", fullmatch=True)


@pytest.mark.parametrize("kind", [*TO_DEVICE, *FROM_DEVICE])
def test_every_kind_has_a_topic_that_reads_back(kind: str) -> None:
    address = Address("kitchen", kind, "" if kind == "presence" else "ops")
    topic = build("limpet", *address)
    assert parse("limpet", topic) == address
    assert topic == f"limpet/kitchen/{kind}" + ("" if kind == "presence" else "/ops")


@given(NAMES, NAMES, st.lists(NAMES, min_size=1, max_size=4))
def test_a_published_topic_keeps_its_levels(prefix: str, device: str, levels: list[str]) -> None:
    address = Address(device, "publish", "/".join(levels))
    assert parse(prefix, build(prefix, *address)) == address


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "limpet",
        "limpet/",
        "limpet/kitchen",
        "limpet/kitchen/task",
        "limpet/kitchen/task/",
        "limpet/kitchen/task/a/b",
        "limpet/kitchen/presence/ops",
        "limpet/kitchen/publish",
        "limpet/kitchen/other/ops",
        "limpet//task/ops",
        "limpet/../task/ops",
        "limpet/kitchen/task/+",
        "limpet/kitchen/task/#",
        "limpet/kitchen/task/o\x00ps",
        "limpet/kitchen/task/öps",
        "limpets/kitchen/task/ops",
        "other/kitchen/task/ops",
        "limpet/kitchen/task/" + "a" * 65,
        "limpet/kitchen/publish/a/b/c/d/e/f",
        "limpet/kitchen/publish/" + "/".join(["a" * 64] * 4),
    ],
)
def test_a_topic_outside_the_grammar_is_refused(topic: str) -> None:
    with pytest.raises(TaskError) as caught:
        parse("limpet", topic)
    assert caught.value.code == "topic_invalid"


@pytest.mark.parametrize(
    "address",
    [
        Address("kitchen", "task", ""),
        Address("kitchen", "presence", "ops"),
        Address("kit/chen", "task", "ops"),
        Address("+", "task", "ops"),
        Address("kitchen", "publish", "a//b"),
    ],
)
def test_an_address_outside_the_grammar_is_not_built(address: Address) -> None:
    with pytest.raises(TaskError):
        build("limpet", *address)


@given(st.text(max_size=300))
def test_any_topic_is_read_or_refused(topic: str) -> None:
    try:
        assert build("limpet", *parse("limpet", topic)) == topic
    except TaskError as error:
        assert error.code == "topic_invalid"


@pytest.mark.parametrize(("text", "expected"), [("a" * 64, True), ("a" * 65, False), ("", False)])
def test_a_name_has_1_to_64_characters(text: str, expected: bool) -> None:
    assert is_name(text) is expected


@pytest.mark.parametrize("text", [".", "..", "a b", "a/b", "ä", "a\n", None, 3])
def test_what_is_no_name(text: object) -> None:
    assert not is_name(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("limpet", True), ("a/b/c/d", True), ("a/b/c/d/e", False), ("/a", False), ("a/", False)],
)
def test_a_prefix_is_one_to_four_names(text: str, expected: bool) -> None:
    assert is_prefix(text) is expected


def test_a_device_hears_what_is_sent_to_it_and_its_own_presence() -> None:
    assert device_filters("a/b", "kitchen") == (
        "a/b/kitchen/task/+",
        "a/b/kitchen/cancel/+",
        "a/b/kitchen/look/+",
        "a/b/kitchen/presence",
    )


def test_a_controller_hears_what_is_said_to_it_and_every_presence() -> None:
    assert controller_filters("limpet", "ops") == (
        "limpet/+/answer/ops",
        "limpet/+/state/ops",
        "limpet/+/result/ops",
        "limpet/+/memory/ops",
        "limpet/+/presence",
    )
