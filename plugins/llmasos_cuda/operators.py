"""The kernels as operators of torch, ``torch.ops.llmasos_cuda``: with shapes for the compiler, and a derivative where training
needs one. Registered when first used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from llmasos_cuda.kernels import attention, cross_entropy, gates, head, norms, quantised, rotary, sampling
from llmasos_cuda.plan import AttentionPlan

NAMESPACE = "llmasos_cuda"


@functools.cache
def operators() -> Any:
    """``torch.ops.llmasos_cuda``."""
    # Kept by the operators themselves: a library that is let go takes them along.
    library = torch.library.Library(NAMESPACE, "DEF")
    for schema, call, shapes in _OPERATORS:
        library.define(schema)
        name = schema.partition("(")[0]
        library.impl(name, call, "CompositeExplicitAutograd")
        torch.library.register_fake(f"{NAMESPACE}::{name}", shapes, lib=library)
    torch.library.register_autograd(
        f"{NAMESPACE}::linear_cross_entropy", _slopes, setup_context=_keep_slopes, lib=library
    )
    namespace = getattr(torch.ops, NAMESPACE)
    namespace.library = library
    return namespace


# ---- what runs --------------------------------------------------------------------------------------------------------


def _norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centred: bool) -> Tensor:
    return norms.norm(x, weight, bias, eps, centred=centred)[0]


def _add_norm(
    x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centred: bool
) -> tuple[Tensor, Tensor]:
    return norms.norm(x, weight, bias, eps, centred=centred, delta=delta)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tables: Tensor,
    places: list[int],
    mask: Tensor | None,
    partial: bool,
    part_rows: int,
    rows: int,
    few: bool,
    scale: float,
) -> Tensor:
    first, second, third, fourth = ((places[at], places[at + 1]) for at in (0, 2, 4, 6))
    plan = AttentionPlan(tables, (first, second, third, fourth), mask, partial, part_rows, rows, few)
    return attention.attend(q, k, v, plan, scale)


def _linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    ignored: int,
    mean: bool,
    slope_of_x: bool,
    slope_of_weight: bool,
    rows_at_once: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return cross_entropy.loss_and_slopes(
        x, weight, bias, targets, ignored, mean, slope_of_x, slope_of_weight, rows_at_once
    )


def _keep_slopes(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, x, weight, bias = output
    ctx.mark_non_differentiable(x, weight, bias)
    ctx.biased = inputs[2] is not None
    ctx.save_for_backward(x, weight, bias)


def _slopes(ctx: Any, slope: Tensor, *others: Tensor) -> tuple[Any, ...]:
    x, weight, bias = (saved if saved.numel() else None for saved in ctx.saved_tensors)
    found = [None if saved is None else saved * slope.to(saved.dtype) for saved in (x, weight, bias)]
    return *found, None, None, None, None, None, None


# ---- what shapes come of it -------------------------------------------------------------------------------------------


def _like_x(x: Tensor, *others: Any) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _twice_x(x: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    return _like_x(x), _like_x(x)


def _nothing(*others: Any) -> None:
    return None


def _head_shapes(x: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0], dtype=torch.float32), x.new_empty(x.shape[0], dtype=torch.int64)


def _sample_shapes(logits: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    best, logprobs = reversed(_head_shapes(logits))
    return best, logprobs


def _target_shapes(
    x: Tensor, weight: Tensor, bias: Tensor | None, row_of: Tensor, token_of: Tensor, *others: Any
) -> Tensor:
    return x.new_empty(row_of.shape, dtype=torch.float32)


def _linear_shapes(x: Tensor, weight: Tensor, *others: Any) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


def _loss_shapes(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    ignored: int,
    mean: bool,
    slope_of_x: bool,
    slope_of_weight: bool,
    rows_at_once: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        x.new_empty((), dtype=torch.float32),
        torch.empty_like(x) if slope_of_x else x.new_empty(0),
        weight.new_empty(weight.shape if slope_of_weight else 0),
        x.new_empty(weight.shape[0] if slope_of_weight and bias is not None else 0),
    )


#: Schema, implementation, shapes.
_OPERATORS: tuple[tuple[str, Callable[..., Any], Callable[..., Any]], ...] = (
    ("norm(Tensor x, Tensor weight, Tensor? bias, float eps, bool centred) -> Tensor", _norm, _like_x),
    (
        "add_norm(Tensor x, Tensor delta, Tensor weight, Tensor? bias, float eps, bool centred) -> (Tensor, Tensor)",
        _add_norm,
        _twice_x,
    ),
    ("gated(Tensor gate, Tensor? up, str kind) -> Tensor", gates.gated, _like_x),
    ("rotary(Tensor x, Tensor cos, Tensor sin) -> Tensor", rotary.rotary, _like_x),
    (
        (
            "rotary_store(Tensor(a!) qkv, Tensor? cos, Tensor? sin, Tensor rows, Tensor(b!) keys, Tensor(c!) values, "
            "int query_heads) -> ()"
        ),
        rotary.rotary_store,
        _nothing,
    ),
    (
        (
            "attend(Tensor q, Tensor k, Tensor v, Tensor tables, int[] places, Tensor? mask, bool partial, int part_rows, "
            "int rows, bool few, float scale) -> Tensor"
        ),
        _attend,
        _like_x,
    ),
    (
        "head_sums(Tensor x, Tensor weight, Tensor? steps, Tensor? least, Tensor? bias) -> (Tensor, Tensor)",
        head.head_sums,
        _head_shapes,
    ),
    (
        (
            "target_logprobs(Tensor x, Tensor weight, Tensor? bias, Tensor row_of, Tensor token_of, Tensor targets, "
            "Tensor totals) -> Tensor"
        ),
        head.target_logprobs,
        _target_shapes,
    ),
    (
        "quantised_linear(Tensor x, Tensor weight, Tensor steps, Tensor? least, Tensor? bias) -> Tensor",
        quantised.quantised_linear,
        _linear_shapes,
    ),
    (
        (
            "linear_cross_entropy(Tensor x, Tensor weight, Tensor? bias, Tensor targets, int ignored, bool mean, "
            "bool slope_of_x, bool slope_of_weight, int rows_at_once) -> (Tensor, Tensor, Tensor, Tensor)"
        ),
        _linear_cross_entropy,
        _loss_shapes,
    ),
    (
        (
            "sample(Tensor logits, Tensor temperature, Tensor top_k, Tensor top_p, Tensor min_p, Tensor uniform) "
            "-> (Tensor, Tensor)"
        ),
        sampling.sample,
        _sample_shapes,
    ),
)
