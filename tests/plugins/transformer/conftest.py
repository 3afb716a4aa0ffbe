"""A transformers model and ours, from the same files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmasos.api import DTypeName
from llmasos_transformer.architecture import (
    BertArchitecture,
    FamilyArchitecture,
    Gpt2Architecture,
    LlamaArchitecture,
)
from llmasos_transformer.model import Decoder, Encoder
from llmasos_transformer.ops import ReferenceOps
from llmasos_transformer.weights.safetensors import SafetensorsFormat

ARCHITECTURES: dict[str, type[FamilyArchitecture]] = {
    "llama": LlamaArchitecture,
    "gpt2": Gpt2Architecture,
    "bert": BertArchitecture,
}


def load(
    path: Path,
    *,
    form: type[Any] = SafetensorsFormat,
    dtype: DTypeName = "float32",
    allow_pickle: bool = False,
) -> Decoder | Encoder:
    """Our model from files, through a weight format."""
    checkpoint = form().open(path, allow_pickle=allow_pickle)
    try:
        architecture = ARCHITECTURES[checkpoint.config["model_type"]]()
        architecture.summarize(checkpoint)
        return architecture.build(checkpoint, ReferenceOps(), dtype=dtype, device="cpu")
    finally:
        checkpoint.close()


def noisy(model: Any, seed: int) -> Any:
    """Random weights of a size that shows: fresh models have zero biases and unit norms, which would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(parameter + 0.05 * noise if parameter.dim() == 1 else 0.08 * noise)
    return model.eval()


@pytest.fixture(scope="session")
def load_model() -> Callable[..., Decoder | Encoder]:
    """``load_model(path, form=..., dtype=...)``: our model from files."""
    return load


@pytest.fixture
def both(tmp_path: Path) -> Callable[[Any, Any], tuple[Any, Decoder | Encoder]]:
    """``both(TheirClass, config) -> (their model, our model)`` with the same random weights, through safetensors."""

    def make(model_class: Any, config: Any, seed: int = 0) -> tuple[Any, Decoder | Encoder]:
        theirs = noisy(model_class(config), seed)
        theirs.save_pretrained(tmp_path)
        return theirs, load(tmp_path)

    return make
