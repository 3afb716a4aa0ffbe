"""Norms, alone or with the sum before them: a row a program.

Letters: N rows, I width.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from llmasos_cuda.launching import dense_rows, launch, power_of_two


@triton.jit
def norm_kernel(
    x,
    delta,
    weight,
    bias,
    out,
    total,
    width,
    eps,
    x_stride,
    delta_stride,
    out_stride,
    total_stride,
    CENTRED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out = norm(x + delta) * weight + bias, and total = x + delta; one row, statistics in float32."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    value = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    if delta is not None:
        value += tl.load(delta + row * delta_stride + column, mask=inside, other=0.0).to(tl.float32)
        kept = value.to(total.dtype.element_ty)
        tl.store(total + row * total_stride + column, kept, mask=inside)
        # The norm reads the sum as the next layer will add to it.
        value = kept.to(tl.float32)
    if CENTRED:
        value = tl.where(inside, value - tl.sum(value, axis=0) / width, 0.0)
    scale = tl.rsqrt(tl.sum(value * value, axis=0) / width + eps)
    # Rounded before the weight is applied, where the definition of the model rounds.
    value = value * scale if CENTRED else (value * scale).to(out.dtype.element_ty).to(tl.float32)
    value *= tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    if bias is not None:
        value += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + column, value.to(out.dtype.element_ty), mask=inside)


def norm(
    x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, *, centred: bool, delta: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(norm of x [N, I] + ``delta`` [N, I], that sum); the sum is x itself without a ``delta``.

    ``centred``: layer norm (Ba et al. 2016); otherwise root-mean-square norm (Zhang & Sennrich 2019).
    """
    x = dense_rows(x)
    rows, width = x.shape
    out = torch.empty((rows, width), dtype=x.dtype, device=x.device)
    total = x
    if delta is not None:
        delta = dense_rows(delta)
        total = torch.empty_like(out)
    block = power_of_two(width)
    launch(
        norm_kernel,
        (rows,),
        x,
        delta,
        weight.contiguous(),
        None if bias is None else bias.contiguous(),
        out,
        total,
        width,
        eps,
        x.stride(0),
        0 if delta is None else delta.stride(0),
        out.stride(0),
        total.stride(0),
        CENTRED=centred,
        BLOCK=block,
        # A thread then holds 8 numbers or so, which is one wide load of bfloat16.
        warps=min(16, max(1, block // 256)),
        stages=1,
    )
    return out, total
