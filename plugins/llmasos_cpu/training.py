"""The ops that training has from this back end; everything else is torch's own. Meanings are those of ``TrainingKernels``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llmasos.api import AttentionLayout, UsageError
from llmasos_cpu.training_ops import operators


@dataclass(frozen=True, slots=True)
class CpuTrainingKernels:
    """``half``: products take factors rounded to bfloat16; weights, activations and gradients stay float32."""

    half: bool

    def __post_init__(self) -> None:
        operators()  # registered before torch's compiler reads the methods, which cannot do that

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x [N, I] @ weight [O, I]ᵀ + bias [O] -> [N, O]."""
        found: Tensor = torch.ops.llmasos_cpu.linear(x, weight, bias, self.half)
        return found

    def attention(self, q: Tensor, k: Tensor, v: Tensor, layout: AttentionLayout, scale: float) -> Tensor:
        """softmax(q kᵀ · scale) v per sequence and head, sequences of one length together: q [N, Hq, E], k and v [N, Hk, E].

        Raises UsageError for a layout of a cache, of which no gradient is taken.
        """
        if layout.before is not None or layout.k_lengths is not None:
            raise UsageError(
                "attention over a cache has no derivative", hint="run it within torch.inference_mode()"
            )
        lengths = [end - begin for begin, end in zip(layout.q_starts, layout.q_starts[1:], strict=False)]
        if len(set(lengths)) == 1 and layout.q_starts == layout.k_starts:
            return _batch(q, k, v, len(lengths), scale, causal=layout.causal)
        found = [q.new_zeros(0, *q.shape[1:])]
        borders = zip(
            layout.q_starts, layout.q_starts[1:], layout.k_starts, layout.k_starts[1:], strict=False
        )
        for first, last, begin, end in borders:
            part = q[first:last], k[begin:end], v[begin:end]
            mask = None
            if layout.causal and end - begin != last - first:
                mask = torch.ones(last - first, end - begin, dtype=torch.bool).tril(
                    end - begin - last + first
                )
            if last > first:
                found.append(_batch(*part, 1, scale, causal=layout.causal and mask is None, mask=mask))
        return torch.cat(found)

    def linear_cross_entropy(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        *,
        ignored: int = -100,
        mean: bool = True,
        smoothing: float = 0.0,
    ) -> Tensor:
        """Cross-entropy [] of x [N, I] @ weight [V, I]ᵀ + bias [V] with targets [N], with gradients, without all logits."""
        grad = torch.is_grad_enabled()
        wants_weight = grad and (weight.requires_grad or (bias is not None and bias.requires_grad))
        found: Tensor = torch.ops.llmasos_cpu.linear_cross_entropy(
            x,
            weight,
            bias,
            targets,
            ignored,
            mean,
            smoothing,
            grad and x.requires_grad,
            wants_weight,
            self.half,
        )[0]
        return found


def _batch(
    q: Tensor, k: Tensor, v: Tensor, count: int, scale: float, *, causal: bool, mask: Tensor | None = None
) -> Tensor:
    """Attention of ``count`` sequences of equal length, one after the other: [N, Hq, E]."""
    if q.shape[0] == 0:
        return q.new_zeros(q.shape)
    split = (x.unflatten(0, (count, -1)).transpose(1, 2) for x in (q, k, v))  # [count, H, n, E]
    found = F.scaled_dot_product_attention(
        *split, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )
    return found.transpose(1, 2).flatten(0, 1)
