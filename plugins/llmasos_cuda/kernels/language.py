"""What all kernels share: products, non-linearities, and the one place that knows of Triton's interpreter.

Parameters of kernels are not annotated but for ``tl.constexpr``: Triton reads annotations as its own.
"""

from __future__ import annotations

import triton
import triton.language as tl

#: Whether kernels run in Triton's interpreter (``TRITON_INTERPRET=1`` when this is imported), on the CPU.
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def dot(a, b, total):
    """total [M, N] float32 + a [M, K] @ b [K, N]. Kernels multiply with this and never with ``tl.dot``.

    The interpreter takes bfloat16 for the whole number that its bits spell, so there operands are widened first. float32 goes
    through tensor cores in three passes, which keeps 21 bits or more of each operand.
    """
    if INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="tf32x3")


@triton.jit
def exact_dot(x, whole, total):
    """total [M, N] + x [M, K] @ whole [K, N], where ``whole`` are integers of up to 8 bits, which bfloat16 has exactly.

    float32 x goes as two bfloat16 numbers, 16 bits in all, at a third of the cost of three passes in tf32.
    """
    if x.dtype == tl.float32:
        high = x.to(tl.bfloat16)
        low = (x - high.to(tl.float32)).to(tl.bfloat16)
        integers = whole.to(tl.float32).to(tl.bfloat16)
        return dot(low, integers, dot(high, integers, total))
    return dot(x, whole.to(tl.float32).to(x.dtype), total)


@triton.jit
def tanh(x):
    """From the logistic function, which every target has; within 1e-7 of the true value."""
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@triton.jit
def activate(x, KIND: tl.constexpr):
    """x float32 through ``gelu`` (erf), ``gelu_new`` (tanh), ``relu``, ``silu`` or ``tanh``, as in ``Ops.activation``."""
    if KIND == "gelu":
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif KIND == "gelu_new":
        return 0.5 * x * (1.0 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))
    elif KIND == "relu":
        return tl.maximum(x, 0.0)
    elif KIND == "silu":
        return x * tl.sigmoid(x)
    else:
        tl.static_assert(KIND == "tanh", "an activation that is not in the contract")
        return tanh(x)
