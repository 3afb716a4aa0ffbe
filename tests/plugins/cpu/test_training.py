"""Training on the CPU: values and gradients against float64, whatever the shape, layout, targets and threads."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llmasos.api import AttentionLayout, UsageError
from llmasos_cpu import training_loss
from llmasos_cpu.library import Absence, library
from llmasos_cpu.training import CpuTrainingKernels
from llmasos_cpu.training_ops import operators
from llmasos_cpu.training_products import Products, products, transposed

EXACT, FAST = CpuTrainingKernels(half=False), CpuTrainingKernels(half=True)


def made(*shape: int, seed: int = 0, gaps: bool = False) -> Tensor:
    """Random numbers that a gradient is wanted of; with gaps between them in memory."""
    numbers = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return (numbers.repeat_interleave(2, -1)[..., ::2] if gaps else numbers).requires_grad_()


def agree(mine, wanted, arguments: tuple[Tensor | None, ...], allowed: float) -> None:
    """Values and gradients of ``mine`` in float32 are those of ``wanted`` in float64, relative to the largest."""
    wide = [None if x is None else x.detach().double().requires_grad_() for x in arguments]
    found, expected = mine(*arguments), wanted(*wide)
    slope = torch.randn(expected.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    given = [x for x in arguments if x is not None]
    found_all = [found, *torch.autograd.grad(found, given, slope.float())]
    expected_all = [expected, *torch.autograd.grad(expected, [x for x in wide if x is not None], slope)]
    for one, other in zip(found_all, expected_all, strict=True):
        assert one.shape == other.shape
        size = float(other.detach().abs().max()) if other.numel() else 0.0
        torch.testing.assert_close(one.double(), other, rtol=0, atol=allowed * max(size, 1.0))


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"),
    [(0, 8, 8), (1, 3, 5), (7, 31, 33), (16, 64, 32), (65, 96, 130), (130, 33, 64), (257, 160, 96)],
)
def test_a_linear_layer_is_differentiated(
    rows: int, inputs: int, outputs: int, bias: bool, gaps: bool
) -> None:
    x, weight = made(rows, inputs, gaps=gaps), made(outputs, inputs, seed=1, gaps=gaps)
    shift = made(outputs, seed=2) if bias else None
    agree(EXACT.linear, F.linear, (x, weight, shift), 2e-6)
    agree(FAST.linear, F.linear, (x, weight, shift), 2e-2)


def test_torch_computes_where_there_is_no_library() -> None:
    x, weight, slope = made(70, 64).detach(), made(40, 64, seed=1).detach(), made(70, 40, seed=2).detach()
    mine, plain = products(False), Products(False, None)
    for found, wanted in (
        (mine.forward(x, weight, None), plain.forward(x, weight, None)),
        (mine.input_slope(slope, weight), plain.input_slope(slope, weight)),
        (mine.weight_slope(slope, x), plain.weight_slope(slope, x)),
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1), (31, 64), (64, 32), (33, 96), (40, 45)])
def test_transposes(shape: tuple[int, int]) -> None:
    x = made(*shape).detach()
    assert torch.equal(transposed(x), x.t())
    native = products(False)
    if native.native is not None:
        assert torch.equal(native.packed_transpose(x).plain(), x.t())


def loss_of(targets: Tensor, **options):
    mean, smoothing = options.get("mean", True), options.get("smoothing", 0.0)

    def wanted(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.cross_entropy(
            F.linear(x, weight, bias),
            targets,
            ignore_index=-100,
            reduction="mean" if mean else "sum",
            label_smoothing=smoothing,
        )

    return wanted


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("rows", "inputs", "vocabulary"), [(1, 3, 2), (40, 32, 65), (150, 64, 300)])
def test_the_loss_is_differentiated(
    rows: int, inputs: int, vocabulary: int, bias: bool, mean: bool, smoothing: float, monkeypatch
) -> None:
    monkeypatch.setattr(training_loss, "_LOGITS", 64 * vocabulary)  # chunks of 64 rows
    monkeypatch.setattr(training_loss, "_PIECE", 128)
    targets = torch.arange(rows) * 7 % vocabulary
    targets[1::3] = -100
    arguments = (
        made(rows, inputs, gaps=True),
        made(vocabulary, inputs, seed=1),
        made(vocabulary, seed=2) if bias else None,
    )
    options = {"mean": mean, "smoothing": smoothing}
    for kernels, allowed in ((EXACT, 3e-6), (FAST, 3e-2)):
        agree(
            lambda *a, kernels=kernels: kernels.linear_cross_entropy(*a[:3], targets, **options),
            loss_of(targets, **options),
            arguments,
            allowed,
        )


@pytest.mark.parametrize("rows", [0, 5])
def test_a_loss_without_targets(rows: int) -> None:
    x, weight = made(rows, 8), made(6, 8, seed=1)
    targets = torch.full((rows,), -100)
    assert EXACT.linear_cross_entropy(x, weight, None, targets).isnan()
    total = EXACT.linear_cross_entropy(x, weight, None, targets, mean=False)
    assert total.item() == 0.0
    assert not any(slope.any() for slope in torch.autograd.grad(total, (x, weight)))


def test_large_scores_and_certain_mistakes_stay_finite() -> None:
    x, weight = 40 * torch.eye(4), 40 * torch.eye(4)
    targets = torch.tensor([1, 0, 3, 2])
    found = EXACT.linear_cross_entropy(x.requires_grad_(), weight.requires_grad_(), None, targets)
    torch.testing.assert_close(found, torch.tensor(1600.0))
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(found, (x, weight)))


@pytest.mark.parametrize("target", [-1, 6])
def test_a_target_outside_the_vocabulary_is_refused(target: int) -> None:
    with pytest.raises(IndexError, match="vocabulary of 6"):
        EXACT.linear_cross_entropy(made(1, 8), made(6, 8), None, torch.tensor([target]))


@pytest.mark.parametrize("needs", ["x", "weight", "nothing"])
def test_only_the_gradients_that_are_wanted(needs: str) -> None:
    x, weight = made(20, 32), made(40, 32, seed=1)
    x.requires_grad_(needs == "x")
    weight.requires_grad_(needs == "weight")
    targets = torch.arange(20)
    for found in (EXACT.linear(x, weight, None).sum(), EXACT.linear_cross_entropy(x, weight, None, targets)):
        assert found.requires_grad == (needs != "nothing")
        if needs != "nothing":
            found.backward()
    assert (x.grad is not None, weight.grad is not None) == (needs == "x", needs == "weight")


def test_the_loss_times_a_number() -> None:
    x, weight, targets = made(20, 32), made(40, 32, seed=1), torch.arange(20)
    agree(
        lambda x, weight: 3 * EXACT.linear_cross_entropy(x, weight, None, targets),
        lambda x, weight: 3 * F.cross_entropy(F.linear(x, weight), targets),
        (x, weight),
        3e-6,
    )


def test_weights_written_in_place_are_seen() -> None:
    x, weight = made(20, 32), made(40, 32, seed=1)
    before = EXACT.linear(x, weight, None)
    weight.data.mul_(2)
    torch.testing.assert_close(EXACT.linear(x, weight, None), 2 * before)


@pytest.mark.skipif(isinstance(library(), Absence), reason="there is no native library here")
def test_the_number_of_threads_changes_nothing() -> None:
    if products(False).native is None:
        pytest.skip("torch computes on this machine")
    x, weight, targets = made(200, 96), made(300, 96, seed=1), torch.arange(200)
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            y = EXACT.linear(x, weight, None)
            found.append((y, *torch.autograd.grad(y, (x, weight), y.detach())))
            loss = EXACT.linear_cross_entropy(x, weight, None, targets)
            found[-1] += (loss, *torch.autograd.grad(loss, (x, weight)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("starts", [(0, 5, 10), (0, 3, 3, 10), (0, 10)])
def test_attention_is_differentiated(starts: tuple[int, ...], causal: bool) -> None:
    layout = AttentionLayout(q_starts=starts, k_starts=starts, causal=causal)
    q, k, v = made(starts[-1], 4, 8), made(starts[-1], 2, 8, seed=1), made(starts[-1], 2, 8, seed=2)

    def wanted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        which = torch.bucketize(torch.arange(starts[-1]), torch.tensor(starts[1:]), right=True)
        seen = which[:, None] == which[None]
        k, v = (x.repeat_interleave(2, 1) for x in (k, v))
        scores = torch.einsum("nhe,mhe->hnm", q, k) * 0.3
        scores = scores.masked_fill(~(seen.tril() if causal else seen), -torch.inf)
        return torch.einsum("hnm,mhe->nhe", scores.softmax(-1), v)

    agree(lambda *a: EXACT.attention(*a, layout, 0.3), wanted, (q, k, v), 1e-5)


def test_attention_of_nothing() -> None:
    layout = AttentionLayout((0, 0), (0, 0), True)
    assert EXACT.attention(made(0, 4, 8), made(0, 2, 8), made(0, 2, 8), layout, 1.0).shape == (0, 4, 8)


def test_attention_over_a_cache_is_refused() -> None:
    layout = AttentionLayout((0, 2), (0,), True, k_lengths=(4,))
    with pytest.raises(UsageError, match="derivative"):
        EXACT.attention(made(2, 2, 8), made(8, 2, 8), made(8, 2, 8), layout, 1.0)


#: What torch asks of an operator without loading its compiler, which takes eight seconds; and all of it.
LIGHT = ("test_schema", "test_autograd_registration", "test_faketensor")
WHOLE = (*LIGHT, "test_aot_dispatch_dynamic")


@pytest.mark.parametrize(
    "asked", [LIGHT, pytest.param(WHOLE, marks=pytest.mark.slow)], ids=["light", "whole"]
)
@pytest.mark.parametrize("half", [False, True])
def test_the_operators_are_as_torch_wants_them(half: bool, asked: tuple[str, ...]) -> None:
    x, weight, bias, targets = made(20, 32), made(40, 32, seed=1), made(40, seed=2), torch.arange(20)
    known, allowed = operators(), 0.05 if half else 1e-4

    def check(operator, *arguments) -> None:
        torch.library.opcheck(operator.default, arguments, test_utils=asked, rtol=allowed, atol=allowed)

    check(known.linear, x, weight, bias, half)
    slope = made(20, 40, seed=3).detach()
    check(known.linear_backward, slope, x.detach(), weight.detach(), half, True, True)
    check(known.linear_cross_entropy, x, weight, bias, targets, -100, True, 0.1, True, True, half)


@pytest.mark.slow
def test_a_block_is_compiled_whole() -> None:
    layout = AttentionLayout((0, 8, 16), (0, 8, 16), True)
    weights = [made(32, 32, seed=seed) for seed in range(4)]
    x, head, targets = made(16, 32, seed=5), made(50, 32, seed=6), torch.arange(16)

    def block(x: Tensor) -> Tensor:
        q, k, v = (EXACT.linear(x, weight, None).view(16, 2, 16) for weight in weights[:3])
        mixed = EXACT.attention(q, k, v, layout, 0.25).flatten(1)
        return EXACT.linear_cross_entropy(x + EXACT.linear(mixed, weights[3], None), head, None, targets)

    wanted, found = block(x), torch.compile(block, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(found, wanted)
    for one, other in zip(
        torch.autograd.grad(found, [x, head, *weights]),
        torch.autograd.grad(wanted, [x, head, *weights]),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
