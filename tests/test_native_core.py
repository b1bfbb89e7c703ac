"""The boundary to Rust: numbers are the header's, batches lose nothing, errors arrive."""

from __future__ import annotations

import re
import select
import struct
from pathlib import Path

import orjson
import pytest

from limpet import codec
from limpet.errors import EXIT_SOFTWARE, EXIT_TEMPORARY, REASONS, CoreError, TaskError
from limpet.native import records, status
from limpet.native._core import ffi
from limpet.native.core import BLOB_BYTES, Core, frame
from limpet.native.records import DELIVERED, LIST, Item
from limpet.policy import Site
from manual import ManualCore, document, finish_attempts, item, policy, polled, settings
from samples import ROOT

HEADER = (ROOT / "native/include/limpet.h").read_text(encoding="utf-8")
DRIVER = ROOT / "native/driver/src"


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@pytest.fixture
def core(tmp_path: Path, site: Site) -> ManualCore:
    return ManualCore(settings(tmp_path, policy(site).table))


def test_every_status_of_the_header_has_a_row_and_no_row_is_made_up() -> None:
    body = re.search(r"enum LimpetStatus.*?\{(.*?)\};", HEADER, re.DOTALL)
    assert body is not None
    found = re.findall(r"LIMPET_STATUS_(\w+) = (\d+)", body[1])
    table = {number: name for number, (name, _) in status.STATUSES.items()}
    spelled = {n: re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper() for n, name in table.items()}
    assert spelled == {int(number): name for name, number in found}


def test_operations_and_kinds_are_those_of_the_header() -> None:
    defined = dict(re.findall(r"#define LIMPET_([A-Z_]+) (\d+)", HEADER))
    kinds = {name.upper(): str(number) for number, name in records.KINDS.items()}
    operations = {name: str(number) for number, name in records.OPERATIONS.items()}
    assert {**operations, **kinds} == defined


@pytest.mark.parametrize(
    ("name", "record"), [("LimpetItem", records.ITEM), ("LimpetEvent", records.EVENT)]
)
def test_records_lie_in_memory_as_the_header_says(name: str, record: struct.Struct) -> None:
    kind = ffi.typeof(name)
    codes = re.findall(r"\d*[a-zA-Z]", record.format)
    places = [struct.calcsize("=" + "".join(codes[:count])) for count in range(len(codes))]
    sizes = [struct.calcsize("=" + code) for code in codes]
    told = [(field.offset, ffi.sizeof(field.type)) for _, field in kind.fields]
    assert list(zip(places, sizes, strict=True)) == told
    assert record.size == ffi.sizeof(kind)
    signed = [code.islower() for code in codes if code in "IQiq"]
    said = [ffi.cast(field.type, -1) for _, field in kind.fields if field.type.kind == "primitive"]
    assert signed == [int(value) < 0 for value in said]


def test_verdicts_and_stages_are_the_drivers() -> None:
    verdicts = re.findall(r"pub const (\w+): u32 = (\d+);", read("native/driver/src/verdict.rs"))
    named = {int(number): name.lower() for name, number in verdicts}
    assert named == records.VERDICTS
    stages = re.search(r"pub enum Stage \{(.*?)\}", read("native/driver/src/uplink.rs"), re.DOTALL)
    assert stages is not None
    assert tuple(re.findall(r"^    (\w+),", stages[1].lower(), re.MULTILINE)) == records.STAGES


def test_every_reason_the_core_may_answer_is_in_the_protocol() -> None:
    reasons = re.search(
        r"impl Reason \{.*?pub const fn code.*?\{(.*?)\n    \}",
        read("native/core/src/message.rs"),
        re.DOTALL,
    )
    assert reasons is not None
    # Answers to a continuation: they are logged and never told.
    internal = {"not_waiting", "invalid"}
    assert set(re.findall(r'=> "(\w+)"', reasons[1])) - internal <= set(REASONS)


def test_the_blob_holds_the_longest_text_of_an_event() -> None:
    longest = re.search(r"TEXT_BYTES_MAX: usize = (\d+) \* 1024", read("native/driver/src/host.rs"))
    assert longest is not None
    assert int(longest[1]) * 1024 <= BLOB_BYTES


def test_a_poisoned_core_ends_the_agent_and_a_full_one_does_not() -> None:
    assert status.exception(status.POISONED, "x").exit_code == EXIT_SOFTWARE
    assert status.exception(status.BUSY, "").exit_code == EXIT_TEMPORARY
    assert status.exception(99, "").exit_code == EXIT_SOFTWARE


def test_a_task_goes_from_submission_to_its_delivered_result(core: ManualCore) -> None:
    with core:
        assert core.submit([item(document("t-1"))]) == [None]
        assert select.select([core.event_fd()], [], [], 0)[0]
        (answer,) = polled(core, "answer")
        assert (records.VERDICTS[answer.code], answer.token) == ("accepted", 1)
        assert finish_attempts(core) == [["/bin/true"]]
        (result,) = polled(core, "result")
        assert result.text == {"id": "t-1", "source": "ops", "outcome": "succeeded"}
        whole = orjson.loads(result.history)
        assert {**whole, **result.text} == whole
        assert [step["outcome"] for step in whole["steps"]] == ["succeeded"]
        core.submit([Item(DELIVERED, target=result.target), Item(LIST)])
        assert [event.kind for event in core.poll()] == ["listed"]
        assert core.stats()["accepted"] == 1


def test_what_was_accepted_is_there_after_a_restart(tmp_path: Path, site: Site) -> None:
    opened = settings(tmp_path, policy(site).table)
    with ManualCore(opened) as core:
        core.submit([item(document("t-1"))])
    with ManualCore(opened) as core:
        assert core.stats()["opened"]["tasks"] == 1
        finish_attempts(core)
        assert [event.text["id"] for event in polled(core, "result")] == ["t-1"]


def test_each_refused_item_of_a_batch_says_its_own_reason(core: ManualCore) -> None:
    unknown = document("t-2", steps=[{"name": "a", "tool": "nonesuch"}])
    batch = [
        item(document("t-1"), 1),
        item(unknown, 2),
        item(document("t-3"), 3, source="stranger"),
        Item(99, token=4),
    ]
    with core:
        first, second, third, last = core.submit(batch)
        assert first is None
        assert isinstance(second, TaskError)
        assert second.code == "unknown_tool"
        assert isinstance(third, TaskError)
        assert third.code == "not_allowed"
        assert isinstance(last, CoreError)
        assert [event.token for event in polled(core, "answer")] == [1]


def test_a_full_table_is_an_answer(core: ManualCore) -> None:
    with core:
        tasks = [item(document(f"t-{n}"), n) for n in range(1, 7)]
        assert core.submit(tasks) == [None] * 6
        codes = [event.text.get("code") for event in polled(core, "answer")]
        assert codes == [None] * 4 + ["busy_tasks"] * 2


def test_a_frame_is_checked_before_its_body() -> None:
    body = b'{"limpet": 1}'
    offset, digest = frame(codec.frame(body), 1024)
    assert (codec.frame(body)[offset:], len(digest)) == (body, 32)
    for message, code in [(b"x", "frame_unknown"), (codec.frame(b"x" * 2000), "body_too_long")]:
        with pytest.raises(TaskError) as refused:
            frame(message, 1024)
        assert refused.value.code == code


def test_a_directory_that_is_not_there_is_said_so(tmp_path: Path, site: Site) -> None:
    opened = settings(tmp_path, policy(site).table)
    with pytest.raises(CoreError, match="cannot ") as failed:
        Core({**opened, "state_directory": str(tmp_path / "nowhere")})
    assert failed.value.exit_code == EXIT_TEMPORARY


def test_a_closed_core_answers_and_does_not_crash(core: ManualCore) -> None:
    core.close()
    core.close()
    with pytest.raises(CoreError):
        core.poll()
