"""Policy: nothing is allowed unless a rule says so, and every mistake of every file is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet import policy, toml
from limpet.builtin import builtin_tools
from limpet.declaration import alphabet, fits, in_alphabet
from limpet.errors import ConfigError
from limpet.policy import Policy, Site
from samples import ROOT

TOOL = 'name = "t"\nargv = ["/bin/t", { param = "p" }]\n[params.p]\n'
SITE = Site("kitchen", "/var/lib/limpet/tasks", 1 << 28, False, ["/w"], ["/n"])


def compile_policy(rules: str, *tools: str) -> Policy:
    mistakes: list[str] = []
    sources = [toml.Source(f"t{i}.toml", tool, mistakes) for i, tool in enumerate(tools)]
    return policy.compile(toml.Source("policy.toml", rules, mistakes), sources, SITE, mistakes)


def mistakes(rules: str, *tools: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        compile_policy(rules, *tools)
    return caught.value.mistakes


def declared(tool: str) -> dict[str, Any]:
    entry: dict[str, Any] = compile_policy("", tool).table["tools"]["t"]
    return entry


def test_the_shipped_policy_and_tools_are_right(site: Site) -> None:
    configs = ROOT / "configs"
    shipped = policy.load(str(configs / "policy.toml"), str(configs / "tools.d"), site)
    assert shipped.operators == ("ops",)
    assert not shipped.trust_any_clock
    assert {"sensor", "deb-install", "journal-tail", "classify"} <= set(shipped.table["tools"])
    rule = shipped.table["allow"][1]
    assert rule == {
        "source": "monitor",
        "tools": ["sensor", "journal-tail"],
        "origin": f"{configs}/policy.toml:14",
    }


def test_the_table_is_plain_json_with_the_agreed_members(site: Site) -> None:
    table = compile_policy("", TOOL + 'type = "boolean"').table
    assert orjson.loads(orjson.dumps(table)) == table
    assert list(table) == [
        "device",
        "policy_file",
        "task_root",
        "directory_bytes",
        "loopback",
        "worker",
        "native",
        "models",
        "allow",
        "tools",
    ]
    for tool in table["tools"].values():
        assert set(tool) - {"argv", "program"} == {
            "executor",
            "params",
            "environment",
            "secrets",
            "user",
            "hosts",
            "ceilings",
            "on_interruption",
            "heartbeat",
            "origin",
        }


def test_an_empty_policy_allows_nothing_and_contacts_nobody() -> None:
    empty = compile_policy("")
    assert empty.table["allow"] == []
    assert empty.operators == ()
    assert [tool["hosts"] for tool in empty.table["tools"].values() if tool["hosts"]] == []


def test_hosts_reach_http_and_fetch_and_no_other_tool() -> None:
    table = compile_policy('[hosts]\nallow = ["Fleet.LAN:443", "[::1]:*"]').table
    assert {name for name, tool in table["tools"].items() if tool["hosts"]} == {"http", "fetch"}
    assert table["tools"]["http"]["hosts"] == ["fleet.lan:443", "[::1]:*"]


def test_files_bound_each_file_tool_and_default_to_the_tasks_directory() -> None:
    tools = compile_policy('[files]\nread = "/var/log"\ninspect = "/srv"').table["tools"]
    beneath = {
        name: tool["params"]["path"]["beneath"]
        for name, tool in tools.items()
        if "path" in tool["params"]
    }
    others = {"inspect": "/srv", "hash": None, "write": None}
    assert beneath == {"read": "/var/log", "device": "/var/log", **others}


def test_models_are_accepted_as_the_policy_says() -> None:
    assert compile_policy("").table["models"] == {"accept": "ok", "trusted": None, "keys": None}
    told = 'accept = "suspect"\ntrusted = "/etc/t"\nkeys = "/etc/k"'
    models = compile_policy(f"[models]\n{told}").table["models"]
    assert models == {"accept": "suspect", "trusted": "/etc/t", "keys": "/etc/k"}
    with pytest.raises(ConfigError, match="makes no sense without trusted"):
        compile_policy('[models]\nkeys = "/etc/k"')


def test_an_untrusted_clock_is_accepted_only_if_policy_says_so() -> None:
    assert compile_policy('[clock]\nuntrusted = "accept"').trust_any_clock


def test_a_declaration_becomes_a_whole_tool() -> None:
    assert declared(
        'name = "t"\nargv = ["/bin/t", "-x", { param = "p" }]\nuser = "nobody"\n'
        'on_interruption = "any"\nheartbeat = true\n[environment]\nA = "b"\n[secrets]\nS = "/s"\n'
        '[ceilings]\nstart_to_close = "1m"\nmemory = "1MiB"\noutput = "1KiB"\n'
        '[params.p]\ntype = "integer"\nminimum = 0\nmaximum = 9\ndefault = 3\n'
    ) == {
        "executor": "process",
        "argv": ["/bin/t", "-x", {"param": "p"}],
        "params": {
            "p": {"type": "integer", "minimum": 0, "maximum": 9, "required": False, "default": 3}
        },
        "environment": {"A": "b"},
        "secrets": {"S": "/s"},
        "user": "nobody",
        "hosts": [],
        "ceilings": {"start_to_close_ms": 60_000, "memory_bytes": 1 << 20, "output_bytes": 1024},
        "on_interruption": "any",
        "heartbeat": True,
        "origin": "t0.toml:1",
    }


def test_a_python_tool_names_its_file() -> None:
    tool = declared('name = "t"\nprogram = "/etc/x.py"\n[params.p]\ntype = "json"\n')
    assert (tool["executor"], tool["program"]) == ("python", "/etc/x.py")
    assert tool["params"]["p"] == {"type": "json", "maximum_bytes": 4096, "required": True}


@pytest.mark.parametrize(
    ("param", "expected"),
    [
        (
            'type = "choice"\nchoices = ["a"]',
            {"type": "choice", "choices": ["a"], "required": True},
        ),
        ('type = "boolean"\nrequired = false', {"type": "boolean", "required": False}),
        ('type = "path"', {"type": "path", "beneath": None, "required": True}),
        (
            'type = "model"\nbeneath = "/srv"',
            {"type": "model", "beneath": "/srv", "required": True},
        ),
        (
            'type = "text"\nalphabet = "a-z"\nmaximum_length = 5\ndefault = "x"',
            {
                "type": "text",
                "alphabet": "a-z",
                "maximum_length": 5,
                "required": False,
                "default": "x",
            },
        ),
    ],
)
def test_a_parameter_of_each_type_is_read(param: str, expected: dict[str, Any]) -> None:
    assert declared(TOOL + param)["params"]["p"] == expected


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("[[alow]]", 'policy.toml:1: alow: is not a known key (did you mean "allow"?)'),
        ("[allow]", "policy.toml:1: allow: must be at most 256 tables, each [[allow]]"),
        ('[[allow]]\nsource = "ops"', 'policy.toml:1: allow[0]: needs the key "tools"'),
        ("[[allow]]\ntools = []", 'policy.toml:1: allow[0]: needs the key "source"'),
        (
            '[[allow]]\nsource = "ops"\ntools = ["fetsh"]',
            'policy.toml:3: allow[0].tools: no tool is named "fetsh" (did you mean "fetch"?)',
        ),
        (
            '[[allow]]\nsource = "o/s"\ntools = []',
            "policy.toml:2: allow[0].source: must be 1 to 64 of A-Z a-z 0-9 . _ -",
        ),
        (
            '[hosts]\nallow = ["fleet.lan"]',
            'policy.toml:2: hosts.allow: must be "host:port" or "host:*", not "fleet.lan"',
        ),
        ('[hosts]\nallow = ["*:443"]', "policy.toml:2: hosts.allow: must be"),
        ('[hosts]\nallow = ["a:0"]', "policy.toml:2: hosts.allow: must be"),
        ('[hosts]\nallow = ["a:65536"]', "policy.toml:2: hosts.allow: must be"),
        ('[files]\nread = "var"', "policy.toml:2: files.read: must be an absolute path"),
        ('[files]\nfetch = "/a"', "policy.toml:2: files.fetch: is not a known key"),
        ('[[operator]]\nsource = "*"', "policy.toml:2: operator[0].source: must be 1 to 64"),
        ('[clock]\nuntrusted = "trust"', "policy.toml:2: clock.untrusted: must be one of"),
    ],
)
def test_a_mistake_in_the_policy_is_told(rules: str, expected: str) -> None:
    told = mistakes(rules)
    assert len(told) == 1
    assert told[0].startswith(expected)


@pytest.mark.parametrize(
    ("tool", "expected"),
    [
        ('argv = ["/bin/t"]', 't0.toml:1: needs the key "name"'),
        ('name = "t"', "t0.toml:1: needs either argv, for a program, or program"),
        ('name = "t"\nargv = ["/b"]\nprogram = "/c"', "t0.toml:1: needs either argv"),
        ('name = "t"\nargv = ["t"]', "t0.toml:2: argv: the first value must be an absolute path"),
        ('name = "t"\nargv = ["/bin/../t"]', "t0.toml:2: argv: the first value must be"),
        ('name = "t"\nargv = ["/t", 3]', 't0.toml:2: argv: must hold texts and { param = "name" }'),
        ('name = "t"\nargv = ["/t", { param = "q" }]', 't0.toml:2: argv: the parameter "q"'),
        (
            'name = "t"\nargv = ["/t"]\n[params.p]\ntype = "path"',
            "t0.toml:3: params.p: is declared",
        ),
        ('name = "http"\nargv = ["/t"]', 't0.toml:1: name: "http" is declared already: built in'),
        ('name = "t"\nargv = ["/t"]\nshell = true', "t0.toml:3: shell: is not a known key"),
        ('name = "t"\nargv = ["/t"]\nuser = "a b"', "t0.toml:3: user: must be a login name"),
        ('name = "t"\nargv = ["/t"]\n[environment]\na = "b"', "t0.toml:4: environment.a: must be"),
        ('name = "t"\nargv = ["/t"]\n[secrets]\nLIMPET_FD = "/b"', "t0.toml:4: secrets.LIMPET_FD:"),
        ('name = "t"\nargv = ["/t"]\n[secrets]\nA = "b"', "t0.toml:4: secrets.A: must be an absol"),
        (
            'name = "t"\nargv = ["/t"]\n[environment]\nA = "b"\n[secrets]\nA = "/b"',
            "t0.toml:6: secrets.A: is in environment too",
        ),
        ('name = "t"\nargv = ["/t"]\n[ceilings]\nmemory = "0B"', "t0.toml:4: ceilings.memory: is"),
        (TOOL + 'type = "float"', "t0.toml:4: params.p.type: must be one of integer"),
    ],
)
def test_a_mistake_in_a_declaration_is_told(tool: str, expected: str) -> None:
    assert any(told.startswith(expected) for told in mistakes("", tool)), mistakes("", tool)


@pytest.mark.parametrize(
    ("param", "expected"),
    [
        ('type = "integer"\nminimum = 5\nmaximum = 1', "params.p.minimum: is above maximum"),
        ('type = "integer"\nminimum = 5', 'params.p: needs the key "maximum"'),
        ('type = "choice"\nchoices = []', "params.p.choices: must hold at least one choice"),
        (
            'type = "text"\nalphabet = "z-a"\nmaximum_length = 1',
            'has the range "z-a" the wrong way',
        ),
        ('type = "text"\nalphabet = ""\nmaximum_length = 1', "alphabet: must not be empty"),
        ('type = "boolean"\nminimum = 1', "params.p.minimum: is not a known key"),
        ('type = "boolean"\ndefault = true\nrequired = true', "makes no sense beside a default"),
        ('type = "boolean"\ndefault = 1', "params.p.default: must be true or false"),
        ('type = "path"\ndefault = "/a"', "params.p.default: is not possible for a path"),
        ('type = "path"\nbeneath = "a"', "params.p.beneath: must be an absolute path"),
        ('type = "json"\ndefault = 2020-01-01', "params.p.default: cannot be JSON"),
        ('type = "json"\nmaximum = "2B"\ndefault = "xx"', "has more than 2 bytes as JSON"),
        (
            'type = "text"\nalphabet = "a"\nmaximum_length = 1\ndefault = "aa"',
            "params.p.default: is longer than 1 characters",
        ),
        (
            'type = "text"\nalphabet = "a"\nmaximum_length = 1\ndefault = "b"',
            'params.p.default: must hold only "a"',
        ),
    ],
)
def test_a_mistake_in_a_parameter_is_told(param: str, expected: str) -> None:
    assert any(expected in told for told in mistakes("", TOOL + param)), mistakes("", TOOL + param)


def test_mistakes_of_all_files_are_told_at_once() -> None:
    told = mistakes("[host]", 'name = "a"\nargv = ["x"]', "b = ")
    assert {mistake.partition(":")[0] for mistake in told} == {"policy.toml", "t0.toml", "t1.toml"}


def test_two_declarations_of_one_name_are_a_mistake() -> None:
    tool = 'name = "t"\nargv = ["/t"]'
    assert mistakes("", tool, tool) == ('t1.toml:1: name: "t" is declared already: t0.toml:1',)


def test_other_files_in_the_tools_directory_are_left_alone(tmp_path: Path, site: Site) -> None:
    (tmp_path / "policy.toml").write_text("")
    (tmp_path / "tools.d").mkdir()
    (tmp_path / "tools.d" / "t.toml~").write_text("not toml")
    loaded = policy.load(str(tmp_path / "policy.toml"), str(tmp_path / "tools.d"), site)
    assert set(loaded.table["tools"]) == set(builtin_tools([], dict.fromkeys(policy.FILES)))


def test_without_a_tools_directory_there_are_the_built_in_tools(tmp_path: Path, site: Site) -> None:
    (tmp_path / "policy.toml").write_text("")
    loaded = policy.load(str(tmp_path / "policy.toml"), str(tmp_path / "none"), site)
    assert "fetch" in loaded.table["tools"]


def test_without_a_policy_file_nothing_starts(tmp_path: Path, site: Site) -> None:
    with pytest.raises(ConfigError, match="cannot read the file"):
        policy.load(str(tmp_path / "policy.toml"), str(tmp_path), site)


def test_every_default_of_a_built_in_tool_fits_its_own_parameter() -> None:
    tools = builtin_tools([], dict.fromkeys(policy.FILES))
    params = [param for tool in tools.values() for param in tool["params"].values()]
    with_default = [param for param in params if "default" in param]
    assert len(with_default) >= 4
    for param in with_default:
        fits(param, param["default"])


def test_every_parameter_of_a_native_tool_is_read_by_its_program() -> None:
    sources = Path(__file__).parents[1] / "native" / "driver" / "src" / "tools"
    tools = builtin_tools([], dict.fromkeys(policy.FILES))
    native = {name: tool for name, tool in tools.items() if tool["executor"] == "native"}
    assert native.keys() == {"http", "fetch", "hash", "read", "write", "device", "inspect"}
    for name, tool in native.items():
        source = (sources / f"{tool['program']}.rs").read_text(encoding="utf-8")
        assert [param for param in tool["params"] if f'"{param}"' not in source] == [], name


@pytest.mark.parametrize(
    ("characters", "inside", "outside"),
    [
        ("a-z", "amz", "A-0"),
        ("a-", "a-", "bz"),
        ("-a", "a-", "bz"),
        ("a-cx-z_", "abcxyz_", "dw-"),
        ("!-~", "!~-a", " é\x7f"),
    ],
)
def test_an_alphabet_is_characters_and_ranges(characters: str, inside: str, outside: str) -> None:
    assert in_alphabet(inside, alphabet(characters))
    assert not any(in_alphabet(character, characters) for character in outside)


@given(
    st.dictionaries(
        st.sampled_from(["name", "argv", "program", "params", "user", "secrets", "x"]),
        st.sampled_from(['"t"', '["/t"]', "3", "{}", '{ p = { type = "path" } }', '"/a.py"']),
    )
)
def test_any_declaration_is_read_or_a_mistake(members: dict[str, str]) -> None:
    content = "\n".join(f"{name} = {value}" for name, value in members.items())
    try:
        compile_policy("", content)
    except ConfigError as error:
        assert all(mistake.startswith("t0.toml:") for mistake in error.mistakes)
