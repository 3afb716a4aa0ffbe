"""Non-linearities, alone or with what they gate.

Letters: N rows, O width.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from llmasos_cuda.kernels.language import activate
from llmasos_cuda.launching import dense_rows, launch, power_of_two


@triton.jit
def gate_kernel(
    gate,
    up,
    out,
    width,
    gate_stride,
    up_stride,
    out_stride,
    KIND: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out = activation(gate) * up, or activation(gate) without an ``up``; one piece of a row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    value = activate(tl.load(gate + row * gate_stride + column, mask=inside, other=0.0).to(tl.float32), KIND)
    if up is not None:
        value *= tl.load(up + row * up_stride + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + column, value.to(out.dtype.element_ty), mask=inside)


def gated(gate: Tensor, up: Tensor | None, kind: str) -> Tensor:
    """activation(gate) * up [N, O]; activation(gate) without ``up`` (Shazeer 2020)."""
    gate = dense_rows(gate)
    up = None if up is None else dense_rows(up)
    rows, width = gate.shape
    out = torch.empty((rows, width), dtype=gate.dtype, device=gate.device)
    block = min(1024, power_of_two(width))
    launch(
        gate_kernel,
        (rows, triton.cdiv(width, block)),
        gate,
        up,
        out,
        width,
        gate.stride(0),
        0 if up is None else up.stride(0),
        out.stride(0),
        KIND=kind,
        BLOCK=block,
        warps=4,
        stages=1,
    )
    return out
