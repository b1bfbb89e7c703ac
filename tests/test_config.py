"""The configuration: strict, complete, and all mistakes at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from limpet import config
from limpet.config import SECTIONS, Config
from limpet.errors import ConfigError
from samples import ROOT

FULL = ROOT / "configs" / "limpet.toml"
VALUES = st.one_of(
    st.integers(-5, 100_000),
    st.booleans(),
    st.floats(),
    st.sampled_from(["", "5", "auto", "1s", "60s", "1MiB", "/a", "/a/../b", "a b", "é"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.sampled_from(["a", "enabled"]), st.integers(), max_size=2),
)


def parse(content: str) -> Config:
    return config.parse("limpet.toml", content, "kitchen")


def mistakes(content: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(content)
    return caught.value.mistakes


def test_the_full_file_names_every_key_with_its_default() -> None:
    written = tomli.loads(FULL.read_text())
    for where, fields in SECTIONS.items():
        table: Any = written
        for name in where:
            table = table[name]
        inner = {other[-1] for other in SECTIONS if other and other[:-1] == where}
        defaults = {name: field.default for name, field in fields.items()}
        assert {name: table[name] for name in table if name not in inner} == defaults


def test_the_full_file_says_something_about_every_key_and_section() -> None:
    lines = FULL.read_text().splitlines()
    for number, line in enumerate(lines):
        if " = " in line and not line.startswith("#"):
            assert lines[number - 1].startswith("# "), line


def test_the_full_file_means_the_same_as_an_empty_one() -> None:
    assert parse(FULL.read_text()) == parse("")


def test_the_minimal_file_is_right() -> None:
    minimal = config.load(str(ROOT / "configs" / "limpet.minimal.toml"))
    assert minimal.device.name == "kitchen"
    assert minimal.broker.host == "broker.lan"


def test_defaults_follow_from_each_other() -> None:
    plain = parse("")
    assert (plain.device.name, plain.broker.client_id) == ("kitchen", "limpet-kitchen")
    assert plain.broker.port == 1883
    assert parse("[broker.tls]\nenabled = true").broker.port == 8883
    assert parse('[broker]\nport = 1884\nclient_id = "x"').broker[1:5] == (1884, None, None, "x")


def test_units_are_read_into_milliseconds_and_bytes() -> None:
    read = parse('[broker]\nkeepalive = "2m"\n[limits]\nsegment = "8MiB"\nids = 300')
    assert read.broker.keepalive_ms == 120_000
    assert (read.limits.segment_bytes, read.limits.ids) == (8 << 20, 300)
    memory = parse('[limits.memory]\npool = "64MiB"\nagent = "auto"').limits.memory
    assert memory == (None, 64 << 20, None)


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        parse("").device.name = "other"  # type: ignore[misc]


def test_all_mistakes_are_told_at_once_each_on_its_line() -> None:
    assert mistakes(
        '[device]\nname = "a b"\n[broker]\nkepalive = "1m"\nport = 70000\n'
        '[limts]\n[log]\nlevel = "loud"\n'
    ) == (
        'limpet.toml:6: limts: is not a known key (did you mean "limits"?)',
        "limpet.toml:2: device.name: must be 1 to 64 of A-Z a-z 0-9 . _ -",
        'limpet.toml:4: broker.kepalive: is not a known key (did you mean "keepalive"?)',
        "limpet.toml:5: broker.port: is 70000, must be between 0 and 65535",
        "limpet.toml:8: log.level: must be one of error, warning, info, debug",
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[device]\nname = 3", "device.name: must be 1 to 64"),
        ('[device]\nprefix = "a/b/c/d/e"', "device.prefix: must be one to four names"),
        ('[device]\nprefix = "$aws"', "device.prefix: must be one to four names"),
        ('[device]\nstate_directory = "state"', "device.state_directory: must be an absolute path"),
        ('[device]\nstate_directory = "/a/../b"', "must be an absolute path"),
        ('[broker]\nhost = ""', "broker.host: must not be empty"),
        ("[broker]\nkeepalive = 60", "broker.keepalive: must be a text with a duration"),
        ('[broker]\nkeepalive = "60"', 'must be a duration such as "20m"'),
        ('[broker]\nkeepalive = "1s"', 'is "1s", must be between 5s and 18h'),
        ('[broker]\nprotocol = "4"', "broker.protocol: must be one of 5, 3.1.1, auto"),
        ('[broker]\nmaximum_packet = "1GiB"', "must be between 136KiB and 1MiB"),
        ('[broker]\npassword_file = "/p"', "has no effect without broker.username"),
        ('[broker.tls]\nenabled = "yes"', "broker.tls.enabled: must be true or false"),
        ('[broker.tls]\nca_file = "/ca"', "has no effect while broker.tls.enabled is false"),
        ('[broker.timeouts]\nresolv = "1s"', 'did you mean "resolve"?'),
        ("broker = 1", "broker: must be a table"),
        ("[broker]\ntls = true", "broker.tls: must be a table"),
        ("[limits]\ntasks = 2000", "limits.tasks: is 2000, must be between 1 and 1024"),
        ("[limits]\ntasks = true", "limits.tasks: must be a whole number"),
        ("[limits]\ntasks = 50\nsteps = 10", "must be at least limits.tasks"),
        ("[limits]\nids = 16", "limits.ids: must be at least limits.tasks"),
        ('[limits]\nsegment = "768KiB"', "96 bytes for each of limits.ids"),
        ('[limits.memory]\npool = "512KiB"', "must be between 1MiB and 1024GiB"),
        ('[limits.memory]\nstep = "automatic"', "limits.memory.step: must be a size such as"),
        (
            '[limits.require]\nmemory = "sampled"',
            "limits.require.memory: must be one of any, cgroup",
        ),
        ("[device\n", "cannot parse"),
    ],
)
def test_a_mistake_says_what_is_wrong(content: str, expected: str) -> None:
    told = mistakes(content)
    assert len(told) == 1
    assert told[0].startswith("limpet.toml:")
    assert expected in told[0]


def test_a_host_name_that_cannot_be_a_device_name_asks_for_one() -> None:
    with pytest.raises(ConfigError, match='needs a name: the host name "my host"'):
        config.parse("limpet.toml", "", "my host")


def test_a_missing_file_is_told_as_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the file: No such file"):
        config.load(str(tmp_path / "none.toml"))


@given(st.data())
def test_any_value_in_any_key_is_read_or_a_mistake(data: st.DataObject) -> None:
    content = ""
    for where, fields in SECTIONS.items():
        if where:
            content += f"[{'.'.join(where)}]\n"
            chosen = data.draw(st.dictionaries(st.sampled_from([*fields, "x"]), VALUES, max_size=2))
            for name, value in chosen.items():
                content += f"{name} = {as_toml(value)}\n"
    try:
        assert isinstance(parse(content), Config)
    except ConfigError as error:
        assert all(mistake.startswith("limpet.toml:") for mistake in error.mistakes)


@given(st.text(max_size=100))
def test_any_text_is_a_config_or_a_mistake(content: str) -> None:
    try:
        assert isinstance(parse(content), Config)
    except ConfigError as error:
        assert error.mistakes


def as_toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {as_toml(item)}" for key, item in value.items()) + "}"
    return f'"{value}"' if isinstance(value, str) else str(value)
