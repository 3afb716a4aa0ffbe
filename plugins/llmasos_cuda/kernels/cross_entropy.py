"""The loss of a language model and its gradients, a chunk of rows at a time: logits become gradients where they lie.

As in Liger (Hsu et al. 2024): the gradient of every chunk is taken while its logits are there, so no more than a chunk of logits
exists and nothing is computed twice.

Letters: N rows, C rows of a chunk, V vocabulary, I width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from llmasos_cuda.configurations import configuration
from llmasos_cuda.launching import launch, power_of_two


@triton.jit
def loss_kernel(
    logits,
    targets,
    losses,
    weight,
    vocabulary,
    stride,
    ignored,
    BLOCK: tl.constexpr,
):
    """The loss of one row, whose logits become the gradient of it times ``weight`` [1]; both are 0 for the target ``ignored``."""
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + row)
    counted = target != ignored
    begin = logits + row * stride
    step = tl.arange(0, BLOCK)
    peak = tl.full((BLOCK,), float("-inf"), tl.float32)
    mass = tl.zeros((BLOCK,), tl.float32)
    for at in range(0, vocabulary, BLOCK):
        value = tl.load(begin + at + step, mask=at + step < vocabulary, other=float("-inf")).to(tl.float32)
        grown = tl.maximum(peak, value)
        safe = tl.where(grown == float("-inf"), 0.0, grown)
        mass = mass * tl.exp(peak - safe) + tl.exp(value - safe)
        peak = grown
    top = tl.max(peak, axis=0)
    total = top + tl.log(tl.sum(mass * tl.exp(peak - top), axis=0))
    chosen = tl.load(begin + target, mask=counted, other=0.0).to(tl.float32)
    tl.store(losses + row, tl.where(counted, total - chosen, 0.0))
    # Every thread has read the target's logit before any writes over it.
    tl.debug_barrier()
    factor = tl.where(counted, tl.load(weight), 0.0)
    for at in range(0, vocabulary, BLOCK):
        inside = at + step < vocabulary
        value = tl.load(begin + at + step, mask=inside, other=float("-inf")).to(tl.float32)
        slope = tl.exp(value - total) - tl.where(at + step == target, 1.0, 0.0)
        tl.store(begin + at + step, (slope * factor).to(logits.dtype.element_ty), mask=inside)


class LossAndSlopes(NamedTuple):
    """The loss [] float32 and its gradients; those nobody asked for have no elements."""

    loss: Tensor
    x: Tensor
    weight: Tensor
    bias: Tensor


def chunk_rows(rows: int, width: int, vocabulary: int) -> int:
    """Rows whose logits take about as much memory as the input, but enough of them for a good matrix product."""
    chunks = max(1, triton.cdiv(vocabulary, width))
    return max(256, power_of_two(triton.cdiv(rows, chunks)))


def loss_and_slopes(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    ignored: int,
    mean: bool,
    slope_of_x: bool,
    slope_of_weight: bool,
    rows_at_once: int = 0,
) -> LossAndSlopes:
    """Cross-entropy of x [N, I] @ weight [V, I]ᵀ + bias [V] with targets [N], its mean over those that count or its sum.

    ``rows_at_once`` is chosen by ``chunk_rows`` when it is 0. Gradients of weight and bias are summed in float32.
    """
    rows, width = x.shape
    vocabulary = weight.shape[0]
    count = rows_at_once or chunk_rows(rows, width, vocabulary)
    losses = torch.empty(rows, dtype=torch.float32, device=x.device)
    counted = (targets != ignored).sum()
    factor = (
        1.0 / counted.clamp(min=1).float() if mean else torch.ones_like(counted, dtype=torch.float32)
    ).reshape(1)
    x_slope = torch.empty_like(x) if slope_of_x else x.new_empty(0)
    shape = (vocabulary, width) if slope_of_weight else (0,)
    weight_slope = torch.zeros(shape, dtype=torch.float32, device=x.device)
    bias_slope = torch.zeros(
        vocabulary if slope_of_weight and bias is not None else 0, dtype=torch.float32, device=x.device
    )
    chosen = configuration(x, "vocabulary", "row")
    for begin in range(0, rows, count):
        part = slice(begin, min(begin + count, rows))
        logits = F.linear(x[part], weight, bias)  # [C, V]
        launch(
            loss_kernel,
            (logits.shape[0],),
            logits,
            targets[part].contiguous(),
            losses[part],
            factor,
            vocabulary,
            logits.stride(0),
            ignored,
            BLOCK=min(chosen["block"], power_of_two(vocabulary)),
            warps=chosen["warps"],
            stages=chosen["stages"],
        )
        if slope_of_x:
            torch.mm(logits, weight, out=x_slope[part])
        if slope_of_weight:
            weight_slope += logits.t() @ x[part]
            if bias is not None:
                bias_slope += logits.sum(dim=0, dtype=torch.float32)
    loss = losses.sum() * factor.squeeze(0)
    # NaN where no row counts, as everywhere in torch.
    loss = torch.where(counted == 0, torch.nan, loss) if mean else loss
    return LossAndSlopes(loss, x_slope, weight_slope.to(weight.dtype), bias_slope.to(x.dtype))
