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
    findings = {each.name.strip(): each.found for each in doctor.examine_core({})}
    sizes = []
    for name in ("tasks", "due", "steps", "attempts", "ids", "effects", "answers"):
        count, rest = findings[name].split(" x ")
        sizes.append(int(count) * int(rest.split(" B")[0]))
    assert f"arena of {sum(sizes)} B" in findings["core"]


def test_memory_divides_as_the_configuration_wants_it() -> None:
    """What is asked for is what is shown; the default of a step is within the pool."""
    wanted = {"agent_bytes": 30 << 20, "pool_bytes": 40 << 20, "step_bytes": None}
    findings = {each.name.strip(): each.found for each in doctor.examine_core(wanted)}
    shown = [findings[name].partition(":")[0] for name in ("agent", "pool", "step")]
    assert shown == ["30MiB", "40MiB", "40MiB"]
    assert findings["budget"].endswith("of this device")


def test_what_does_not_add_up_fails_with_the_numbers() -> None:
    """The agent would not start so, and says why."""
    wanted = {"agent_bytes": None, "pool_bytes": 1 << 40, "step_bytes": None}
    (finding,) = doctor.examine_core(wanted)
    assert finding.verdict == "fail"
    assert "a pool of 1099511627776 is wanted" in finding.advice
