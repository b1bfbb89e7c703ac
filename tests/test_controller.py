"""What people see and send: contexts, documents, lines of text. All of it pure."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.controller import context, demo_files, doctor, document, present, status
from limpet.controller.context import UsageError
from limpet.controller.history import line
from limpet.controller.terminal import Screen
from limpet.controller.trial import named_hosts
from limpet.errors import ConfigError, TaskError
from limpet.topics import is_name
from samples import NOW_MS, history, pictured, row, step

NOTHING: dict[str, Any] = {"host": None, "port": None, "prefix": None, "source": None}
STEPS = [
    {"name": "get", "tool": "fetch"},
    {"name": "install", "tool": "deb", "input": {"file": "x"}},
    {"name": "check", "tool": "http", "input": {"n": "${steps.install.outcome}"}},
]


def contexts(tmp_path: Path, text: str) -> str:
    file = tmp_path / "contexts.toml"
    file.write_text(text)
    return str(file)


HOME = 'default = "home"\n[contexts.home]\nhost = "broker.lan"\nsource = "ops"\ndevice = "k"\n'


def test_without_a_file_the_broker_is_here_and_the_source_is_the_login(tmp_path: Path) -> None:
    read = context.load(str(tmp_path / "none"), None, NOTHING, "ada")
    assert (read.host, read.port, read.source, read.device) == ("localhost", 1883, "ada", None)


def test_the_command_line_wins_over_the_context(tmp_path: Path) -> None:
    file = contexts(tmp_path, HOME)
    assert context.load(file, None, NOTHING, "ada").host == "broker.lan"
    read = context.load(file, "home", {**NOTHING, "host": "other", "device": "shed"}, "ada")
    assert (read.host, read.source, read.device) == ("other", "ops", "shed")


def test_a_ca_file_means_tls_and_its_port(tmp_path: Path) -> None:
    file = contexts(tmp_path, HOME + 'ca_file = "/etc/ca.pem"\n')
    read = context.load(file, None, NOTHING, "ada")
    assert (read.tls, read.port) == (True, 8883)


def test_a_context_that_is_not_there_is_a_usage_error_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='did you mean "home"'):
        context.load(contexts(tmp_path, HOME), "hone", NOTHING, "ada")


def test_all_mistakes_of_the_contexts_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        context.load(contexts(tmp_path, HOME + 'prot = 1\nprefix = "a b"\n'), None, NOTHING, "ada")
    assert len(caught.value.mistakes) == 2


def test_what_a_document_says_is_never_replaced() -> None:
    given_here = {"limpet": 1, "id": "mine", "expires_at": "2037-01-01T00:00:00Z"}
    assert document.fill({**given_here, "steps": []}, "x", "0", NOW_MS) == {
        **given_here,
        "steps": [],
    }


@given(st.text(max_size=200), st.from_regex(r"[0-9a-f]{1,14}", fullmatch=True))
def test_every_file_name_gives_an_id(name: str, unique: str) -> None:
    made = document.make_id(name, unique)
    assert is_name(made) and made.endswith(unique)


def test_a_retry_starts_at_its_step_and_is_named_after_the_first_try() -> None:
    old = document.fill({"steps": STEPS, "id": "app-1"}, "x", "0", NOW_MS)
    new = document.repeat_from(old, "install", "ab12", NOW_MS)
    assert new["id"] == "app-1-retry-ab12"
    assert document.compile(new, "ops", NOW_MS).names == ["install", "check"]


def test_a_retry_that_needs_what_is_not_repeated_is_refused() -> None:
    old = document.fill({"steps": STEPS}, "x", "0", NOW_MS)
    new = document.repeat_from(old, "check", "ab12", NOW_MS)
    with pytest.raises(TaskError, match="install"):
        document.compile(new, "ops", NOW_MS)
    with pytest.raises(TaskError, match="get, install, check"):
        document.repeat_from(old, "chek", "ab12", NOW_MS)


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0.00s"), (250, "0.25s"), (12_340, "12.3s"), (185_000, "3m05s"), (7_620_000, "2h07m")],
)
def test_a_duration_is_short(milliseconds: int, text: str) -> None:
    assert present.span(milliseconds) == text


def state(phase: str, **fields: object) -> dict[str, Any]:
    return {"phase": phase, "step": 0, "attempt": 1, "progress": None, **fields}


def test_a_person_hears_each_thing_once() -> None:
    follower = present.Follower(["get"])
    said = [
        follower.line(each, 100)
        for each in (
            state("committing"),
            state("running"),
            state("running"),
            state("running", progress={"percent": 4}),
            state("running", progress={"percent": 4}),
            state("backoff"),
            state("running", attempt=2),
        )
    ]
    assert [line and line.split("get")[1].strip() for line in said] == [
        None,
        "runs",
        None,
        'runs  {"percent":4}',
        None,
        "failed, will be tried again",
        "runs, attempt 2",
    ]


def test_a_step_of_an_unknown_task_goes_by_its_index() -> None:
    assert present.Follower([]).step_name(3) == "step 3"


def test_a_row_tells_the_most_telling_thing() -> None:
    ends = [
        {**step("a", out="hello\nworld\n"), "reason": None},
        {**step("b", result={"n": 1}), "reason": None},
        {**step("c"), "outcome": "refused", "reason": "not_allowed", "detail": "no rule"},
        {**step("d"), "outcome": "timed_out", "clock": "start_to_close"},
        {**step("e"), "outcome": "failed", "exit_code": 3},
        {"name": "f", "tool": "x", "outcome": "skipped", "attempts": 0},
    ]
    rows = present.result_rows(history(ends))
    assert [row[-1] for row in rows] == [
        "hello world",
        '{"n":1}',
        "not_allowed: no rule",
        "start_to_close ran out",
        "exit code 3",
        "",
    ]


def test_what_a_failing_step_wrote_is_quoted() -> None:
    failed = {**step("a", err="x\ncannot open\n"), "outcome": "failed"}
    assert present.result_notes(history([failed]))[-1] == "  | cannot open"


@given(st.text())
def test_no_text_from_elsewhere_moves_the_terminal(text: str) -> None:
    shown = present.cell(text)
    assert shown.isprintable() or not set(shown) & {"\x1b", "\r", "\n", "\x9b", "\x7f"}
    assert len(shown) <= present.CELL_CHARACTERS_MAX


@given(st.lists(st.lists(st.text("ab ", max_size=9), min_size=3, max_size=3), max_size=5))
def test_a_table_has_a_line_per_row_and_aligned_columns(rows: list[list[str]]) -> None:
    lines = present.table(["X", "Y", "Z"], rows)
    assert len(lines) == len(rows) + 1
    place = lines[0].index("Z")
    assert all(line[place:] == row[2].rstrip() for line, row in zip(lines[1:], rows, strict=True))


def test_a_program_reads_json_lines_and_nothing_else() -> None:
    out, err = io.StringIO(), io.StringIO()
    screen = Screen(out, err, json=True)
    screen.say("for people")
    screen.status("for a terminal")
    screen.record({"kind": "state"})
    screen.fail("cannot", 3)
    assert json.loads(out.getvalue()) == {"kind": "state"}
    assert json.loads(err.getvalue()) == {"kind": "error", "exit": 3, "text": "cannot"}


def test_colour_and_progress_are_for_terminals() -> None:
    out, err = io.StringIO(), io.StringIO()
    screen = Screen(out, err)
    screen.status("working")
    screen.say(screen.paint("done", "green"))
    assert (out.getvalue(), err.getvalue()) == ("done\n", "")
    screen = Screen(out, err, colour=True, live=True)
    screen.status("working")
    screen.say("done")
    assert err.getvalue().endswith("\r\x1b[K")


def test_a_trial_may_reach_the_hosts_that_its_task_names() -> None:
    urls = ["https://fleet.lan/a", "http://127.0.0.1:8080/x", "no url", {"$": []}, "http://[bad"]
    plan = {"steps": [{"input": {"url": url}} for url in urls] + [{"input": {}}]}
    assert named_hosts(plan) == {"fleet.lan:443", "127.0.0.1:8080"}


@pytest.mark.parametrize(
    ("finding", "verdict"),
    [
        (doctor.kernel("6.1.0-18-arm64"), "ok"),
        (doctor.kernel("5.10.0"), "warn"),
        (doctor.kernel("unknown"), "warn"),
        (doctor.clock(True), "ok"),
        (doctor.clock(False), "warn"),
        (doctor.containment("cgroup_v2", True), "ok"),
        (doctor.containment("marker", True), "warn"),
        (doctor.memory("cgroup_v1", None), "ok"),
        (doctor.memory("sampled", None), "warn"),
        (doctor.memory("sampled", "2 others are in the group"), "warn"),
        (doctor.disk("/x", 100, 50), "ok"),
        (doctor.disk("/x", 60, 50), "warn"),
        (doctor.disk("/x", 40, 50), "fail"),
    ],
)
def test_whatever_is_not_ok_says_what_to_do(finding: doctor.Finding, verdict: str) -> None:
    assert finding.verdict == verdict
    assert (finding.advice == "") == (verdict == "ok")


def test_a_journal_line_names_its_task_and_its_gap() -> None:
    accepted = {"seq": 2, "task": 2, "record": "accepted", "wall_ms": NOW_MS, "steps": 1}
    assert "id=app-1 steps=1" in line({**accepted, "attached": {"id": "app-1"}})
    assert "records 5 to 8 may be lost" in line({"gap": [5, 9], "bytes": 7})


def test_status_lists_live_tasks() -> None:
    task = {"source": "ops", "id": "t-1", "state": "running", "step": 0, "attempt": 1}
    answer = {
        "device": "k",
        "version": "1",
        "link": "up",
        "protocol": None,
        "outbox": 0,
        "tasks": [task],
        "core": {"accepted": 1, "attempts": 1},
    }
    told = status.lines(answer, pictured(row("ops.t-1", 30 << 20)))
    assert told[-1].split() == ["ops", "t-1", "running", "0", "1"]
    (memory,) = [line for line in told if line.startswith("memory")]
    assert memory == (
        "memory   agent 20.0 MiB of 64.0 MiB; pool 64.0 MiB of 512.0 MiB held, 30.0 MiB used"
    )


def test_the_demonstration_allows_neither_exec_nor_shell() -> None:
    assert "exec" not in demo_files.POLICY and "shell" not in demo_files.POLICY
    for task in (demo_files.first_task("http://127.0.0.1:1/x"), demo_files.second_task()):
        filled = document.fill(task, "demo", "0", NOW_MS)
        names = document.compile(filled, demo_files.SOURCE, NOW_MS).names
        assert names
    assert set(demo_files.CAPTIONS) == set(
        document.compile(
            document.fill(demo_files.first_task("http://127.0.0.1:1/x"), "demo", "0", NOW_MS),
            demo_files.SOURCE,
            NOW_MS,
        ).names
    )
