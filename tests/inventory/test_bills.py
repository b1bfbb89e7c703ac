"""Every output is accepted by who must read it: the official schemas and libraries."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from inspecting import add_tensors, finish, inspect, write_gguf
from spdx_tools.spdx.model.relationship import RelationshipType
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

# Everything that an output could mistake for its own.
EVIL = 'e"v\\i<l> \x1b[31m\n| </text> `[x](y)` \u2028 --- : #'
KEYS = (
    "general.name", "general.license", "general.license.name", "general.license.link",
    "general.organization", "general.version", "general.description", "general.author",
    "general.url", "general.architecture", "general.base_model.0.name", "general.tags",
    "general.base_model.0.version", "general.base_model.0.repo_url", "general.size_label",
)  # fmt: skip
# The fields that l-bom 0.2.0 writes.
L_BOM = [
    "sbom_version",
    "generated_at",
    "tool_name",
    "tool_version",
    "model_path",
    "model_filename",
    "file_size_bytes",
    "sha256",
    "format",
    "architecture",
    "parameter_count",
    "quantization",
    "dtype",
    "context_length",
    "vocab_size",
    "license",
    "base_model",
    "training_framework",
    "metadata",
    "warnings",
]


@pytest.fixture(params=["plain", "evil", "broken", "several"])
def models(request: pytest.FixtureRequest, tmp_path: Path) -> list[Path]:
    file = tmp_path / "tiny.gguf"
    writer = write_gguf(file)
    add_tensors(writer)
    if request.param == "evil":
        for key in KEYS:
            writer.kv_data[0].pop(key, None)
            writer.add_string(key, EVIL)
    finish(writer)
    if request.param == "broken":
        file.write_bytes(file.read_bytes()[:-100] + b"\0" * 7)
    if request.param != "several":
        return [file]
    other = tmp_path / "other"
    other.mkdir()
    writer = write_gguf(other / "big.gguf", split_max_tensors=10)
    add_tensors(writer)
    finish(writer)
    return [file, other]


def test_cyclonedx_is_accepted(models: list[Path]) -> None:
    ended = inspect(*models, "--format", "cyclonedx", "--memory", "1GiB")
    faults = JsonStrictValidator(SchemaVersion.V1_6).validate_str(ended.out)
    assert faults is None, faults
    told = ended.json()
    first = told["components"][0]
    assert first["type"] == "machine-learning-model"
    assert len(first["hashes"][0]["content"]) == 64
    assert len(told["components"]) == len(models)


@pytest.mark.parametrize(("form", "ending"), [("spdx", "spdx"), ("spdx-json", "spdx.json")])
def test_spdx_is_accepted(models: list[Path], tmp_path: Path, form: str, ending: str) -> None:
    file = tmp_path / f"bill.{ending}"
    inspect(*models, "--format", form, "--output", file)
    document = parse_file(str(file))
    assert not [fault.validation_message for fault in validate_full_spdx_document(document)]
    described = [
        relation.related_spdx_element_id
        for relation in document.relationships
        if relation.relationship_type == RelationshipType.DESCRIBES
    ]
    assert len(described) == len(models)
    assert {package.spdx_id for package in document.packages} >= set(described)


def test_json_has_the_fields_of_l_bom_and_the_verdict(models: list[Path]) -> None:
    told = inspect(*models, "--json").json()
    documents: list[dict[str, Any]] = told if isinstance(told, list) else [told]
    assert len(documents) == len(models)
    for document in documents:
        assert list(document)[: len(L_BOM)] == L_BOM
        assert document["verdict"] in ("ok", "suspect", "malformed")
        assert len(document["warnings"]) == len(document["findings"])


def test_a_table_and_a_card_hold_their_lines(models: list[Path]) -> None:
    table = inspect(*models, "--format", "table").out
    assert "\x1b" not in table
    ended = inspect(models[0], "--format", "hf-readme", "--hf-sdk", "docker", "--hf-app-port", "80")
    front, _, body = ended.out.removeprefix("---\n").partition("\n---\n")
    for line in front.splitlines():
        assert re.fullmatch(r'(\w+: ("([^"\\]|\\.)*"|\d+)|\w+:|- "([^"\\]|\\.)*")', line), line
    assert "app_port: 80" in front and body.startswith("\n# ")
    assert "\x1b" not in ended.out


def test_the_same_file_gives_the_same_bytes(tmp_path: Path) -> None:
    """Whatever folder it lies in, unless it is asked for."""
    outputs = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        writer = write_gguf(folder / "tiny.gguf")
        add_tensors(writer)
        finish(writer)
        forms = ("json", "cyclonedx", "spdx", "spdx-json", "hf-readme", "table")
        told = [inspect(folder / "tiny.gguf", "--format", form).out for form in forms]
        outputs.append([text.replace(str(folder), "FOLDER") for text in told])
    # The path is told as it was asked for, and unique names are made of what is told.
    unique = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
    one, two = ([unique.sub("UUID", text) for text in told] for told in outputs)
    assert one == two
