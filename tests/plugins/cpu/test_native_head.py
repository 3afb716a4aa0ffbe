"""The native vocabulary head against plain torch in float64, on every instruction set of the machine."""

from __future__ import annotations

import ctypes

import pytest
import torch
from native_builds import LEVELS, native
from torch import Tensor

from llmasos_cpu.structures import HeadStruct

OK, BAD_ARGUMENT, BAD_SHAPE = 0, -1, -2
FP32_MATRIX = FP32_SOURCE = 0


def packed(level: str, weight: Tensor) -> Tensor:
    """Panels of an fp32 matrix, in memory aligned to 64 bytes."""
    library = native(level)
    library.llmc_matrix_bytes.restype = ctypes.c_int64
    outputs, inputs = (ctypes.c_int64(n) for n in weight.shape)
    size = ctypes.c_int64(library.llmc_matrix_bytes(FP32_MATRIX, 0, outputs, inputs))
    held = torch.empty(size.value + 64, dtype=torch.uint8)
    held = held[-held.data_ptr() % 64 :][: size.value]
    memory = ctypes.c_void_p(held.data_ptr())
    assert library.llmc_matrix_begin(FP32_MATRIX, 0, outputs, inputs, memory, size) == OK
    rows = ctypes.c_void_p(weight.data_ptr())
    stride = ctypes.c_int64(weight.stride(0) * 4)
    assert (
        library.llmc_matrix_set_rows(memory, size, ctypes.c_int64(0), outputs, FP32_SOURCE, rows, stride)
        == OK
    )
    return held


def call_for(
    matrix: Tensor, x: Tensor, bias: Tensor | None, targets: Tensor, rows: Tensor | None
) -> tuple[HeadStruct, Tensor, Tensor, Tensor]:
    """(the call, logprobs, sums, best), the results with a canary behind each."""
    logprobs, sums = torch.full((targets.numel() + 1,), 5.0), torch.full((x.shape[0] + 1,), 5.0)
    best = torch.full((x.shape[0] + 1,), 5)
    call = HeadStruct(
        matrix=matrix.data_ptr(),
        x=x.data_ptr(),
        bias=None if bias is None else bias.data_ptr(),
        targets=targets.data_ptr(),
        target_rows=None if rows is None else rows.data_ptr(),
        logprobs=logprobs.data_ptr(),
        sums=sums.data_ptr(),
        best=best.data_ptr(),
        rows=x.shape[0],
        x_stride=x.stride(0),
        target_count=targets.numel(),
        x_type=1 if x.dtype == torch.bfloat16 else 0,
    )
    call.kept = (x, targets, rows)  # what it points at must outlive it
    return call, logprobs, sums, best


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
def test_targets_sums_and_the_best(level: str, bias: bool) -> None:
    torch.manual_seed(0)
    for vocabulary, width, rows in ((1, 5, 3), (31, 16, 1), (1000, 24, 300), (2100, 7, 30), (5000, 8, 1100)):
        weight, x = torch.randn(vocabulary, width), torch.randn(rows, width + 3)[:, :width]
        shift = torch.randn(vocabulary) * 3 if bias else None
        matrix = packed(level, weight)
        logits = x.double() @ weight.double().T + (0 if shift is None else shift.double())
        # Several targets in some rows, none in others; and one for each row.
        picked = torch.randint(rows, (2 * rows,)).sort().values
        for target_rows in (picked, None):
            row = torch.arange(rows) if target_rows is None else target_rows
            targets = torch.randint(vocabulary, (row.numel(),))
            call, logprobs, sums, best = call_for(matrix, x, shift, targets, target_rows)
            assert native(level).llmc_head(ctypes.byref(call)) == OK
            assert (logprobs[-1], sums[-1], best[-1]) == (5, 5, 5)
            expected = logits.log_softmax(-1)[row, targets]
            torch.testing.assert_close(logprobs[:-1].double(), expected, rtol=2e-6, atol=1e-5)
            torch.testing.assert_close(sums[:-1].double(), logits.logsumexp(-1), rtol=2e-6, atol=1e-5)
            # Rounding may only choose among scores as good as equal.
            chosen = logits.gather(1, best[:-1, None])[:, 0]
            torch.testing.assert_close(chosen, logits.amax(-1), rtol=1e-6, atol=1e-5)
            # The best alone, without sums.
            alone = HeadStruct.from_buffer_copy(call)
            again = torch.full((rows,), -7)
            alone.best, alone.logprobs, alone.sums, alone.target_count = again.data_ptr(), None, None, 0
            assert native(level).llmc_head(ctypes.byref(alone)) == OK
            assert torch.equal(again, best[:-1])


@pytest.mark.parametrize("level", LEVELS)
def test_the_first_of_equal_scores_is_the_best(level: str) -> None:
    weight = torch.zeros(3000, 4)
    for places in ((7, 8), (40, 2999), (600, 1300), (511, 512)):
        weight.zero_()
        weight[list(places)] = 1.0
        matrix, x = packed(level, weight), torch.ones(2, 4)
        x[1] = 0.0
        call, _, sums, best = call_for(matrix, x, None, torch.tensor([0, 0]), None)
        assert native(level).llmc_head(ctypes.byref(call)) == OK
        assert best[:2].tolist() == [places[0], 0]
        torch.testing.assert_close(sums[1], torch.tensor(3000.0).log())


@pytest.mark.parametrize("level", LEVELS)
def test_extreme_scores(level: str) -> None:
    """Scores far apart, minus infinity, and what is not a number, which may not be lost."""
    weight = torch.randn(700, 1).abs() + 1
    weight[650] = 1e4
    matrix = packed(level, weight)
    x = torch.tensor([[1.0], [-1.0], [torch.nan], [3e30]])
    targets = torch.tensor([650, 650, 0, 650])
    call, logprobs, sums, best = call_for(matrix, x, None, targets, None)
    assert native(level).llmc_head(ctypes.byref(call)) == OK
    logits = x.double() @ weight.double().T
    expected = logits.log_softmax(-1)[torch.arange(4), targets]
    torch.testing.assert_close(logprobs[:-1].double(), expected, rtol=1e-6, atol=1e-5, equal_nan=True)
    assert best[:-1].tolist() == logits.argmax(-1).tolist()
    bias = torch.zeros(700)
    bias[:600] = -torch.inf
    call, logprobs, sums, best = call_for(matrix, x[:2], bias, targets[:2], None)
    assert native(level).llmc_head(ctypes.byref(call)) == OK
    torch.testing.assert_close(sums[:2].double(), (logits[:2] + bias).logsumexp(-1))
    assert best[:2].tolist() == (logits[:2] + bias).argmax(-1).tolist()


@pytest.mark.parametrize("level", LEVELS)
def test_results_do_not_depend_on_the_number_of_threads(level: str) -> None:
    torch.manual_seed(1)
    weight, x = torch.randn(4001, 33), torch.randn(270, 33)
    matrix, targets = packed(level, weight), torch.randint(4001, (270,))
    results = []
    try:
        for threads in (1, 2, 5):
            assert native(level).llmc_set_threads(threads) == OK
            call, *found = call_for(matrix, x, None, targets, None)
            assert native(level).llmc_head(ctypes.byref(call)) == OK
            results.append(found)
    finally:
        native(level).llmc_set_threads(2)
    for others in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], others, strict=True))


@pytest.mark.parametrize(
    ("field", "value", "status"),
    [
        ("matrix", None, BAD_ARGUMENT),
        ("x", None, BAD_ARGUMENT),
        ("rows", -1, BAD_ARGUMENT),
        ("target_count", -1, BAD_ARGUMENT),
        ("target_count", 5, BAD_SHAPE),
        ("targets", None, BAD_ARGUMENT),
        ("logprobs", None, BAD_ARGUMENT),
        ("x_type", 5, BAD_ARGUMENT),
        ("x_stride", 3, BAD_SHAPE),
    ],
)
def test_what_does_not_fit_is_refused(field: str, value: int | None, status: int) -> None:
    matrix = packed("portable", torch.randn(10, 4))
    call, *_ = call_for(matrix, torch.randn(4, 4), None, torch.tensor([0, 9, 3, 1]), None)
    assert native("portable").llmc_head(ctypes.byref(call)) == OK
    setattr(call, field, value)
    assert native("portable").llmc_head(ctypes.byref(call)) == status


@pytest.mark.parametrize(
    ("targets", "rows"), [([10], [0]), ([-1], [0]), ([0, 0], [1, 0]), ([0], [4]), ([0], [-1])], ids=str
)
def test_targets_outside_are_refused(targets: list[int], rows: list[int]) -> None:
    matrix = packed("portable", torch.randn(10, 4))
    call, *_ = call_for(matrix, torch.randn(4, 4), None, torch.tensor(targets), torch.tensor(rows))
    assert native("portable").llmc_head(ctypes.byref(call)) == BAD_SHAPE
