"""The ops between the matrices, by the native library. Shapes and meanings are those of ``llmasos.api.Ops``.

Where there is no library every one of them raises MissingDependency, so that they are refused with the reason.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from llmasos.api import AttentionLayout, MissingDependency, UsageError
from llmasos_cpu.library import Absence, library
from llmasos_cpu.matrices import rows_contiguous
from llmasos_cpu.structures import (
    ACTIVATIONS,
    ELEMENT_TYPES,
    NORMS,
    ActivationStruct,
    FilledLayout,
    NormStruct,
    RotaryStruct,
    attention_call,
)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [N, I] / rms(x) * weight [I]; statistics in fp32 (Zhang & Sennrich 2019)."""
    return _norm(x, weight, None, eps, NORMS["rms"])


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """x [N, I] normalised over I, times weight [I] plus bias [I] (Ba et al. 2016)."""
    return _norm(x, weight, bias, eps, NORMS["layer"])


def _norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, kind: int) -> Tensor:
    x, weight = rows_contiguous(x), weight.contiguous()
    shift = None if bias is None else bias.contiguous()
    out = torch.empty(x.shape, dtype=x.dtype)
    call = NormStruct(
        out=out.data_ptr(),
        x=x.data_ptr(),
        weight=weight.data_ptr(),
        bias=None if shift is None else shift.data_ptr(),
        rows=x.shape[0],
        width=x.shape[1],
        out_stride=out.stride(0),
        x_stride=x.stride(0),
        kind=kind,
        type=ELEMENT_TYPES[str(x.dtype)],
        weight_type=ELEMENT_TYPES[str(weight.dtype)],
        eps=eps,
    )
    _run("llmc_norm", ctypes.byref(call))
    return out


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first R elements of each head of x [N, H, E] by the angles of cos, sin [N, R/2] float32."""
    heads = _heads_contiguous(x)
    cos, sin = cos.contiguous(), sin.contiguous()
    out = torch.empty(x.shape, dtype=x.dtype)
    call = RotaryStruct(
        out=out.data_ptr(),
        x=heads.data_ptr(),
        cos=cos.data_ptr(),
        sin=sin.data_ptr(),
        rows=x.shape[0],
        out_count=x.shape[0],
        out_stride=out.stride(0),
        x_stride=heads.stride(0),
        angle_stride=cos.stride(0),
        heads=x.shape[1],
        width=x.shape[2],
        turned=2 * cos.shape[1],
        type=ELEMENT_TYPES[str(x.dtype)],
        out_type=ELEMENT_TYPES[str(x.dtype)],
    )
    _run("llmc_rotary", ctypes.byref(call))
    return out


def attention(q: Tensor, k: Tensor, v: Tensor, layout: AttentionLayout, scale: float) -> Tensor:
    """softmax(q kᵀ · scale) v per sequence and head: q [N, Hq, E], k and v [K, Hk, E] -> [N, Hq, E]."""
    queries, keys, values = (_heads_contiguous(x) for x in (q, k, v))
    out = torch.empty(q.shape, dtype=q.dtype)
    filled = FilledLayout(layout)
    call = attention_call(out, queries, keys, values, scale)
    _run("llmc_attention", ctypes.byref(call), ctypes.byref(filled.struct))
    return out


def activation(x: Tensor, kind: str) -> Tensor:
    """Pointwise ``gelu`` (erf), ``gelu_new`` (tanh), ``relu``, ``silu`` or ``tanh``. Raises UsageError for another."""
    return _activate(x, None, kind)


def gated_activation(gate: Tensor, up: Tensor, kind: str) -> Tensor:
    """activation(gate) * up, both [N, O] (Shazeer 2020)."""
    return _activate(gate, up, kind)


def _activate(x: Tensor, up: Tensor | None, kind: str) -> Tensor:
    if kind not in ACTIVATIONS:
        raise UsageError(f"unknown activation {kind!r}", hint=f"known: {', '.join(sorted(ACTIVATIONS))}")
    x = rows_contiguous(x)
    factor = None if up is None else rows_contiguous(up)
    out = torch.empty(x.shape, dtype=x.dtype)
    call = ActivationStruct(
        out=out.data_ptr(),
        x=x.data_ptr(),
        up=None if factor is None else factor.data_ptr(),
        rows=x.shape[0],
        width=x.shape[1],
        out_stride=out.stride(0),
        x_stride=x.stride(0),
        up_stride=0 if factor is None else factor.stride(0),
        type=ELEMENT_TYPES[str(x.dtype)],
        activation=ACTIVATIONS[kind],
    )
    _run("llmc_activation", ctypes.byref(call))
    return out


def _heads_contiguous(x: Tensor) -> Tensor:
    """``x`` [N, H, E] itself where the heads of a token lie end to end, else a copy."""
    whole = x.shape[0] == 0 or x[0].is_contiguous()
    return x if whole else x.contiguous()


def _run(function: str, *arguments: Any) -> None:
    """Call the library with as many threads as torch has. Raises ValueError for what it refuses."""
    found = library()
    if isinstance(found, Absence):
        raise MissingDependency(
            f"the native library is not used: {found.detail}", hint="install a wheel for this machine"
        )
    found.use_threads(torch.get_num_threads())
    status = getattr(found.functions, function)(*arguments)
    if status:
        raise ValueError(found.explain(status))
