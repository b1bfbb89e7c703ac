"""What `limpet doctor` says of the machine's memory."""

from __future__ import annotations

from limpet.controller import doctor


def test_every_term_of_the_arena_is_shown_with_its_reason() -> None:
    """A reader can add the terms up and sees why each is there."""
    terms = [["tasks", 2, 100, "one slot per live task"], ["steps", 3, 10, "one pool"]]
    total, *shown = doctor.arena(230, terms)
    assert "230 B" in total.found
    assert [each.found for each in shown] == [
        "2 x 100 B: one slot per live task",
        "3 x 10 B: one pool",
    ]


def test_the_real_terms_sum_to_the_real_arena() -> None:
    """What the core reports of its arithmetic is its arena, to the byte."""
    findings = {each.name.strip(): each.found for each in doctor.examine_core()}
    sizes = []
    for name in ("tasks", "due", "steps", "attempts", "ids", "effects", "answers"):
        count, rest = findings[name].split(" x ")
        sizes.append(int(count) * int(rest.split(" B")[0]))
    assert f"arena of {sum(sizes)} B" in findings["core"]
