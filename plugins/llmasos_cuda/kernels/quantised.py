"""Products with int8 and int4 weights: one kernel for a row or few, which reads the weights once, and one for many.

Letters: M rows, O outputs, I inputs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from llmasos_cuda.configurations import configuration
from llmasos_cuda.kernels.product import INT4_GROUP, INT8_GROUP, multiply
from llmasos_cuda.launching import dense_rows, launch, power_of_two

#: Rows up to which no tensor core is used: reading the weights takes longer than multiplying them.
_VECTOR_ROWS = 4


@triton.jit
def vector_kernel(
    x,
    weight,
    steps,
    least,
    bias,
    out,
    rows,
    outputs,
    inputs,
    x_stride,
    weight_stride,
    out_stride,
    KIND: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """BLOCK_N outputs of all rows; GROUPS groups of weights at a time, unpacked once for the rows."""
    output = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    known = output < outputs
    row = tl.arange(0, ROWS)
    count = tl.cdiv(inputs, GROUP)
    total = tl.zeros((ROWS, BLOCK_N), tl.float32)
    stored: tl.constexpr = GROUP if KIND == "int8" else GROUP // 2
    inner = tl.arange(0, stored)
    w_at = weight + output.to(tl.int64)[:, None, None] * weight_stride
    for at in range(0, count, GROUPS):
        group = at + tl.arange(0, GROUPS)
        inside = known[:, None] & (group < count)[None, :]
        place = output[:, None] * count + group[None, :]
        step = tl.load(steps + place, mask=inside, other=0.0).to(tl.float32)  # [N, groups]
        packed = tl.load(
            w_at + group[None, :, None] * stored + inner[None, None, :], mask=inside[:, :, None], other=0
        )
        k = group[:, None] * GROUP + inner[None, :]  # [groups, stored]
        x_at = x + row[:, None, None] * x_stride
        live = (row < rows)[:, None, None]
        left = tl.load(x_at + k[None, :, :], mask=live & (k < inputs)[None, :, :], other=0.0).to(tl.float32)
        if KIND == "int8":
            found = tl.sum(left[:, None, :, :] * packed.to(tl.float32)[None, :, :, :], axis=3)
            total += tl.sum(found * step[None, :, :], axis=2)
        else:
            far = k + stored
            right = tl.load(x_at + far[None, :, :], mask=live & (far < inputs)[None, :, :], other=0.0).to(
                tl.float32
            )
            floor = tl.load(least + place, mask=inside, other=0.0).to(tl.float32)
            low, high = (packed & 15).to(tl.float32), (packed >> 4).to(tl.float32)
            pairs = left[:, None, :, :] * low[None, :, :, :] + right[:, None, :, :] * high[None, :, :, :]
            held = tl.sum(left + right, axis=2)  # [rows, groups]
            total += tl.sum(
                tl.sum(pairs, axis=3) * step[None, :, :] + held[:, None, :] * floor[None, :, :], axis=2
            )
    if bias is not None:
        total += tl.load(bias + output, mask=known, other=0.0).to(tl.float32)[None, :]
    whole = (row < rows)[:, None] & known[None, :]
    tl.store(out + row[:, None] * out_stride + output[None, :], total.to(out.dtype.element_ty), mask=whole)


@triton.jit
def matrix_kernel(
    x,
    weight,
    steps,
    least,
    bias,
    out,
    rows,
    outputs,
    inputs,
    x_stride,
    weight_stride,
    out_stride,
    KIND: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """A tile of the product on tensor cores."""
    row = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    output = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    total = multiply(
        x, weight, steps, least, row, output, rows, outputs, inputs, x_stride, weight_stride, KIND, BLOCK_K
    )
    known = output < outputs
    if bias is not None:
        total += tl.load(bias + output, mask=known, other=0.0).to(tl.float32)[None, :]
    at = out + row.to(tl.int64)[:, None] * out_stride + output[None, :]
    tl.store(at, total.to(out.dtype.element_ty), mask=(row < rows)[:, None] & known[None, :])


def quantised_linear(
    x: Tensor, weight: Tensor, steps: Tensor, least: Tensor | None, bias: Tensor | None
) -> Tensor:
    """x [M, I] @ Wᵀ + bias [O] -> [M, O] for weights as ``llmasos_cuda.quantisation`` packs them: int4 has a ``least``."""
    x = dense_rows(x)
    rows, inputs = x.shape
    outputs = weight.shape[0]
    out = torch.empty((rows, outputs), dtype=x.dtype, device=x.device)
    kind = "int8" if least is None else "int4"
    arguments = (
        x,
        weight,
        steps,
        least,
        None if bias is None else bias.contiguous(),
        out,
        rows,
        outputs,
        inputs,
        x.stride(0),
        weight.stride(0),
        out.stride(0),
    )
    if rows <= _VECTOR_ROWS:
        chosen = configuration(x, "quantised", f"one.{kind}")
        launch(
            vector_kernel,
            (triton.cdiv(outputs, chosen["outputs"]),),
            *arguments,
            KIND=kind,
            GROUP=INT8_GROUP if least is None else INT4_GROUP,
            ROWS=power_of_two(rows),
            BLOCK_N=chosen["outputs"],
            GROUPS=chosen["groups"],
            warps=chosen["warps"],
            stages=chosen["stages"],
        )
        return out
    chosen = configuration(x, "quantised", f"{'few' if rows <= 16 else 'many'}.{kind}")
    launch(
        matrix_kernel,
        (triton.cdiv(outputs, chosen["outputs"]), triton.cdiv(rows, chosen["rows"])),
        *arguments,
        KIND=kind,
        BLOCK_M=chosen["rows"],
        BLOCK_N=chosen["outputs"],
        BLOCK_K=chosen["inner"],
        warps=chosen["warps"],
        stages=chosen["stages"],
    )
    return out
