"""The log: one line per event, whatever the values, and never more than its share."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.log import LINES_PER_WINDOW, WINDOW_MS, Log

VALUES = st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.booleans(), st.binary())


class Lines:
    """A log that writes to memory, under a clock that stands still until it is moved."""

    def __init__(self, level: str = "info", form: str = "json", prefix: bool = False) -> None:
        self.now_ms = 1_795_000_000_000
        self.written: list[bytes] = []
        self.log = Log(self.written.append, lambda: self.now_ms, level, form, prefix)

    def documents(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.written]


def test_a_json_line_has_time_level_event_and_fields() -> None:
    lines = Lines()
    lines.log.warning("link.down", cause="refused", attempt=3)
    assert lines.documents() == [
        {
            "time": "2026-11-18T11:06:40.000Z",
            "level": "warning",
            "event": "link.down",
            "cause": "refused",
            "attempt": 3,
        }
    ]


def test_a_text_line_quotes_what_has_spaces() -> None:
    lines = Lines(form="text")
    lines.log.info("link.up", broker="a.lan", note="two words")
    expected = b"2026-11-18T11:06:40.000Z INFO link.up broker=a.lan note='two words'\n"
    assert lines.written == [expected]


@pytest.mark.parametrize("form", ["json", "text"])
@given(st.dictionaries(st.from_regex("[a-z]{1,8}", fullmatch=True), VALUES, max_size=4))
def test_an_event_is_one_line_whatever_its_values(form: str, fields: dict[str, object]) -> None:
    lines = Lines(form=form)
    lines.log.info("some.event", **fields)
    assert len(lines.written) == 1
    assert lines.written[0].endswith(b"\n")
    assert len(lines.written[0].decode().splitlines()) == 1 or form == "json"
    assert lines.written[0].count(b"\n") == 1


def test_a_long_value_is_cut() -> None:
    lines = Lines()
    lines.log.info("some.event", value="x" * 10_000)
    assert len(lines.written[0]) < 700


@pytest.mark.parametrize(
    ("level", "count"), [("error", 1), ("warning", 2), ("info", 3), ("debug", 4)]
)
def test_a_level_lets_through_what_is_as_important(level: str, count: int) -> None:
    lines = Lines(level=level)
    for write in (lines.log.error, lines.log.warning, lines.log.info, lines.log.debug):
        write("some.event")
    assert len(lines.written) == count


@pytest.mark.parametrize(
    ("level", "prefix"), [("error", b"<3>"), ("warning", b"<4>"), ("info", b"<6>")]
)
def test_the_journal_gets_a_priority(level: str, prefix: bytes) -> None:
    lines = Lines(prefix=True)
    getattr(lines.log, level)("some.event")
    assert lines.written[0].startswith(prefix + b"{")


def test_an_event_that_repeats_is_dropped_and_counted() -> None:
    lines = Lines()
    for _ in range(LINES_PER_WINDOW + 5):
        lines.log.info("noisy")
    lines.log.info("quiet")
    assert len(lines.written) == LINES_PER_WINDOW + 1
    lines.now_ms += WINDOW_MS
    lines.log.info("noisy")
    assert lines.documents()[-1]["dropped"] == 5
    lines.log.info("noisy")
    assert "dropped" not in lines.documents()[-1]


def test_a_clock_that_steps_back_does_not_silence_an_event() -> None:
    lines = Lines()
    for _ in range(LINES_PER_WINDOW + 1):
        lines.log.info("noisy")
    lines.now_ms -= 10 * WINDOW_MS
    lines.log.info("noisy")
    assert len(lines.written) == LINES_PER_WINDOW + 1


def test_a_reader_that_is_gone_does_no_harm() -> None:
    def refuse(line: bytes) -> None:
        raise BrokenPipeError

    Log(refuse, lambda: 0).error("some.event")


@pytest.mark.parametrize("journal", [True, False])
def test_only_the_journals_own_stream_gets_the_prefix(journal: bool) -> None:
    """A container runtime collects plain JSON; the journal gets priorities."""
    read, write = os.pipe()
    status = os.fstat(write)
    stream = f"{status.st_dev}:{status.st_ino}" if journal else "8:1"
    program = "from limpet.log import *; stderr_log(lambda: 0, 'info', 'auto').info('some.event')"
    environment = {"JOURNAL_STREAM": stream, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program], stderr=write, env=environment, check=True)
    os.close(write)
    with os.fdopen(read, "rb") as lines:
        assert lines.read().startswith(b"<6>{" if journal else b'{"time"')
