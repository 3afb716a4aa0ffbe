"""A model that has been read is in memory once: the pages of its file leave with the tensors that were copied."""

from __future__ import annotations

import sys

import pytest
import torch
from safetensors.torch import save_file

from llmasos_transformer.weights.mapping import Releasable
from llmasos_transformer.weights.safetensors import SafetensorsFormat


def resident_file_bytes() -> int:
    """Bytes of mapped files that are in this process's memory."""
    with open("/proc/self/status", encoding="ascii") as file:
        (line,) = (line for line in file if line.startswith("RssFile"))
    return int(line.split()[1]) * 1024


@pytest.fixture
def checkpoint(tmp_path):
    values = {"a": torch.arange(2**22, dtype=torch.float32), "b": torch.ones(3)}  # 16 MiB and a few bytes
    save_file(values, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    found = SafetensorsFormat().open(tmp_path)
    yield found
    found.close()


def test_a_released_tensor_reads_the_same_again(checkpoint):
    assert isinstance(checkpoint, Releasable)
    before = checkpoint.tensor("a").clone()
    for name in ("a", "b"):
        checkpoint.release(name)
    assert torch.equal(checkpoint.tensor("a"), before)
    assert checkpoint.tensor("b").tolist() == [1.0, 1.0, 1.0]


@pytest.mark.skipif(sys.platform != "linux", reason="counts pages as Linux does")
def test_a_released_tensor_leaves_memory(checkpoint):
    nothing = resident_file_bytes()
    checkpoint.tensor("a").sum()
    read = resident_file_bytes()
    checkpoint.release("a")
    left = resident_file_bytes()
    assert read - nothing > 2**23
    assert read - left > 2**23


def test_releasing_after_close_does_nothing(checkpoint):
    checkpoint.close()
    checkpoint.release("a")
