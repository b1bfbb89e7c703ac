"""Files that the formats' own packages write: all of it is read back, and nothing is found."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
from gguf import GGUFValueType as Type
from inspecting import add_tensors, finish, inspect, write_gguf
from safetensors import numpy as tensors

VALUES: list[tuple[str, Any, Type, Type | None]] = [
    ("v.uint8", 200, Type.UINT8, None),
    ("v.int8", -100, Type.INT8, None),
    ("v.uint16", 60_000, Type.UINT16, None),
    ("v.int16", -30_000, Type.INT16, None),
    ("v.uint32", 1 << 31, Type.UINT32, None),
    ("v.int32", -(1 << 31), Type.INT32, None),
    ("v.float32", 0.5, Type.FLOAT32, None),
    ("v.uint64", (1 << 64) - 1, Type.UINT64, None),
    ("v.int64", -(1 << 63), Type.INT64, None),
    ("v.float64", 1e-300, Type.FLOAT64, None),
    ("v.bool", True, Type.BOOL, None),
    ("v.string", 'gr\u00fc\u00df "dich"', Type.STRING, None),
    ("v.strings", ["a", ""], Type.ARRAY, Type.STRING),
    ("v.int32s", [1, -2, 3], Type.ARRAY, Type.INT32),
    ("v.bools", [True, False], Type.ARRAY, Type.BOOL),
    ("v.float32s", [0.5, -0.25], Type.ARRAY, Type.FLOAT32),
]
DTYPES = [
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
    "float16", "float32", "float64", "complex64",
]  # fmt: skip


@pytest.mark.parametrize("endianness", [gguf.GGUFEndian.LITTLE, gguf.GGUFEndian.BIG])
def test_every_type_of_gguf_is_read_back(tmp_path: Path, endianness: gguf.GGUFEndian) -> None:
    file = tmp_path / "tiny.gguf"
    writer = write_gguf(file, endianess=endianness)
    for key, value, kind, element in VALUES:
        writer.add_key_value(key, value, kind, sub_type=element)
    parameters = add_tensors(writer)
    finish(writer)
    ended = inspect(file, "--json", "--tensors")
    told = ended.json()
    big = endianness == gguf.GGUFEndian.BIG
    assert [found["rule"] for found in told["findings"]] == (["gguf.big_endian"] if big else [])
    assert (ended.code, told["verdict"]) == (0, "ok")
    assert told["endianness"] == ("big" if big else "little")
    assert told["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    for key, value, _, _ in VALUES:
        assert told["metadata"][key] == value, key
    assert told["parameter_count"] == parameters
    kinds = [kind.name for kind in gguf.GGMLQuantizationType if kind.name != "Q8_1"]
    assert list(told["tensor_types"]) == kinds
    if big:
        return
    reader = gguf.GGUFReader(file)
    for mine, theirs in zip(told["tensors"], reader.tensors, strict=True):
        assert mine["name"] == theirs.name
        assert mine["dtype"] == theirs.tensor_type.name
        assert mine["shape"] == theirs.shape.tolist()
        assert mine["bytes"] == theirs.n_bytes


@pytest.mark.parametrize("kind", [kind for kind in gguf.LlamaFileType if kind.name != "GUESSED"])
def test_file_types_have_their_names(tmp_path: Path, kind: gguf.LlamaFileType) -> None:
    file = tmp_path / "tiny.gguf"
    writer = write_gguf(file)
    writer.add_file_type(kind)
    finish(writer)
    name = kind.name.removeprefix("MOSTLY_").removeprefix("ALL_")
    assert inspect(file, "--json", "--no-hash").json()["quantization"] == name


def test_splits_that_the_package_writes_are_one_model(tmp_path: Path) -> None:
    writer = write_gguf(tmp_path / "tiny.gguf", split_max_tensors=10)
    parameters = add_tensors(writer)
    finish(writer)
    files = sorted(tmp_path.glob("*.gguf"))
    assert len(files) > 2
    (told,) = inspect(tmp_path, "--json").json()
    assert (told["verdict"], told["parameter_count"]) == ("ok", parameters)
    assert [one["name"] for one in told["files"]] == [file.name for file in files]
    lines = "".join(f"{one['sha256']}  {one['name']}\n" for one in told["files"])
    assert told["sha256"] == hashlib.sha256(lines.encode()).hexdigest()


def test_every_type_of_safetensors_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "tiny.safetensors"
    arrays: dict[str, Any] = {f"t.{name}": numpy.zeros((2, 3), dtype=name) for name in DTYPES}
    arrays["scalar"] = numpy.zeros((), dtype="float32")
    arrays["empty"] = numpy.zeros((0, 4), dtype="float32")
    tensors.save_file(arrays, file, metadata={"format": "np", "by": "t\u00ebst"})
    ended = inspect(file, "--json", "--tensors")
    told = ended.json()
    assert (ended.code, told["findings"]) == (0, [])
    assert told["metadata"] == {"format": "np", "by": "t\u00ebst"}
    assert {one["name"]: tuple(one["shape"]) for one in told["tensors"]} == {
        name: array.shape for name, array in arrays.items()
    }
    assert told["parameter_count"] == sum(array.size for array in arrays.values())
    with file.open("rb") as opened:
        for one in told["tensors"]:
            opened.seek(one["offset"])
            assert opened.read(one["bytes"]) == arrays[one["name"]].tobytes()
