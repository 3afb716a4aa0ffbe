"""The ops of the contract, as models call them. Shapes and meanings are those of ``llmasos.api.Ops``.

Where a gradient is asked for, torch computes: kernels without a derivative of their own are for inference.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from llmasos.api import AttentionLayout, UsageError
from llmasos_cuda.configurations import configuration
from llmasos_cuda.kernels.attention import variant
from llmasos_cuda.operators import operators
from llmasos_cuda.plan import AttentionPlan, Cut, make_plan
from llmasos_cuda.quantisation import QuantisedMatrix

ACTIVATIONS = ("gelu", "gelu_new", "relu", "silu", "tanh")
#: Queries from which torch's own attention pays for a call of its own for a sequence.
_DENSE = 256


def embedding(ids: Tensor, weight: Tensor | QuantisedMatrix) -> Tensor:
    """ids [N] int64, weight [V, O] -> [N, O]."""
    return weight.rows(ids) if isinstance(weight, QuantisedMatrix) else F.embedding(ids, weight)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [N, I] / rms(x) * weight [I]; statistics in fp32 (Zhang & Sennrich 2019)."""
    if _differentiated(x, weight):
        return F.rms_norm(x, (x.shape[-1],), weight, eps)
    found: Tensor = operators().norm(x, weight, None, eps, False)
    return found


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """x [N, I] normalised over I, times weight [I] plus bias [I] (Ba et al. 2016)."""
    if _differentiated(x, weight, bias):
        return F.layer_norm(x, (x.shape[-1],), weight, bias, eps)
    found: Tensor = operators().norm(x, weight, bias, eps, True)
    return found


def linear(x: Tensor, weight: Tensor | QuantisedMatrix, bias: Tensor | None) -> Tensor:
    """x [N, I] @ weight [O, I]ᵀ + bias [O] -> [N, O]; plain weights through cuBLAS."""
    if isinstance(weight, QuantisedMatrix):
        found: Tensor = operators().quantised_linear(x, weight.data, weight.steps, weight.least, bias)
        return found
    return F.linear(x, weight, bias)


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first R elements of each head of x [N, H, E] by the angles of cos, sin [N, R/2] float32."""
    if _differentiated(x):
        half = cos.shape[1]
        first, second, rest = x.float().split([half, half, x.shape[2] - 2 * half], dim=2)
        c, s = cos[:, None], sin[:, None]
        return torch.cat([first * c - second * s, second * c + first * s, rest], dim=2).to(x.dtype)
    found: Tensor = operators().rotary(x, cos, sin)
    return found


def activation(x: Tensor, kind: str) -> Tensor:
    """Pointwise ``gelu`` (erf), ``gelu_new`` (tanh), ``relu``, ``silu`` or ``tanh``. Raises UsageError for another."""
    return _activate(x, None, kind)


def gated_activation(gate: Tensor, up: Tensor, kind: str) -> Tensor:
    """activation(gate) * up, both [N, O] (Shazeer 2020)."""
    return _activate(gate, up, kind)


def _activate(x: Tensor, up: Tensor | None, kind: str) -> Tensor:
    if kind not in ACTIVATIONS:
        raise UsageError(f"unknown activation {kind!r}", hint=f"known: {', '.join(ACTIVATIONS)}")
    if _differentiated(x, up):
        if kind.startswith("gelu"):
            found = F.gelu(x, approximate="none" if kind == "gelu" else "tanh")
        else:
            found = {"relu": F.relu, "silu": F.silu, "tanh": torch.tanh}[kind](x)
        return found if up is None else found * up
    there: Tensor = operators().gated(x, up, kind)
    return there


def attention(q: Tensor, k: Tensor, v: Tensor, layout: AttentionLayout, scale: float) -> Tensor:
    """softmax(q kᵀ · scale) v per sequence and head: q [N, Hq, E], k and v [K, Hk, E] -> [N, Hq, E]."""
    if dense(q, layout) or _differentiated(q, k, v):
        return _dense_attention(q, k, v, layout, scale)
    return attend(q, k, v, plan_of(q, k, layout), scale)


def attend(q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, scale: float) -> Tensor:
    """``attention`` by a plan that is there already."""
    found: Tensor = operators().attend(
        q,
        k,
        v,
        plan.tables,
        [number for place in plan.places for number in place],
        plan.mask,
        plan.partial,
        plan.part_rows,
        plan.rows,
        plan.few,
        scale,
    )
    return found


def token_logprobs(
    x: Tensor,
    weight: Tensor | QuantisedMatrix,
    bias: Tensor | None,
    targets: Tensor,
    rows: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """log softmax(x weightᵀ + bias)[targets] in float32 and the arg-max: x [M, I], weight [V, I], targets [M] -> [M], [M].

    With ``rows`` [M], ascending, x is [R, I] and target i belongs to row ``rows[i]``. No tensor of logits is made.
    """
    row = torch.arange(len(targets), device=x.device) if rows is None else rows.to(x.device)
    quantised = isinstance(weight, QuantisedMatrix)
    held = (weight.data, weight.steps, weight.least) if quantised else (weight, None, None)
    totals, best = operators().head_sums(x, *held, bias)
    table, token = weight, targets
    if quantised:
        table, token = weight.numbers(targets), torch.arange(len(targets), device=x.device)
    return operators().target_logprobs(x, table, bias, row, token, targets, totals), best[row]


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    ignored: int = -100,
    mean: bool = True,
    rows_at_once: int = 0,
) -> Tensor:
    """Cross-entropy [] float32 of x [N, I] @ weight [V, I]ᵀ + bias [V] with targets [N], with a derivative and without more logits
    than ``rows_at_once`` rows of them (0: about as many as take the memory of x)."""
    grad = torch.is_grad_enabled()
    wants_weight = grad and (weight.requires_grad or (bias is not None and bias.requires_grad))
    found: Tensor = operators().linear_cross_entropy(
        x, weight, bias, targets, ignored, mean, grad and x.requires_grad, wants_weight, rows_at_once
    )[0]
    return found


# ---- attention: which way ---------------------------------------------------------------------------------------------


def dense(q: Tensor, layout: AttentionLayout) -> bool:
    """Whether torch's own attention is best: long sequences without a past, in half precision, where flash attention is."""
    if layout.before is not None or layout.k_lengths is not None or q.dtype == torch.float32 or not q.is_cuda:
        return False
    counts = [end - begin for begin, end in zip(layout.q_starts, layout.q_starts[1:], strict=False)]
    return layout.q_starts == layout.k_starts and min(counts, default=0) >= _DENSE


def _dense_attention(q: Tensor, k: Tensor, v: Tensor, layout: AttentionLayout, scale: float) -> Tensor:
    """Sequence by sequence through torch. Raises UsageError for a layout of a cache, of which no gradient is taken."""
    if layout.before is not None or layout.k_lengths is not None:
        raise UsageError(
            "attention over a cache has no derivative", hint="run it within torch.inference_mode()"
        )
    found = []
    borders = zip(layout.q_starts, layout.q_starts[1:], layout.k_starts, layout.k_starts[1:], strict=False)
    for first, last, begin, end in borders:
        mask = None
        if layout.causal and end - begin != last - first:
            mask = torch.ones(last - first, end - begin, dtype=torch.bool, device=q.device)
            mask = mask.tril(end - begin - last + first)
        one = F.scaled_dot_product_attention(
            q[first:last].transpose(0, 1)[None],
            k[begin:end].transpose(0, 1)[None],
            v[begin:end].transpose(0, 1)[None],
            attn_mask=mask,
            is_causal=layout.causal and mask is None,
            scale=scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        found.append(one[0].transpose(0, 1))
    return torch.cat(found) if found else torch.empty_like(q)


def plan_of(q: Tensor, k: Tensor, layout: AttentionLayout, room: int = 0) -> AttentionPlan:
    """The plan of a layout for such queries and keys; see ``make_plan``."""
    few, many = (
        Cut(found["rows"], found["split"])
        for found in (configuration(q, "attention", variant(name, q)) for name in ("few", "many"))
    )
    group = q.shape[1] // k.shape[1]
    return make_plan(layout, group, few=few, many=many, device=q.device, room=room)


def _differentiated(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in tensors)
