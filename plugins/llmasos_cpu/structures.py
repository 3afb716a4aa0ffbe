"""The C structures of ``native/llmasos_cpu.h`` as ctypes sees them, and the numbers that stand for names in them.

Imports neither torch nor numpy: tensors are asked for their addresses and strides.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from llmasos.api import AttentionLayout

#: Element types of activations, by the name torch gives them.
ELEMENT_TYPES: dict[str, int] = {"torch.float32": 0, "torch.bfloat16": 1}

#: Activations, by their name in the contract.
ACTIVATIONS: dict[str, int] = {"relu": 1, "gelu": 2, "gelu_new": 3, "silu": 4, "tanh": 7}

#: Norms, by their name in a stack's specification.
NORMS: dict[str, int] = {"rms": 0, "layer": 1}


class LinearStruct(ctypes.Structure):
    """``llmc_linear_call``: y = act(x Wᵀ + bias) * multiply + residual. Pointers are addresses, strides elements."""

    _fields_ = (
        ("matrix", ctypes.c_void_p),
        ("x", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("residual", ctypes.c_void_p),
        ("multiply", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("x_stride", ctypes.c_int64),
        ("y_stride", ctypes.c_int64),
        ("residual_stride", ctypes.c_int64),
        ("multiply_stride", ctypes.c_int64),
        ("x_type", ctypes.c_int32),
        ("y_type", ctypes.c_int32),
        ("activation", ctypes.c_int32),
        ("activation_bits", ctypes.c_int32),
    )


class MatrixInfoStruct(ctypes.Structure):
    """``llmc_matrix_info``: what a packed matrix says of itself."""

    _fields_ = (
        ("kind", ctypes.c_int32),
        ("group", ctypes.c_int32),
        ("outputs", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("bytes", ctypes.c_int64),
    )


class LayoutStruct(ctypes.Structure):
    """``llmc_layout``."""

    _fields_ = (
        ("sequences", ctypes.c_int64),
        ("q_starts", ctypes.c_void_p),
        ("k_starts", ctypes.c_void_p),
        ("k_lengths", ctypes.c_void_p),
        ("span_starts", ctypes.c_void_p),
        ("spans", ctypes.c_void_p),
        ("visible", ctypes.c_void_p),
        ("window", ctypes.c_int64),
        ("causal", ctypes.c_int32),
    )


class AttentionStruct(ctypes.Structure):
    """``llmc_attention_call``."""

    _fields_ = (
        ("out", ctypes.c_void_p),
        ("q", ctypes.c_void_p),
        ("k", ctypes.c_void_p),
        ("v", ctypes.c_void_p),
        ("out_stride", ctypes.c_int64),
        ("q_stride", ctypes.c_int64),
        ("k_stride", ctypes.c_int64),
        ("v_stride", ctypes.c_int64),
        ("queries", ctypes.c_int64),
        ("keys", ctypes.c_int64),
        ("slopes", ctypes.c_void_p),
        ("query_heads", ctypes.c_int32),
        ("key_heads", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("type", ctypes.c_int32),
        ("key_type", ctypes.c_int32),
        ("scale", ctypes.c_float),
    )


class FilledLayout:
    """An ``AttentionLayout`` as a ``LayoutStruct``, with the arrays it points to kept alive."""

    def __init__(self, layout: AttentionLayout, *, window: int = 0) -> None:
        self._kept: list[Any] = []
        self.struct = LayoutStruct(
            sequences=len(layout.q_starts) - 1,
            q_starts=self._numbers(layout.q_starts),
            k_starts=self._numbers(layout.k_starts),
            window=window,
            causal=int(layout.causal),
        )
        if layout.before is not None:
            starts, spans = [0], []
            for row in layout.before:
                spans += [place for span in row for place in span]
                starts.append(len(spans) // 2)
            self.struct.span_starts = self._numbers(starts)
            self.struct.spans = self._numbers(spans)
            if layout.visible is not None:
                masks = [None if mask is None else mask.contiguous() for mask in layout.visible]
                table = (ctypes.c_void_p * max(1, len(masks)))(
                    *[None if mask is None else mask.data_ptr() for mask in masks]
                )
                self._kept += [masks, table]
                self.struct.visible = ctypes.addressof(table)
        elif layout.k_lengths is not None:
            self.struct.k_lengths = self._numbers(layout.k_lengths)

    def _numbers(self, values: Iterable[int]) -> int:
        listed = list(values)
        array = (ctypes.c_int64 * max(1, len(listed)))(*listed)
        self._kept.append(array)
        return ctypes.addressof(array)


def attention_call(
    out: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float, slopes: Tensor | None = None
) -> AttentionStruct:
    """The call for q and out [N, Hq, E], k and v [K, Hk, E], whose last two dimensions must be contiguous.

    The tensors must outlive the structure.
    """
    return AttentionStruct(
        out=out.data_ptr(),
        q=q.data_ptr(),
        k=k.data_ptr(),
        v=v.data_ptr(),
        out_stride=out.stride(0),
        q_stride=q.stride(0),
        k_stride=k.stride(0),
        v_stride=v.stride(0),
        queries=q.shape[0],
        keys=k.shape[0],
        slopes=None if slopes is None else slopes.data_ptr(),
        query_heads=q.shape[1],
        key_heads=k.shape[1],
        width=q.shape[2],
        type=ELEMENT_TYPES[str(q.dtype)],
        key_type=ELEMENT_TYPES[str(k.dtype)],
        scale=scale,
    )


class NormStruct(ctypes.Structure):
    """``llmc_norm_call``."""

    _fields_ = (
        ("out", ctypes.c_void_p),
        ("x", ctypes.c_void_p),
        ("add", ctypes.c_void_p),
        ("sum", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("out_stride", ctypes.c_int64),
        ("x_stride", ctypes.c_int64),
        ("add_stride", ctypes.c_int64),
        ("sum_stride", ctypes.c_int64),
        ("kind", ctypes.c_int32),
        ("type", ctypes.c_int32),
        ("weight_type", ctypes.c_int32),
        ("eps", ctypes.c_float),
    )


class RotaryStruct(ctypes.Structure):
    """``llmc_rotary_call``."""

    _fields_ = (
        ("out", ctypes.c_void_p),
        ("x", ctypes.c_void_p),
        ("cos", ctypes.c_void_p),
        ("sin", ctypes.c_void_p),
        ("out_rows", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("out_count", ctypes.c_int64),
        ("out_stride", ctypes.c_int64),
        ("x_stride", ctypes.c_int64),
        ("angle_stride", ctypes.c_int64),
        ("heads", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("turned", ctypes.c_int32),
        ("type", ctypes.c_int32),
        ("out_type", ctypes.c_int32),
    )


class ActivationStruct(ctypes.Structure):
    """``llmc_activation_call``."""

    _fields_ = (
        ("out", ctypes.c_void_p),
        ("x", ctypes.c_void_p),
        ("up", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("out_stride", ctypes.c_int64),
        ("x_stride", ctypes.c_int64),
        ("up_stride", ctypes.c_int64),
        ("type", ctypes.c_int32),
        ("activation", ctypes.c_int32),
    )


class HeadStruct(ctypes.Structure):
    """``llmc_head_call``."""

    _fields_ = (
        ("matrix", ctypes.c_void_p),
        ("x", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("targets", ctypes.c_void_p),
        ("target_rows", ctypes.c_void_p),
        ("logprobs", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("best", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("x_stride", ctypes.c_int64),
        ("target_count", ctypes.c_int64),
        ("x_type", ctypes.c_int32),
        ("activation_bits", ctypes.c_int32),
    )


class BufferStruct(ctypes.Structure):
    """``llmc_buffer``."""

    _fields_ = (("width", ctypes.c_int64), ("wanted", ctypes.c_int32), ("external", ctypes.c_int32))


class StepStruct(ctypes.Structure):
    """``llmc_step``; ``in_`` is its ``in``."""

    _fields_ = (
        ("op", ctypes.c_int32),
        ("in_", ctypes.c_int32),
        ("out", ctypes.c_int32),
        ("other", ctypes.c_int32),
        ("kind", ctypes.c_int32),
        ("second_type", ctypes.c_int32),
        ("activation_bits", ctypes.c_int32),
        ("query_heads", ctypes.c_int32),
        ("key_heads", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("turned", ctypes.c_int32),
        ("layer", ctypes.c_int32),
        ("number", ctypes.c_float),
        ("unused", ctypes.c_int32),
        ("window", ctypes.c_int64),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("extra", ctypes.c_void_p),
        ("weight_rows", ctypes.c_int64),
        ("bias_rows", ctypes.c_int64),
        ("extra_rows", ctypes.c_int64),
    )


class PassStruct(ctypes.Structure):
    """``llmc_pass``."""

    _fields_ = (
        ("rows", ctypes.c_int64),
        ("tokens", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("types", ctypes.c_void_p),
        ("layout", ctypes.c_void_p),
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("cache_rows", ctypes.c_void_p),
        ("cache_count", ctypes.c_int64),
        ("layer_stride", ctypes.c_int64),
        ("cache_type", ctypes.c_int32),
        ("layers", ctypes.c_int32),
        ("wanted", ctypes.c_void_p),
        ("wanted_count", ctypes.c_int64),
        ("output", ctypes.c_void_p),
        ("output_stride", ctypes.c_int64),
    )
