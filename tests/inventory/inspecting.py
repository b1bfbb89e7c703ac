"""Runs `limpet inspect` as people do, and writes model files with the formats' own packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy

EPOCH = "1700000000"
# llama.cpp's own size of a type that never stands in files; the package counts its older one.
UNLIKE = {gguf.GGMLQuantizationType.Q8_1}


class Ended(NamedTuple):
    """How it ended and what it said."""

    code: int
    out: str
    error: str

    def json(self) -> Any:
        return json.loads(self.out)


def inspect(*words: str | Path, **environment: str) -> Ended:
    """Run it with the words; times are those of `EPOCH`."""
    command = [sys.executable, "-m", "limpet", "inspect", *map(str, words)]
    told = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH, **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=told)
    return Ended(done.returncode, done.stdout, done.stderr)


def write_gguf(path: Path, **settings: Any) -> gguf.GGUFWriter:
    """Return a writer of a small language model; `finish` writes the file."""
    writer = gguf.GGUFWriter(path, "llama", **settings)
    writer.add_name("Tiny")
    writer.add_license("apache-2.0")
    writer.add_organization("Makers")
    writer.add_version("1.1")
    writer.add_context_length(2048)
    writer.add_block_count(2)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, "Base")
    writer.add_base_model_organization(0, "Others")
    writer.add_base_model_repo_url(0, "https://huggingface.co/others/base")
    writer.add_tags(["text-generation", "tiny"])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<s>", "a", "b"])
    writer.add_chat_template("{% for m in messages %}{{ m }}{% endfor %}")
    return writer


def add_tensors(writer: gguf.GGUFWriter) -> int:
    """Add a tensor of each type that there is; return how many values they have."""
    count = 0
    for kind in gguf.GGMLQuantizationType:
        if kind in UNLIKE:
            continue
        block, size = gguf.GGML_QUANT_SIZES[kind]
        data = numpy.zeros((3, 2 * size), dtype=numpy.uint8)
        writer.add_tensor(f"t.{kind.name}", data, raw_dtype=kind)
        count += 3 * 2 * block
    return count


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
