"""Weights in oneDNN's layout: the same numbers as plain torch, tried before they are used, timed once a machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llmasos.api import WEIGHT_OPS, PackedWeight
from llmasos.pipelines.opcheck import largest_difference, packed
from llmasos_cpu import allocator, onednn, weights
from llmasos_transformer import ops as reference

DTYPES = ("float32", "bfloat16")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", WEIGHT_OPS)
def test_packed_weights_give_the_numbers_of_the_reference(op: str, dtype: str) -> None:
    call = packed(op, getattr(weights, op), onednn.pack)
    found = largest_difference(op, call, getattr(reference, op), device="cpu", dtype=dtype)
    assert found <= (2e-5 if dtype == "float32" else 1e-2)


@pytest.mark.parametrize("op", WEIGHT_OPS)
def test_plain_weights_are_taken_too(op: str) -> None:
    call = getattr(weights, op)
    assert largest_difference(op, call, getattr(reference, op), device="cpu", dtype="float32") <= 2e-5


def test_a_vocabulary_of_several_pieces() -> None:
    torch.manual_seed(3)
    vocabulary = 2 * onednn.PIECE + 77
    table, bias = torch.randn(vocabulary, 24) / 5, torch.randn(vocabulary)
    weight = onednn.pack(table, lookup=True)
    assert isinstance(weight, PackedWeight)
    assert (weight.outputs, weight.inputs, len(weight.pieces)) == (vocabulary, 24, 3)
    assert weight.nbytes == 2 * table.nbytes
    x = torch.randn(700, 24)  # more rows than have logits at a time
    rows = torch.arange(0, 700).repeat_interleave(2)[3:]  # the first row has no target
    targets = torch.randint(0, vocabulary, (len(rows),))
    found = weights.token_logprobs(x, weight, bias, targets, rows)
    wanted = reference.token_logprobs(x, table, bias, targets, rows)
    torch.testing.assert_close(found[0], wanted[0], atol=2e-5, rtol=0)
    assert torch.equal(found[1], wanted[1])
    torch.testing.assert_close(weights.linear(x, weight, bias), x @ table.T + bias, atol=2e-5, rtol=1e-5)
    ids = torch.tensor([0, vocabulary - 1, 5])
    assert torch.equal(weights.embedding(ids, weight), table[ids])


def test_equal_logits_have_the_first_as_arg_max() -> None:
    table = torch.zeros(onednn.PIECE + 3, 4)
    weight = onednn.pack(table, lookup=False)
    logprob, best = weights.token_logprobs(torch.ones(2, 4), weight, None, torch.tensor([1, onednn.PIECE]))
    assert best.tolist() == [0, 0]
    torch.testing.assert_close(logprob, torch.full((2,), -float(torch.tensor(onednn.PIECE + 3.0).log())))


def test_an_operator_that_is_gone_or_wrong_is_a_reason_not_to_use_it(monkeypatch) -> None:
    assert onednn.refusal(torch.float32) is None

    def gone(*arguments):
        raise NotImplementedError("Could not run 'mkldnn::_linear_pointwise'\nand more")

    monkeypatch.setattr(onednn, "product", gone)
    assert "Could not run 'mkldnn::_linear_pointwise'" in (onednn.refusal(torch.float32) or "")
    monkeypatch.setattr(onednn, "product", lambda x, piece, bias: torch.ones(8, 16))
    assert (onednn.refusal(torch.float32) or "").startswith("differs from torch by ")


def test_the_choice_is_measured_once_and_kept(tmp_path: Path, monkeypatch) -> None:
    measured = []

    def measure(dtype):
        measured.append(dtype)
        return [0.5, 2.0, 4.0]

    monkeypatch.setattr(onednn, "_measure", measure)
    folder = tmp_path / "not" / "there"
    assert onednn.is_faster(torch.float32, folder)[0]
    assert "0.50 at 1, 2.00 at 8, 4.00 at 256 tokens" in onednn.is_faster(torch.float32, folder)[1]
    assert measured == [torch.float32]
    (entry,) = folder.iterdir()
    entry.write_text("{")  # a damaged file is measured again and replaced
    assert onednn.is_faster(torch.float32, folder)[0]
    assert len(measured) == 2
    entry.write_text(json.dumps(json.loads(entry.read_text()) | {"threads": 99}))  # another setting
    onednn.is_faster(torch.float32, folder)
    assert len(measured) == 3
    monkeypatch.setattr(onednn, "_measure", lambda dtype: [0.5, 0.5, 1.5])
    assert not onednn.is_faster(torch.bfloat16, folder)[0]


def test_a_measurement_gives_a_ratio_for_each_size() -> None:
    ratios = onednn._measure(torch.float32)
    assert len(ratios) == 3
    assert all(ratio > 0 for ratio in ratios)


def test_the_allocator_is_left_alone_where_asked_or_unknown(monkeypatch) -> None:
    monkeypatch.setenv(allocator.VARIABLE, "0")
    assert allocator.keep_memory() == "left alone, because LLMASOS_CPU_KEEP_MEMORY=0"
    monkeypatch.delenv(allocator.VARIABLE)
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    assert allocator.keep_memory() == "left alone: this is not Linux"
