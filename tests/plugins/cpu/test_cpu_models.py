"""Models on the CPU back end give what plain torch gives: whole stacks in one call, plain passes, caches, trees."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmasos.api import PackedBatch, TreeTile
from llmasos.errors import DeviceUnavailable
from llmasos.pipelines.binding import bind_ops
from llmasos.pipelines.load import opened_model
from llmasos.testing.checkpoints import write_checkpoint
from llmasos_cpu.library import Absence, library

needs_library = pytest.mark.skipif(isinstance(library(), Absence), reason="there is no native library here")


def passes(model) -> list[torch.Tensor]:
    """Hidden states of plain sequences, of a cache in two steps and, for decoders, of tiles of a tree."""
    tokens = torch.tensor([3, 1, 4, 1, 5, 9])
    found = [model.hidden(PackedBatch(tokens=tokens, positions=torch.arange(6) % 3, starts=(0, 3, 6)))]
    if model.spec.kind == "encoder":
        return found
    cache, path = model.new_cache(2, 8), model.new_path(12)
    for step in (tokens[:4], tokens[4:]):
        half, past = len(step) // 2, cache.lengths[0]
        positions = torch.arange(past, past + half).repeat(2)
        batch = PackedBatch(tokens=step, positions=positions, starts=(0, half, 2 * half), slots=(1, 0))
        found.append(model.hidden(batch, cache))
    chain = TreeTile(prefix=(0,), ancestors=((),), visible=(None,), keep=0, kept=((0, 4),))
    model.hidden(PackedBatch(tokens=tokens[:4], positions=torch.arange(4), starts=(0, 4), tree=chain), path)
    mask = torch.eye(2, dtype=torch.bool)
    leaves = TreeTile(
        prefix=(4,), ancestors=((),), visible=(mask,), keep=4, kept=(), wanted=torch.tensor([1])
    )
    batch = PackedBatch(tokens=tokens[4:], positions=torch.tensor([4, 4]), starts=(0, 2), tree=leaves)
    found.append(model.hidden(batch, path))
    none = TreeTile((4,), ((),), (mask,), keep=4, kept=(), wanted=torch.tensor([], dtype=torch.int64))
    batch = PackedBatch(tokens=tokens[4:], positions=torch.tensor([4, 4]), starts=(0, 2), tree=none)
    assert model.hidden(batch, path).shape == (0, model.spec.width)
    return found


def on(hub, folder: Path, backend: str, dtype: str):
    one = hub()
    with opened_model(one, str(folder)) as opened:
        ops = bind_ops(one, backend, "cpu", dtype)
        return opened.architecture.build(opened.checkpoint, ops, dtype=dtype, device="cpu"), ops


@needs_library
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_a_model_gives_what_plain_torch_gives(hub, tmp_path: Path, family: str, dtype: str) -> None:
    folder = write_checkpoint(tmp_path / "model", family)
    plain, _ = on(hub, folder, "llmasos-transformer/reference", "float32")
    model, ops = on(hub, folder, "llmasos-cpu/cpu", dtype)
    assert ops.refused == {}
    assert ops.providers["stack"] == "llmasos-cpu/cpu.stack"
    assert model.runner is not None
    assert model.num_parameters() == plain.num_parameters()
    allowed = 1e-5 if dtype == "float32" else 0.08
    with torch.inference_mode():
        for mine, wanted in zip(passes(model), passes(plain), strict=True):
            assert mine.dtype == getattr(torch, dtype)
            torch.testing.assert_close(mine.float(), wanted, atol=allowed, rtol=allowed)


@needs_library
@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_a_quantised_model_is_close_and_says_what_it_is(hub, tmp_path: Path, family: str, dtype: str) -> None:
    folder = write_checkpoint(tmp_path / "model", family)
    plain, _ = on(hub, folder, "llmasos-transformer/reference", "float32")
    model, ops = on(hub, folder, "llmasos-cpu/cpu", dtype)
    assert ops.refused == {}
    assert model.runner is not None
    assert model.dtype == dtype
    with torch.inference_mode():
        for mine, wanted in zip(passes(model), passes(plain), strict=True):
            assert mine.dtype == torch.float32
            error = (mine - wanted).pow(2).mean().sqrt() / wanted.pow(2).mean().sqrt()
            assert 0 < error < (0.05 if dtype == "int8" else 0.4)


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_quantised_weights_without_the_library_are_an_error(hub, tmp_path: Path, dtype, monkeypatch) -> None:
    monkeypatch.setattr("llmasos_cpu.backend.library", lambda: Absence("not-built", "there was no compiler"))
    folder = write_checkpoint(tmp_path / "model", "llama")
    with pytest.raises(DeviceUnavailable, match=dtype) as caught:
        hub().load_model(str(folder), dtype=dtype)
    assert "exact" in (caught.value.hint or "")


@needs_library
@pytest.mark.parametrize("threads", [2, 3])
def test_a_pass_is_the_same_with_any_number_of_threads(hub, tmp_path: Path, threads: int) -> None:
    folder = write_checkpoint(tmp_path / "model", "llama")
    model, _ = on(hub, folder, "llmasos-cpu/cpu", "float32")
    before = torch.get_num_threads()
    with torch.inference_mode():
        torch.set_num_threads(1)
        alone = passes(model)
        torch.set_num_threads(threads)
        try:
            found = passes(model)
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(left, right) for left, right in zip(found, alone, strict=True))


def test_without_the_library_a_model_runs_all_the_same(hub, tmp_path: Path, monkeypatch) -> None:
    absent = Absence("not-built", "there was no compiler")
    monkeypatch.setattr("llmasos_cpu.backend.library", lambda: absent)
    folder = write_checkpoint(tmp_path / "model", "llama")
    plain, _ = on(hub, folder, "llmasos-transformer/reference", "float32")
    model, ops = on(hub, folder, "llmasos-cpu/cpu", "float32")
    assert "stack" not in ops.providers
    assert ops.facts["native"] == "there was no compiler"
    with torch.inference_mode():
        for mine, wanted in zip(passes(model), passes(plain), strict=True):
            torch.testing.assert_close(mine, wanted, atol=1e-5, rtol=0)
