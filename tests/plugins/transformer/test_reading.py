"""Weights are read a layer at a time, and nothing of the file is needed once a model is built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmasos.testing.checkpoints import write_checkpoint
from llmasos_transformer.architecture import Gpt2Architecture, LlamaArchitecture
from llmasos_transformer.ops import ReferenceOps
from llmasos_transformer.weights.safetensors import SafetensorsFormat

FAMILIES = {"llama": LlamaArchitecture, "gpt2": Gpt2Architecture}


class Told:
    """A checkpoint that writes down what is asked of it."""

    def __init__(self, checkpoint) -> None:
        self._checkpoint = checkpoint
        self.calls: list[tuple[str, str]] = []

    def __getattr__(self, name: str):
        return getattr(self._checkpoint, name)

    def tensor(self, name: str):
        self.calls.append(("read", name))
        return self._checkpoint.tensor(name)

    def release(self, name: str) -> None:
        self.calls.append(("release", name))
        self._checkpoint.release(name)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_of_the_file_is_needed_afterwards(tmp_path: Path, family: str) -> None:
    checkpoint = SafetensorsFormat().open(write_checkpoint(tmp_path / "model", family))
    model = FAMILIES[family]().build(checkpoint, ReferenceOps(), dtype="float32", device="cpu")
    before = {name: value.clone() for name, value in model.named_parameters()}
    assert before
    for name in checkpoint.tensors:
        checkpoint.tensor(name).fill_(7.0)  # of the map, which is a view of the file
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_is_let_go_before_the_next_is_read(tmp_path: Path, family: str) -> None:
    checkpoint = Told(SafetensorsFormat().open(write_checkpoint(tmp_path / "model", family)))
    FAMILIES[family]().build(checkpoint, ReferenceOps(), dtype="float32", device="cpu")
    layers = [[call for call in checkpoint.calls if f".{layer}." in call[1]] for layer in (0, 1)]
    assert layers[0]
    assert len(layers[0]) == len(layers[1])
    last = max(checkpoint.calls.index(call) for call in layers[0])
    assert last < min(checkpoint.calls.index(call) for call in layers[1])
    reads = [name for what, name in checkpoint.calls if what == "read"]
    assert sorted(reads) == sorted(name for what, name in checkpoint.calls if what == "release")
    assert sorted(reads) == sorted(checkpoint.tensors)
