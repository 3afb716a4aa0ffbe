"""The ops of training as operators of torch, ``torch.ops.llmasos_cpu``: with shapes for the compiler, and with derivatives.
Registered when first used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from llmasos_cpu import training_loss
from llmasos_cpu.training_products import products

NAMESPACE = "llmasos_cpu"


@functools.cache
def operators() -> Any:
    """``torch.ops.llmasos_cpu``."""
    # Kept by the operators themselves: a library that is let go takes them along.
    library = torch.library.Library(NAMESPACE, "DEF")
    for schema, call, shapes in _OPERATORS:
        library.define(schema)
        name = schema.partition("(")[0]
        library.impl(name, call, "CPU")
        torch.library.register_fake(f"{NAMESPACE}::{name}", shapes, lib=library)
    for name, backward, keep in (
        ("linear", _linear_slopes, _keep_linear),
        ("linear_cross_entropy", _loss_slopes, _keep_loss),
    ):
        torch.library.register_autograd(f"{NAMESPACE}::{name}", backward, setup_context=keep, lib=library)
    namespace = getattr(torch.ops, NAMESPACE)
    namespace.library = library
    return namespace


# ---- linear -----------------------------------------------------------------------------------------------------------


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, half: bool) -> Tensor:
    return products(half).forward(x, weight, bias)


def _linear_shapes(x: Tensor, weight: Tensor, bias: Tensor | None, half: bool) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


def _linear_backward(
    slope: Tensor, x: Tensor, weight: Tensor, half: bool, wants_x: bool, wants_weight: bool
) -> tuple[Tensor, Tensor]:
    rules = products(half)
    return (
        rules.input_slope(slope, weight) if wants_x else x.new_empty(0),
        rules.weight_slope(slope, x) if wants_weight else weight.new_empty(0),
    )


def _linear_backward_shapes(
    slope: Tensor, x: Tensor, weight: Tensor, half: bool, wants_x: bool, wants_weight: bool
) -> tuple[Tensor, Tensor]:
    return (
        x.new_empty(x.shape if wants_x else 0),
        weight.new_empty(weight.shape if wants_weight else 0),
    )


def _keep_linear(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, ctx.half = inputs
    ctx.save_for_backward(x, weight)


def _linear_slopes(ctx: Any, slope: Tensor) -> tuple[Any, ...]:
    x, weight = ctx.saved_tensors
    wants_x, wants_weight, wants_bias, _ = ctx.needs_input_grad
    found = operators().linear_backward(slope, x, weight, ctx.half, wants_x, wants_weight)
    return (
        found[0] if wants_x else None,
        found[1] if wants_weight else None,
        slope.sum(0) if wants_bias else None,
        None,
    )


# ---- linear and cross-entropy -----------------------------------------------------------------------------------------


def _loss(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    ignored: int,
    mean: bool,
    smoothing: float,
    slope_of_x: bool,
    slope_of_weight: bool,
    half: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    found = training_loss.linear_cross_entropy(
        products(half),
        x,
        weight,
        bias,
        targets,
        ignored=ignored,
        mean=mean,
        smoothing=smoothing,
        slope_of_x=slope_of_x,
        slope_of_weight=slope_of_weight,
    )
    return found.value, found.x, found.weight, found.bias


def _loss_shapes(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    ignored: int,
    mean: bool,
    smoothing: float,
    slope_of_x: bool,
    slope_of_weight: bool,
    half: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        x.new_empty(()),
        x.new_empty(x.shape if slope_of_x else 0),
        weight.new_empty(weight.shape if slope_of_weight else 0),
        x.new_empty(weight.shape[0] if slope_of_weight and bias is not None else 0),
    )


def _keep_loss(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, x, weight, bias = output
    ctx.mark_non_differentiable(x, weight, bias)
    ctx.set_materialize_grads(False)
    ctx.wants = inputs[7], inputs[8], inputs[8] and inputs[2] is not None
    ctx.save_for_backward(x, weight, bias)


def _loss_slopes(ctx: Any, slope: Tensor | None, *others: Tensor | None) -> tuple[Any, ...]:
    nothing = (None,) * 7
    if slope is None:
        return None, None, None, *nothing
    kept = [saved if wanted else None for saved, wanted in zip(ctx.saved_tensors, ctx.wants, strict=True)]
    # The loss itself is differentiated as a rule, and the gradient of a large vocabulary takes long to multiply by one. What
    # the compiler traces has no number to ask for.
    if type(slope) is Tensor and not torch.compiler.is_compiling() and float(slope) == 1.0:
        return *kept, *nothing
    return *(None if saved is None else saved * slope for saved in kept), *nothing


#: Schema, implementation, shapes.
_OPERATORS: tuple[tuple[str, Callable[..., Any], Callable[..., Any]], ...] = (
    ("linear(Tensor x, Tensor weight, Tensor? bias, bool half) -> Tensor", _linear, _linear_shapes),
    (
        (
            "linear_backward(Tensor slope, Tensor x, Tensor weight, bool half, bool wants_x, bool wants_weight) "
            "-> (Tensor, Tensor)"
        ),
        _linear_backward,
        _linear_backward_shapes,
    ),
    (
        (
            "linear_cross_entropy(Tensor x, Tensor weight, Tensor? bias, Tensor targets, int ignored, bool mean, "
            "float smoothing, bool slope_of_x, bool slope_of_weight, bool half) -> (Tensor, Tensor, Tensor, Tensor)"
        ),
        _loss,
        _loss_shapes,
    ),
)
