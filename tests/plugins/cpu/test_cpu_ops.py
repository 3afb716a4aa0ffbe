"""The ops of the CPU back end as models call them: every one equals the reference, on plain and on packed weights."""

from __future__ import annotations

import pytest
import torch

from llmasos.api import OP_NAMES, WEIGHT_OPS, PackedWeight, QuantisedWeight, UsageError, WeightsError
from llmasos.pipelines.opcheck import compare, packed, unpacked
from llmasos_cpu import packing, weights
from llmasos_cpu.backend import CpuBackend
from llmasos_cpu.library import Absence, Library, library
from llmasos_transformer import ops as reference

DTYPES = ("float32", "bfloat16")
found = library()
needs_library = pytest.mark.skipif(isinstance(found, Absence), reason="there is no native library here")


def op_of(name: str):
    if name in WEIGHT_OPS:
        return getattr(weights, name)
    from llmasos_cpu import native_ops

    return getattr(native_ops, name)


@needs_library
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", OP_NAMES)
def test_every_op_gives_the_numbers_of_the_reference(op: str, dtype: str) -> None:
    one = compare(op, op_of(op), getattr(reference, op), device="cpu", dtype=dtype, thorough=True)
    assert one.problem is None
    assert one.difference <= 2e-5


@needs_library
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", WEIGHT_OPS)
def test_packed_weights_give_the_numbers_of_the_reference(op: str, dtype: str) -> None:
    call = packed(op, op_of(op), CpuBackend().pack)
    one = compare(op, call, getattr(reference, op), device="cpu", dtype=dtype, thorough=True)
    assert one.problem is None
    assert one.difference <= 2e-5


@needs_library
@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("op", WEIGHT_OPS)
def test_quantised_weights_give_what_their_numbers_give(tmp_path, op: str, dtype: str) -> None:
    one = CpuBackend()
    one.prepare("cpu", dtype, tmp_path)
    call, plain = packed(op, op_of(op), one.pack), unpacked(op, getattr(reference, op), one.pack)
    found = compare(op, call, plain, device="cpu", dtype=dtype, thorough=True)
    assert found.problem is None
    assert found.difference <= 2e-3


@needs_library
@pytest.mark.parametrize(
    ("dtype", "bits", "error"), [("int8", 8.3, 0.008), ("int4", 5.2, 0.09)], ids=["int8", "int4"]
)
def test_quantised_weights_are_small_and_close(tmp_path, dtype: str, bits: float, error: float) -> None:
    one = CpuBackend()
    one.prepare("cpu", dtype, tmp_path)
    torch.manual_seed(2)
    weight = torch.randn(512, 256)
    found = one.pack(weight, False)
    assert isinstance(found, QuantisedWeight)
    assert found.nbytes * 8 / weight.numel() < bits
    distance = (found.plain() - weight).pow(2).mean().sqrt()
    assert 0 < distance < error
    # What was quantised once is not changed by quantising it again.
    again = one.pack(found.plain(), False)
    assert isinstance(again, QuantisedWeight)
    torch.testing.assert_close(again.plain(), found.plain(), atol=2e-3, rtol=0)
    # A table that is looked up keeps eight bits.
    table = one.pack(weight, True)
    assert isinstance(table, QuantisedWeight)
    assert (table.plain() - weight).abs().max() < 0.03


@needs_library
@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_refused_when_they_are_quantised(tmp_path, dtype, value) -> None:
    one = CpuBackend()
    one.prepare("cpu", dtype, tmp_path)
    weight = torch.ones(4, 64)
    weight[2, 5] = value
    with pytest.raises(WeightsError, match=r"\[4, 64\] holds NaN or infinity"):
        one.pack(weight, False)


@needs_library
def test_weights_that_four_bits_have_no_scale_for_are_refused(tmp_path) -> None:
    one = CpuBackend()
    one.prepare("cpu", "int4", tmp_path)
    with pytest.raises(WeightsError, match="65,504"):
        one.pack(torch.full((4, 64), 1e6), False)


@needs_library
def test_a_packed_matrix_is_one_copy_of_its_numbers() -> None:
    assert isinstance(found, Library)
    table = torch.randn(320, 64)
    one = packing.pack(found, table, "fp32")
    assert isinstance(one, PackedWeight)
    assert (one.outputs, one.inputs) == (320, 64)
    assert table.nbytes <= one.nbytes < 1.05 * table.nbytes
    assert torch.equal(one.rows(torch.tensor([319, 0, 7])), table[[319, 0, 7]])
    half = packing.pack(found, table.bfloat16(), "bf16")
    assert half.nbytes < 0.55 * table.nbytes
    assert torch.equal(half.rows(torch.tensor([319, 0, 7])), table.bfloat16()[[319, 0, 7]])


@needs_library
def test_what_does_not_fit_is_an_error_and_not_a_crash() -> None:
    from llmasos_cpu import native_ops

    assert isinstance(found, Library)
    one = packing.pack(found, torch.randn(32, 16), "fp32")
    with pytest.raises(IndexError, match="32"):
        one.rows(torch.tensor([32]))
    with pytest.raises(IndexError, match="32"):
        one.rows(torch.tensor([-1]))
    with pytest.raises(ValueError, match="vocabulary of 32"):
        weights.token_logprobs(torch.randn(2, 16), one, None, torch.tensor([0, 32]))
    with pytest.raises(UsageError, match="swish"):
        native_ops.activation(torch.ones(2, 2), "swish")
    with pytest.raises(WeightsError, match=r"\[4, 32\] holds NaN"):
        packing.pack(found, torch.full((4, 32), torch.nan), "int8")


@needs_library
def test_the_library_computes_with_the_threads_of_torch() -> None:
    assert isinstance(found, Library)
    before = torch.get_num_threads()
    one = packing.pack(found, torch.randn(32, 16), "fp32")
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            one.product(torch.randn(3, 16), None)
            assert found.functions.llmc_threads() == count
    finally:
        torch.set_num_threads(before)


@needs_library
def test_a_row_is_the_same_in_every_batch_whatever_the_threads() -> None:
    assert isinstance(found, Library)
    torch.manual_seed(5)
    before = torch.get_num_threads()
    one = packing.pack(found, torch.randn(200, 130), "fp32")
    x = torch.randn(300, 130)
    alone = torch.cat([one.product(x[row : row + 1], None) for row in range(0, 300, 7)])
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert torch.equal(one.product(x, None)[::7], alone)
    finally:
        torch.set_num_threads(before)


def test_without_the_library_the_tier_is_another_and_says_why(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("llmasos_cpu.backend.library", lambda: Absence("not-built", "there was no compiler"))
    one = CpuBackend()
    one.prepare("cpu", "float32", tmp_path)
    facts = one.facts()
    assert facts["tier"] in ("oneDNN", "plain torch")
    assert facts["native"] == "there was no compiler"
    assert "speed against torch" in facts["oneDNN"]
    weight = torch.randn(8, 8)
    assert isinstance(one.pack(weight, False), PackedWeight) == (facts["tier"] == "oneDNN")
