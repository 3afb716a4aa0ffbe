"""The product of rows with a matrix of weights, plain or quantised, as the inner loop of other kernels.

int8: a step for each 128 numbers of a row, which are integers from -127 to 127. int4: a step and a least number for each 32, whose
integers from 0 to 15 lie two in a byte, number j of a group beside number j + 16. Products are taken of the integers, exactly, and
the steps applied to the sums of each group, so nothing is rounded that need not be.

Letters: M rows, N outputs, K inputs.
"""

from __future__ import annotations

import triton
import triton.language as tl

from llmasos_cuda.kernels.language import dot, exact_dot
from llmasos_cuda.quantisation import INT4_GROUP, INT8_GROUP

_INT8, _INT4 = tl.constexpr(INT8_GROUP), tl.constexpr(INT4_GROUP)


@triton.jit
def multiply(
    x,
    weight,
    steps,
    least,
    rows,
    outputs,
    row_count,
    output_count,
    inputs,
    x_stride,
    weight_stride,
    KIND: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """x[rows] @ weight[outputs]ᵀ [M, N] float32, for rows below ``row_count`` and outputs below ``output_count``.

    ``steps`` and ``least`` [N, groups]; ``weight_stride`` in elements of ``weight``, whose rows hold whole groups. BLOCK_K inputs are
    taken at a time, with int4 a group.
    """
    live = (rows < row_count)[:, None]
    known = (outputs < output_count)[None, :]
    x_at = x + rows.to(tl.int64)[:, None] * x_stride
    w_at = weight + outputs.to(tl.int64)[None, :] * weight_stride
    total = tl.zeros((rows.shape[0], outputs.shape[0]), tl.float32)
    if KIND == "plain":
        for at in range(0, inputs, BLOCK_K):
            k = at + tl.arange(0, BLOCK_K)
            inside = k < inputs
            left = tl.load(x_at + k[None, :], mask=live & inside[None, :], other=0.0)
            right = tl.load(w_at + k[:, None], mask=known & inside[:, None], other=0.0)
            total = dot(left, right, total)
    elif KIND == "int8":
        groups = tl.cdiv(inputs, _INT8)
        for at in range(0, inputs, BLOCK_K):  # BLOCK_K divides a group
            k = at + tl.arange(0, BLOCK_K)
            left = tl.load(x_at + k[None, :], mask=live & (k < inputs)[None, :], other=0.0)
            whole = tl.load(w_at + k[:, None], mask=known, other=0)
            place = outputs[None, :] * groups + at // _INT8
            step = tl.load(steps + place, mask=known, other=0.0).to(tl.float32)
            start = tl.zeros((rows.shape[0], outputs.shape[0]), tl.float32)
            total += exact_dot(left, whole, start) * step
    else:
        tl.static_assert(KIND == "int4", "plain, int8 or int4")
        groups = tl.cdiv(inputs, _INT4)
        half: tl.constexpr = _INT4 // 2
        for group in range(groups):
            byte = tl.arange(0, half)
            k = group * _INT4 + byte
            first = tl.load(x_at + k[None, :], mask=live & (k < inputs)[None, :], other=0.0)
            far = k + half
            second = tl.load(x_at + far[None, :], mask=live & (far < inputs)[None, :], other=0.0)
            pairs = tl.load(w_at + group * half + byte[:, None], mask=known, other=0)
            place = outputs[None, :] * groups + group
            step = tl.load(steps + place, mask=known, other=0.0).to(tl.float32)
            floor = tl.load(least + place, mask=known, other=0.0).to(tl.float32)
            start = tl.zeros((rows.shape[0], outputs.shape[0]), tl.float32)
            found = exact_dot(second, pairs >> 4, exact_dot(first, pairs & 15, start))
            held = tl.sum(first.to(tl.float32), axis=1) + tl.sum(second.to(tl.float32), axis=1)
            total += found * step + held[:, None] * floor
    return total
