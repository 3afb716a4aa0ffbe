"""Quantised and poisoned weights that are not what they should be: one error that names the place, and a hint."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmasos.api import WeightsError
from llmasos.pipelines.evaluate import Silence
from llmasos.pipelines.quantise import quantise
from llmasos.testing.checkpoints import write_checkpoint
from llmasos_cpu.library import Absence, library
from llmasos_transformer.weights.gguf_header import read_header

needs_library = pytest.mark.skipif(isinstance(library(), Absence), reason="there is no native library here")
NAMED = "blk.1.ffn_up.weight"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "model"
    return write_checkpoint(folder, "llama", hidden_size=64, intermediate_size=96)


@pytest.fixture(scope="module", params=["int8", "int4"])
def small(request, plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import llmasos

    folder = tmp_path_factory.mktemp("small")
    hub = llmasos.Hub(cache_dir=folder / "cache", config_dir=folder / "config", offline=True)
    quantise(hub, str(plain), folder / "model", request.param, progress=Silence())
    return folder / "model"


def info(data: bytes, name: str) -> int:
    """Where the sizes of a tensor begin in a GGUF file."""
    raw = name.encode()
    return data.index(struct.pack("<Q", len(raw)) + raw) + 8 + len(raw) + 4


def wider_rows(file: Path) -> bytes:
    data = bytearray(file.read_bytes())
    at = info(data, NAMED)
    data[at : at + 8] = struct.pack("<Q", 64 + 16)  # half a block more
    return bytes(data)


def more_blocks(file: Path) -> bytes:
    data = bytearray(file.read_bytes())
    at = info(data, NAMED)
    data[at : at + 8] = struct.pack("<Q", 64 + 32)  # a whole block, which runs into the next tensor
    return bytes(data)


def another_type(file: Path) -> bytes:
    data = bytearray(file.read_bytes())
    at = info(data, NAMED) + 16
    data[at : at + 4] = struct.pack("<I", 12)  # Q4_K, whose blocks are of 256
    return bytes(data)


def truncated(file: Path) -> bytes:
    return file.read_bytes()[:-100]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (wider_rows, rf"{NAMED} has rows of 80 elements, but Q\w+ comes in blocks of 32"),
        (more_blocks, "overlaps|does not fit|wrong shape|end beyond"),
        (another_type, rf"{NAMED} has rows of 64 elements, but Q4_K comes in blocks of 256"),
        (truncated, "truncated"),
    ],
)
def test_a_quantised_file_whose_blocks_do_not_add_up(
    hub, tmp_path: Path, small: Path, damage: Callable[[Path], bytes], said: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(small, folder)
    (file,) = folder.glob("*.gguf")
    file.write_bytes(damage(file))
    for dtype in ("auto", "exact"):
        with pytest.raises(WeightsError, match=said) as caught:
            hub().load_model(str(folder), dtype=dtype)
        assert caught.value.hint


@needs_library
@pytest.mark.parametrize("dtype", ["auto", "exact"])
def test_a_scale_that_is_no_number(hub, tmp_path: Path, small: Path, dtype: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(small, folder)
    (file,) = folder.glob("*.gguf")
    stored = read_header(file).tensors[NAMED]
    data = bytearray(file.read_bytes())
    data[stored.begin : stored.begin + 2] = struct.pack("<H", 0x7E00)
    file.write_bytes(data)
    with pytest.raises(WeightsError, match="holds NaN or infinity") as caught:
        hub().load_model(str(folder), dtype=dtype)
    assert "download it again" in (caught.value.hint or "")


@pytest.mark.parametrize("dtype", ["exact", pytest.param("int4", marks=needs_library)])
@pytest.mark.parametrize(
    ("name", "poison"),
    [
        ("model.layers.1.mlp.down_proj.weight", float("nan")),
        ("model.layers.1.mlp.down_proj.weight", float("inf")),
        ("lm_head.weight", float("nan")),
    ],
)
def test_weights_that_are_no_numbers(
    hub, tmp_path: Path, plain: Path, name: str, poison: float, dtype: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(plain, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[name][5, 3] = poison
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="holds NaN or infinity") as caught:
        hub().load_model(str(folder), dtype=dtype)
    assert caught.value.hint
    if dtype == "exact":
        assert name in caught.value.message
        with pytest.raises(WeightsError, match="holds NaN or infinity"):
            hub().prepare_model(str(folder), dtype=dtype).load()


def test_weights_that_the_precision_does_not_hold(hub, tmp_path: Path, plain: Path) -> None:
    """Sound numbers whose products are none: nothing to download again."""
    folder = tmp_path / "model"
    shutil.copytree(plain, folder)
    tensors = load_file(folder / "model.safetensors")
    for name in ("gate_proj", "up_proj"):
        tensors[f"model.layers.0.mlp.{name}.weight"] *= 1e30
    tensors["model.layers.0.mlp.down_proj.weight"] *= torch.tensor([1e30, -1e30]).repeat(48)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="although its weights are numbers"):
        hub().load_model(str(folder))
