"""Log-probabilities under a vocabulary head without its logits: a tile of them at a time, reduced where it was computed.

Letters: R rows, M targets, V vocabulary, C tiles of the vocabulary, I width.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from llmasos_cuda.configurations import configuration
from llmasos_cuda.kernels.product import multiply
from llmasos_cuda.launching import dense_rows, launch, power_of_two


@triton.jit
def head_kernel(
    x,
    weight,
    steps,
    least,
    bias,
    peaks,
    masses,
    places,
    rows,
    vocabulary,
    inputs,
    tiles,
    x_stride,
    weight_stride,
    KIND: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Of one tile of logits, for each row: the largest, the sum of exp(logit - largest), and its token; [R, C] each."""
    # Programs that follow each other share a tile of the vocabulary, which is the larger of the two to read.
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    tile = tl.program_id(1)
    token = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    known = token < vocabulary
    logits = multiply(
        x, weight, steps, least, row, token, rows, vocabulary, inputs, x_stride, weight_stride, KIND, BLOCK_K
    )
    if bias is not None:
        logits += tl.load(bias + token, mask=known, other=0.0).to(tl.float32)[None, :]
    logits = tl.where(known[None, :], logits, float("-inf"))
    peak = tl.max(logits, axis=1)
    # The first of equal ones, as the definition has it.
    place = tl.min(tl.where(logits == peak[:, None], token[None, :], 2147483647), axis=1)
    mass = tl.sum(tl.exp(logits - peak[:, None]), axis=1)
    at = row.to(tl.int64) * tiles + tile
    live = row < rows
    tl.store(peaks + at, peak, mask=live)
    tl.store(masses + at, mass, mask=live)
    tl.store(places + at, place, mask=live)


@triton.jit
def merge_kernel(
    peaks,
    masses,
    places,
    totals,
    best,
    tiles,
    BLOCK: tl.constexpr,
):
    """The log-sum-exp and the arg-max of one row, from its tiles."""
    row = tl.program_id(0).to(tl.int64)
    step = tl.arange(0, BLOCK)
    peak = tl.full((BLOCK,), float("-inf"), tl.float32)
    mass = tl.zeros((BLOCK,), tl.float32)
    place = tl.full((BLOCK,), 2147483647, tl.int32)
    for at in range(0, tiles, BLOCK):
        inside = at + step < tiles
        here = row * tiles + at + step
        level = tl.load(peaks + here, mask=inside, other=float("-inf"))
        found = tl.load(places + here, mask=inside, other=2147483647)
        grown = tl.maximum(peak, level)
        safe = tl.where(grown == float("-inf"), 0.0, grown)
        mass = mass * tl.exp(peak - safe) + tl.load(masses + here, mask=inside, other=0.0) * tl.exp(
            level - safe
        )
        # Tiles come in order, so an equal one later does not replace an earlier one.
        place = tl.where(level > peak, found, place)
        peak = grown
    top = tl.max(peak, axis=0)
    total = tl.sum(mass * tl.exp(peak - top), axis=0)
    tl.store(totals + row, top + tl.log(total))
    tl.store(best + row, tl.min(tl.where(peak == top, place, 2147483647), axis=0).to(tl.int64))


@triton.jit
def target_kernel(
    x,
    weight,
    bias,
    row_of,
    token_of,
    targets,
    totals,
    out,
    inputs,
    x_stride,
    weight_stride,
    BLOCK: tl.constexpr,
):
    """The log-probability of one target: its logit less the log-sum-exp of its row.

    Row ``token_of`` of ``weight`` belongs to token ``targets``: they are the same unless the rows were looked up before.
    """
    target = tl.program_id(0)
    row, token = tl.load(row_of + target), tl.load(token_of + target)
    step = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for at in range(0, inputs, BLOCK):
        inside = at + step < inputs
        left = tl.load(x + row * x_stride + at + step, mask=inside, other=0.0).to(tl.float32)
        right = tl.load(weight + token * weight_stride + at + step, mask=inside, other=0.0).to(tl.float32)
        total += left * right
    logit = tl.sum(total, axis=0)
    if bias is not None:
        logit += tl.load(bias + tl.load(targets + target)).to(tl.float32)
    tl.store(out + target, logit - tl.load(totals + row))


def head_sums(
    x: Tensor, weight: Tensor, steps: Tensor | None, least: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(log-sum-exp [R] float32, arg-max [R] int64) of x [R, I] @ Wᵀ + bias [V], W plain or packed."""
    x = dense_rows(x)
    rows, inputs = x.shape
    vocabulary = weight.shape[0]
    kind = "plain" if steps is None else "int8" if least is None else "int4"
    wide = ".wide" if x.dtype == torch.float32 else ""
    chosen = configuration(x, "head", kind + wide)
    tiles = triton.cdiv(vocabulary, chosen["outputs"])
    peaks = torch.empty((rows, tiles), dtype=torch.float32, device=x.device)
    masses = torch.empty_like(peaks)
    places = torch.empty((rows, tiles), dtype=torch.int32, device=x.device)
    launch(
        head_kernel,
        (triton.cdiv(rows, chosen["rows"]), tiles),
        x,
        dense_rows(weight),
        steps,
        least,
        None if bias is None else bias.contiguous(),
        peaks,
        masses,
        places,
        rows,
        vocabulary,
        inputs,
        tiles,
        x.stride(0),
        dense_rows(weight).stride(0),
        KIND=kind,
        BLOCK_M=chosen["rows"],
        BLOCK_N=chosen["outputs"],
        BLOCK_K=chosen["inner"],
        warps=chosen["warps"],
        stages=chosen["stages"],
    )
    totals = torch.empty(rows, dtype=torch.float32, device=x.device)
    best = torch.empty(rows, dtype=torch.int64, device=x.device)
    block = min(1024, power_of_two(tiles))
    launch(merge_kernel, (rows,), peaks, masses, places, totals, best, tiles, BLOCK=block, warps=4, stages=1)
    return totals, best


def target_logprobs(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    row_of: Tensor,
    token_of: Tensor,
    targets: Tensor,
    totals: Tensor,
) -> Tensor:
    """x[row_of] · weight[token_of] + bias[targets] - totals[row_of], [M] float32."""
    x, weight = dense_rows(x), dense_rows(weight)
    out = torch.empty(targets.shape, dtype=torch.float32, device=x.device)
    launch(
        target_kernel,
        (targets.shape[0],),
        x,
        weight,
        None if bias is None else bias.contiguous(),
        row_of.contiguous(),
        token_of.contiguous(),
        targets.contiguous(),
        totals,
        out,
        x.shape[1],
        x.stride(0),
        weight.stride(0),
        BLOCK=min(1024, power_of_two(x.shape[1])),
        warps=4,
        stages=1,
    )
    return out
