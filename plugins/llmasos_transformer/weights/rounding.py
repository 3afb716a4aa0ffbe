"""Matrices in the blocks of GGUF: numbers of 32 inputs at a time, rounded so that products change least.

Letters: O outputs, I inputs, a multiple of 32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos.api import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

#: Numbers of a block.
GROUP = 32
#: Rows that are rounded at a time: what is compared with one another stays in the cache.
_ROWS = 1024
#: Ranges tried for a block, in steps of the grid: a little less than its numbers span, up to a little more.
_SPANS = (15.0, 14.0, 14.25, 14.5, 14.75, 15.5, 16.0, 13.5, 13.0)
#: What is added to the diagonal of moments, of its mean: without it, inputs that are never seen could do anything.
_DAMPING = 0.01
#: Largest number of float16.
_LARGEST = 65504.0


def eight_bits(weight: Tensor) -> Tensor:
    """``weight`` [O, I] in Q8_0 blocks, [O, I / 32 * 34] uint8: a float16 step and 32 whole numbers. Raises WeightsError."""
    import torch

    numbers = _checked(weight, 127.0).view(weight.shape[0], -1, GROUP)
    step = (numbers.abs().amax(dim=-1, keepdim=True) / 127).half()
    whole = torch.where(step > 0, numbers / step.float(), 0).round_().clamp_(-127, 127).to(torch.int8)
    return torch.cat([step.view(torch.uint8), whole.view(torch.uint8)], dim=-1).flatten(1)


def four_bits(weight: Tensor, moments: Tensor | None = None) -> Tensor:
    """``weight`` [O, I] in Q4_1 blocks, [O, I / 32 * 20] uint8: a float16 step, a float16 least number, and 32 numbers of steps.

    ``moments`` are those of the inputs: [I, I] has every input's error made up for by those after it (Frantar et al. 2023),
    [I] weighs errors; without them they weigh the same. Raises WeightsError for numbers that float16 does not reach, and for
    NaN.
    """
    import torch

    numbers = _checked(weight, 1.0)
    if moments is not None and moments.dim() == 2:
        return _compensated(numbers, moments)
    weights = torch.ones(weight.shape[1]) if moments is None else _positive(moments)
    pieces = []
    for piece in numbers.split(_ROWS):
        blocks = piece.view(len(piece), -1, GROUP)
        step, least = _grid(blocks, weights.view(1, -1, GROUP).expand_as(blocks))
        pieces.append(_blocks(step, least, _steps(blocks, step, least)))
    return torch.cat(pieces)


def _checked(weight: Tensor, most: float) -> Tensor:
    numbers = weight.float().contiguous()
    largest = float(numbers.abs().amax()) if numbers.numel() else 0.0
    if not largest <= most * _LARGEST:  # NaN is not, either
        what = "a number beyond what float16 steps reach" if largest > 0 else "NaN"
        raise WeightsError(
            f"a matrix {list(weight.shape)} holds {what} and cannot be quantised",
            hint="mend the checkpoint; `--dtype exact` shows what it computes",
        )
    return numbers


def _positive(squares: Tensor) -> Tensor:
    """Weights of errors: those of inputs that are never seen are small, not zero."""
    return squares / squares.mean().clamp(min=1e-30) + _DAMPING


def _steps(blocks: Tensor, step: Tensor, least: Tensor) -> Tensor:
    """Whole numbers 0 to 15 for ``blocks`` [..., 32], as float32."""
    import torch

    return torch.where(step > 0, (blocks - least) / step, 0).round_().clamp_(0, 15)


def _grid(blocks: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(step, least number) [..., 1] float16 numbers as float32, of those tried the ones with the least weighted squared error
    over ``blocks`` [..., 32]: each is fitted to the whole numbers that a span gives."""
    import torch

    low, high = blocks.aminmax(dim=-1, keepdim=True)
    total = weights.sum(dim=-1, keepdim=True)
    middle = (weights * blocks).sum(dim=-1, keepdim=True) / total
    best = torch.full_like(low, torch.inf)
    step, least = torch.zeros_like(low), low.half().float()
    for span in _SPANS:
        whole = _steps(blocks, (high - low) / span, low)
        mean = (weights * whole).sum(dim=-1, keepdim=True) / total
        off = weights * (whole - mean)
        spread = (off * (whole - mean)).sum(dim=-1, keepdim=True)
        slope = torch.where(spread > 0, (off * (blocks - middle)).sum(dim=-1, keepdim=True) / spread, 0)
        one_step, one_least = slope.half().float(), (middle - slope * mean).half().float()
        whole = _steps(blocks, one_step, one_least)
        error = (weights * (whole * one_step + one_least - blocks).square()).sum(dim=-1, keepdim=True)
        better = error < best
        best, step = torch.where(better, error, best), torch.where(better, one_step, step)
        least = torch.where(better, one_least, least)
    return step, least


def _compensated(numbers: Tensor, moments: Tensor) -> Tensor:
    """Column by column, what is lost of one being added to those after it as the moments say (GPTQ, with a grid a block)."""
    import torch

    left = numbers.clone()
    inputs = left.shape[1]
    diagonal = moments.diagonal().clone()
    damped = moments + torch.diag((diagonal == 0).float() + _DAMPING * diagonal.mean().clamp(min=1e-30))
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    weights, blocks = _positive(diagonal), []
    for begin in range(0, inputs, GROUP):
        end = begin + GROUP
        columns = left[:, begin:end].clone()
        step, least = _grid(columns, weights[None, begin:end].expand_as(columns))
        whole, errors = torch.empty_like(columns), torch.empty_like(columns)
        for place in range(GROUP):
            one = columns[:, place : place + 1]
            whole[:, place : place + 1] = found = _steps(one, step, least)
            lost = (one - (found * step + least)) / inverse[begin + place, begin + place]
            errors[:, place : place + 1] = lost
            columns[:, place:] -= lost @ inverse[begin + place : begin + place + 1, begin + place : end]
        left[:, end:] -= errors @ inverse[begin:end, end:]
        blocks.append(_blocks(step[:, None], least[:, None], whole[:, None]))
    return torch.cat(blocks, dim=1)


def _blocks(step: Tensor, least: Tensor, whole: Tensor) -> Tensor:
    """Bytes [O, blocks * 20] of steps and least numbers [O, blocks, 1] and whole numbers [O, blocks, 32]."""
    import torch

    low, high = whole.to(torch.uint8).chunk(2, dim=-1)
    halves = (step.half().contiguous(), least.half().contiguous())
    return torch.cat([*(half.view(torch.uint8) for half in halves), low | high << 4], dim=-1).flatten(1)
