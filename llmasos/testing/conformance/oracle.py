"""Every op once more, in float64 and in the most literal way: what the reference back end itself is held to.

Slow on purpose: loops over sequences and heads instead of tricks. Shapes as in ``llmasos.contracts.runtime.Ops``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos.contracts.runtime import AttentionLayout, OpCallable, OpName

if TYPE_CHECKING:
    from torch import Tensor


def oracle(op: OpName) -> OpCallable:
    """The literal definition of an op."""
    return _ORACLES[op]


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """Row ids[i] of weight for each i."""
    return weight.double()[ids]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) * weight."""
    wide = x.double()
    return wide / (wide.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight.double()


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias, the variance over I and not I - 1."""
    wide = x.double()
    centred = wide - wide.mean(-1, keepdim=True)
    scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight.double()
    return scaled if bias is None else scaled + bias.double()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weightᵀ + bias."""
    product = (x.double()[:, None, :] * weight.double()[None, :, :]).sum(-1)
    return product if bias is None else product + bias.double()


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs (j, j + R/2) of each head as complex numbers, times e^(i angle)."""
    import torch

    half = cos.shape[-1]
    turned = x.double().clone()
    pairs = torch.complex(turned[..., :half], turned[..., half : 2 * half])
    pairs = pairs * torch.complex(cos.double(), sin.double())[:, None, :]
    turned[..., :half], turned[..., half : 2 * half] = pairs.real, pairs.imag
    return turned


def attention(q: Tensor, k: Tensor, v: Tensor, layout: AttentionLayout, scale: float) -> Tensor:
    """One query, one head at a time: softmax over the keys it may see."""
    import torch

    out = torch.zeros(q.shape, dtype=torch.float64, device=q.device)
    group = q.shape[1] // k.shape[1]
    for b in range(len(layout.q_starts) - 1):
        first, last = layout.q_starts[b], layout.q_starts[b + 1]
        begin = layout.k_starts[b]
        if layout.before is not None and layout.visible is not None:
            above = [row for span in layout.before[b] for row in range(*span)]
            mask = layout.visible[b]
            for i in range(last - first):
                own = [begin + j for j in range(i + 1) if mask is None or bool(mask[i, j])]
                for head in range(q.shape[1]):
                    keys = k[above + own, head // group].double()
                    weights = (keys @ q[first + i, head].double() * scale).softmax(0)
                    out[first + i, head] = weights @ v[above + own, head // group].double()
            continue
        held = layout.k_starts[b + 1] - begin if layout.k_lengths is None else layout.k_lengths[b]
        for i in range(last - first):
            seen = held - (last - first) + i + 1 if layout.causal else held
            for head in range(q.shape[1]):
                keys = k[begin : begin + seen, head // group].double()  # [seen, E]
                values = v[begin : begin + seen, head // group].double()
                weights = (keys @ q[first + i, head].double() * scale).softmax(0)  # [seen]
                out[first + i, head] = weights @ values
    return out


def activation(x: Tensor, kind: str) -> Tensor:
    """From the formulas: erf and tanh forms of gelu (Hendrycks & Gimpel 2016), silu = x sigmoid(x)."""
    import math

    import torch

    wide = x.double()
    if kind == "gelu":
        return wide * 0.5 * (1 + torch.erf(wide / math.sqrt(2)))
    if kind == "gelu_new":
        return 0.5 * wide * (1 + torch.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide.pow(3))))
    if kind == "relu":
        return torch.where(wide > 0, wide, torch.zeros_like(wide))
    if kind == "silu":
        return wide / (1 + torch.exp(-wide))
    return torch.tanh(wide)


def gated_activation(gate: Tensor, up: Tensor, kind: str) -> Tensor:
    """activation(gate) * up."""
    return activation(gate, kind) * up.double()


def token_logprobs(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, rows: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """log softmax(x weightᵀ + bias) at targets, and the arg-max."""
    scores = linear(x if rows is None else x[rows.to(x.device)], weight, bias)
    table = scores - scores.exp().sum(-1, keepdim=True).log()
    return table.gather(1, targets[:, None]).squeeze(1), scores.argmax(-1)


_ORACLES: dict[str, OpCallable] = {
    "embedding": embedding,
    "rms_norm": rms_norm,
    "layer_norm": layer_norm,
    "linear": linear,
    "rotary": rotary,
    "attention": attention,
    "activation": activation,
    "gated_activation": gated_activation,
    "token_logprobs": token_logprobs,
}
