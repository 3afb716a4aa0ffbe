"""Whole models in training: gradients like plain torch's, a loss that falls, and back ends that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmasos.api import PackedBatch
from llmasos.errors import DeviceUnavailable
from llmasos.pipelines.load import opened_model
from llmasos.pipelines.training import bind_training, linear_cross_entropy
from llmasos.testing.checkpoints import write_checkpoint
from llmasos_cpu.backend import CpuBackend
from llmasos_cpu.training import CpuTrainingKernels
from llmasos_transformer.ops import ReferenceOps

TOKENS = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 5, 3])
BATCH = PackedBatch(tokens=TOKENS, positions=torch.arange(10) % 5, starts=(0, 5, 10))
TARGETS = torch.tensor([1, 4, 1, 5, -100, 2, 6, 5, 3, -100])


def trainable(hub, folder: Path, ops):
    with opened_model(hub, str(folder)) as opened:
        model = opened.architecture.build(opened.checkpoint, ops, dtype="float32", device="cpu")
    return model.requires_grad_().train()


def loss_and_slopes(model, loss):
    found = loss(model.hidden(BATCH), model.head_weight, None, TARGETS)
    found.backward()
    return found.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_gradients_are_those_of_plain_torch(
    hub, tmp_path: Path, family: str, dtype: str, recompute: bool
) -> None:
    folder, one = write_checkpoint(tmp_path / "model", family), hub()
    ops = bind_training(one, "cpu", dtype)
    assert ops.refused == {}
    assert ops.providers["linear"] == "llmasos-cpu/cpu.training.linear"
    model = trainable(one, folder, ops)
    model.recompute = recompute
    value, slopes = loss_and_slopes(model, ops.linear_cross_entropy)
    wanted, expected = loss_and_slopes(trainable(one, folder, ReferenceOps()), linear_cross_entropy)
    allowed = 1e-5 if dtype == "float32" else 0.05
    torch.testing.assert_close(value, wanted, rtol=allowed, atol=allowed)
    assert slopes.keys() == expected.keys()
    for name, slope in slopes.items():
        size = float(expected[name].abs().max())
        torch.testing.assert_close(slope, expected[name], rtol=0, atol=allowed * max(size, 0.1), msg=name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_learns(hub, tmp_path: Path, dtype: str) -> None:
    one = hub()
    ops = bind_training(one, "cpu", dtype)
    model = trainable(one, write_checkpoint(tmp_path / "model", "llama"), ops)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    losses = []
    for _ in range(12):
        optimiser.zero_grad()
        loss = ops.linear_cross_entropy(model.hidden(BATCH), model.head_weight, None, TARGETS)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3


class _Wrong(CpuTrainingKernels):
    def linear(self, x, weight, bias):
        return super().linear(x, weight, bias) + 0 * weight.sum() + x.detach().sum() * 1e-3

    def attention(self, q, k, v, layout, scale):
        raise RuntimeError("no attention here")


def test_ops_that_differ_are_refused(hub, monkeypatch) -> None:
    monkeypatch.setattr(CpuBackend, "training", lambda self, device, dtype: _Wrong(half=False))
    ops = bind_training(hub(), "cpu", "float32")
    assert "differs from the reference by" in ops.refused["llmasos-cpu/cpu.training.linear"]
    assert ops.refused["llmasos-cpu/cpu.training.attention"] == "raised RuntimeError: no attention here"
    assert ops.providers["linear"] == "llmasos-transformer/reference.linear"
    assert ops.providers["linear_cross_entropy"] == "llmasos-cpu/cpu.training.linear_cross_entropy"


def test_a_back_end_that_fails_leaves_the_reference(hub, monkeypatch) -> None:
    def fail(self, device, dtype):
        raise OSError("gone")

    monkeypatch.setattr(CpuBackend, "training", fail)
    ops = bind_training(hub(), "cpu", "float32")
    assert ops.refused == {"llmasos-cpu/cpu.training": "raised OSError: gone"}
    assert ops.providers["linear_cross_entropy"] == "llmasos/training.linear_cross_entropy"


def test_quantised_weights_are_not_trained(hub) -> None:
    with pytest.raises(DeviceUnavailable, match="not trained in int8"):
        bind_training(hub(), "cpu", "int8")
