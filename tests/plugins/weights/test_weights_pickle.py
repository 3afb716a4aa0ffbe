"""PyTorch pickles: refused unless asked for, tensors only, and never a way to run code."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from weight_samples import LLAMA_CONFIG, outcome, write

from llmasos.api import ModelNotFound, WeightsError
from llmasos_transformer.weights.gguf import GgufFormat
from llmasos_transformer.weights.pickle import PickleFormat
from llmasos_transformer.weights.safetensors import SafetensorsFormat


def some_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return OrderedDict(
        (f"layer.{index}.weight", torch.randn(4, 3, generator=generator).to(dtype))
        for index, dtype in enumerate((torch.float32, torch.float16, torch.bfloat16, torch.int64))
    )


def saved(value: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def legacy(value: object) -> bytes:
    return saved(value, _use_new_zipfile_serialization=False)


def allowed(path: Path) -> Any:
    return PickleFormat().open(path, allow_pickle=True)


class Evil:
    """A pickle that would create a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("make", [saved, legacy], ids=["zip", "legacy"])
def test_tensors_are_read_as_saved_when_asked_for(tmp_path: Path, make: Any) -> None:
    wanted = some_tensors()
    write(tmp_path, "pytorch_model.bin", make(wanted))
    for path in (tmp_path, tmp_path / "pytorch_model.bin"):
        assert PickleFormat().accepts(path)
        checkpoint = allowed(path)
        assert set(checkpoint.tensors) == set(wanted)
        for name, tensor in wanted.items():
            read = checkpoint.tensor(name)
            assert read.dtype == tensor.dtype
            assert torch.equal(read, tensor)
            info = checkpoint.tensors[name]
            assert (info.shape, info.nbytes) == (tuple(tensor.shape), tensor.nbytes)
        assert [info.dtype for info in checkpoint.tensors.values()] == ["F32", "F16", "BF16", "I64"]
        assert checkpoint.files() == [tmp_path / "config.json", tmp_path / "pytorch_model.bin"]
        assert checkpoint.metadata["file_format"] == "PyTorch pickle"
        assert checkpoint.config == LLAMA_CONFIG
        with pytest.raises(KeyError):
            checkpoint.tensor("absent")
        kept = checkpoint.tensor("layer.0.weight")
        checkpoint.close()
        assert torch.equal(kept, wanted["layer.0.weight"])
        with pytest.raises(WeightsError, match="closed"):
            checkpoint.tensor("layer.0.weight")


def test_nothing_is_opened_unless_asked_for(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    file = write(tmp_path, "pytorch_model.bin", saved({"x": Evil(canary)}))
    for path in (tmp_path, file):
        with pytest.raises(WeightsError, match="which can carry code") as caught:
            PickleFormat().open(path)
        assert "--allow-pickle" in (caught.value.hint or "")
    assert not canary.exists()


@pytest.mark.parametrize("make", [saved, legacy, pickle.dumps], ids=["zip", "legacy", "plain"])
def test_code_is_refused_even_when_pickles_are_allowed(tmp_path: Path, make: Any) -> None:
    canary = tmp_path / "canary"
    write(tmp_path, "pytorch_model.bin", make({"x": Evil(canary), "y": torch.zeros(2)}))
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin"):
        allowed(tmp_path)
    assert not canary.exists()
    pickle.loads(pickle.dumps(Evil(canary)))
    assert canary.exists(), "the canary does not work"


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    wanted = some_tensors()
    names = list(wanted)
    halves = {"pytorch_model-00001-of-00002.bin": names[:2], "pytorch_model-00002-of-00002.bin": names[2:]}
    for shard, kept in halves.items():
        write(tmp_path, shard, saved({name: wanted[name] for name in kept}))
    weight_map = {name: shard for shard, kept in halves.items() for name in kept}
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert PickleFormat().accepts(tmp_path)
    checkpoint = allowed(tmp_path)
    assert all(torch.equal(checkpoint.tensor(name), tensor) for name, tensor in wanted.items())
    assert checkpoint.files() == [tmp_path / "config.json", index, *(tmp_path / shard for shard in halves)]
    assert checkpoint.metadata["file_format"] == "PyTorch pickle, 2 shards"
    index.write_text(
        json.dumps({"weight_map": {**weight_map, "invented": "pytorch_model-00002-of-00002.bin"}})
    )
    with pytest.raises(WeightsError, match="the shard lacks invented"):
        allowed(tmp_path)
    index.write_text(json.dumps({"weight_map": {**weight_map, "x": "../pytorch_model.bin"}}))
    with pytest.raises(WeightsError, match=r"not the name of a \.bin file in this directory"):
        allowed(tmp_path)


def _compressed() -> bytes:
    source = zipfile.ZipFile(io.BytesIO(saved({"x": torch.zeros(100_000)})))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    return buffer.getvalue()


def _expanded() -> bytes:
    """A million rows out of one number, by a stride of 0."""
    return saved({"x": torch.zeros(1).expand(1_000_000)})


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"", "neither a torch archive nor a pickle"),
        (b"GGUF" + bytes(60), "but gguf"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (saved({"a\x1b[2J": torch.zeros(2)}), "'a�"),
        (b"hello, world, this is text", "neither a torch archive nor a pickle"),
        (b"\x80\x02", "weights-only unpickler|damaged"),
        (b"\x80\x02" + bytes(100), "weights-only unpickler|damaged"),
        (b"PK\x03\x04" + bytes(100), "not a whole one"),
        (_compressed(), "is compressed; torch never does that"),
        (_expanded(), "claims 4000000 bytes and stores 4"),
        (saved([torch.zeros(2)]), "holds a list, not tensors by name"),
        (saved(torch.zeros(2)), "holds a Tensor, not tensors by name"),
        (saved({"model": {"x": torch.zeros(2)}}), "'model' is a dict, not a tensor"),
        (saved({"epoch": 3}), "'epoch' is a int, not a tensor"),
        (saved({3: torch.zeros(2)}), "'3' is a Tensor"),
        (saved({"x": torch.zeros(2, dtype=torch.complex64)}), "complex64"),
        (saved({"x": torch.zeros(2, 2).to_sparse()}), "sparse"),
        (saved({"x": torch.zeros(2, device="meta")}), "meta|damaged"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_what_is_not_tensors_by_name_is_refused(tmp_path: Path, content: bytes, fragment: str) -> None:
    write(tmp_path, "pytorch_model.bin", content)
    with pytest.raises(WeightsError, match=fragment) as caught:
        allowed(tmp_path)
    assert caught.value.hint
    assert "pytorch_model.bin" in caught.value.message


@pytest.mark.parametrize("make", [saved, legacy], ids=["zip", "legacy"])
def test_truncated_files_are_refused(tmp_path: Path, make: Any) -> None:
    content = make({"x": torch.arange(300.0)})
    for length in range(0, len(content), max(1, len(content) // 100)):
        write(tmp_path, "pytorch_model.bin", content[:length])
        assert outcome(lambda: allowed(tmp_path)) != "opens", length


SMALL = saved({"x": torch.arange(3.0)})


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(1, 255)), min_size=1, max_size=6))
def test_flipped_bytes_never_escape_as_another_error(tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    content = bytearray(SMALL)
    for position, mask in flips:
        content[position] ^= mask
    write(tmp_path, "pytorch_model.bin", bytes(content))
    outcome(lambda: allowed(tmp_path))


@pytest.mark.parametrize("name", ["model.safetensors", "model.gguf", "pytorch_model.bin"])
@pytest.mark.parametrize("make", [saved, legacy, pickle.dumps], ids=["zip", "legacy", "plain"])
def test_a_pickle_under_another_name_is_never_unpickled(tmp_path: Path, name: str, make: Any) -> None:
    canary = tmp_path / "canary"
    file = write(tmp_path, name, make({"x": Evil(canary)}))
    for form in (SafetensorsFormat(), GgufFormat()):
        assert not form.accepts(file)
        assert outcome(lambda form=form: form.open(file, allow_pickle=True)) != "opens"
    assert outcome(lambda: PickleFormat().open(file)) != "opens"
    assert not canary.exists()


def test_formats_that_cannot_hold_code_come_first(tmp_path: Path) -> None:
    write(tmp_path, "pytorch_model.bin", saved(some_tensors()))
    assert [form.accepts(tmp_path) for form in (SafetensorsFormat(), GgufFormat(), PickleFormat())] == [
        False,
        False,
        True,
    ]
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert [form.accepts(tmp_path) for form in (SafetensorsFormat(), GgufFormat(), PickleFormat())] == [
        False,
        True,
        False,
    ]
    save_file(some_tensors(), tmp_path / "model.safetensors")
    assert [form.accepts(tmp_path) for form in (SafetensorsFormat(), GgufFormat(), PickleFormat())] == [
        True,
        False,
        False,
    ]


def test_nothing_there(tmp_path: Path) -> None:
    assert not PickleFormat().accepts(tmp_path / "absent.bin")
    assert not PickleFormat().accepts(tmp_path)
    with pytest.raises(ModelNotFound):
        allowed(tmp_path / "absent.bin")
    with pytest.raises(WeightsError, match="neither"):
        allowed(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(saved(some_tensors()))
    with pytest.raises(WeightsError, match=r"no config\.json"):
        allowed(tmp_path)
