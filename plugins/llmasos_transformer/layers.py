"""The parts of a transformer layer, each a few lines over the ops.

Shapes: N packed tokens, D model width, F feed-forward width, Hq query heads, Hk key/value heads, E head width, R rotated
part of a head. Parameters are created on the device and in the dtype that is current; ``architecture`` fills them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from llmasos.api import AttentionLayout, BlockPlan, BlockWeight, LinearPlan, NormPlan, Ops, PackedWeight
from llmasos_transformer.cache import BlockCache
from llmasos_transformer.path import SlabPath
from llmasos_transformer.spec import StackSpec


class Pass(NamedTuple):
    """What all layers of one forward pass share."""

    layout: AttentionLayout
    #: Rotary angles of the new tokens, [N, R/2] float32 each; None with learned positions.
    cos: Tensor | None = None
    sin: Tensor | None = None
    cache: BlockCache | SlabPath | None = None
    #: Where the new tokens go in a flattened cache slab, [N] int64.
    cache_rows: Tensor | None = None
    #: The rows the last layer is asked for, [R] int64; None for all.
    wanted: Tensor | None = None


class Linear(nn.Module):
    """x [N, I] Wᵀ + b -> [N, O]."""

    def __init__(self, ops: Ops, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__()
        self.ops = ops
        self.weight: nn.Parameter | PackedWeight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return self.ops.linear(x, self.weight, self.bias)

    def plan(self) -> LinearPlan:
        """For a back end that computes whole stacks. The weight is not packed yet."""
        assert isinstance(self.weight, Tensor | BlockWeight)
        return LinearPlan(self.weight, self.bias)

    def pack(self) -> None:
        """Have the back end lay the weight out, once it is there. One that it leaves as it is becomes a copy, for it may be a
        view of a file."""
        weight = self.weight
        assert isinstance(weight, Tensor | BlockWeight)
        packed = self.ops.pack(weight.data if isinstance(weight, Tensor) else weight, lookup=False)
        self.release()
        if isinstance(packed, Tensor):
            copy = torch.empty(packed.shape, dtype=packed.dtype, device=packed.device).copy_(packed)
            packed = nn.Parameter(copy, requires_grad=False)
        self.weight = packed

    def release(self) -> int:
        """Let the weight go, of which the back end has a copy of its own. Returns how many numbers it had."""
        weight = self.weight
        del self.weight
        return weight.numel() if isinstance(weight, Tensor) else weight.outputs * weight.inputs


class RMSNorm(nn.Module):
    """x / rms(x) * weight."""

    def __init__(self, ops: Ops, width: int, eps: float) -> None:
        super().__init__()
        self.ops = ops
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.ops.rms_norm(x, self.weight, self.eps)

    def plan(self) -> NormPlan:
        """For a back end that computes whole stacks."""
        return NormPlan("rms", self.weight, None, self.eps)


class LayerNorm(nn.Module):
    """(x - mean) / std * weight + bias."""

    def __init__(self, ops: Ops, width: int, eps: float) -> None:
        super().__init__()
        self.ops = ops
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.ops.layer_norm(x, self.weight, self.bias, self.eps)

    def plan(self) -> NormPlan:
        """For a back end that computes whole stacks."""
        return NormPlan("layer", self.weight, self.bias, self.eps)


def make_norm(ops: Ops, spec: StackSpec) -> RMSNorm | LayerNorm:
    """The norm this stack uses, over the model width."""
    kind = RMSNorm if spec.norm == "rms" else LayerNorm
    return kind(ops, spec.width, spec.norm_eps)


class Attention(nn.Module):
    """Multi-head scaled dot-product attention with grouped key/value heads (Vaswani et al. 2017; Ainslie et al. 2023)."""

    def __init__(self, ops: Ops, spec: StackSpec, layer: int) -> None:
        super().__init__()
        self.ops = ops
        self.layer = layer
        self.head_width = spec.head_width
        self.scale = spec.scale(layer)
        queries, keys, bias = (
            spec.query_heads * spec.head_width,
            spec.key_heads * spec.head_width,
            spec.attention_bias,
        )
        self.query = Linear(ops, spec.width, queries, bias=bias)
        self.key = Linear(ops, spec.width, keys, bias=bias)
        self.value = Linear(ops, spec.width, keys, bias=bias)
        self.output = Linear(ops, queries, spec.width, bias=bias)

    def forward(self, x: Tensor, shared: Pass, rows: Tensor | None = None) -> Tensor:
        """What is mixed into each token [N, D], or into the tokens ``rows`` [R, D]."""
        tokens = x.shape[0]
        q = self.query(x).view(tokens, -1, self.head_width)  # [N, Hq, E]
        k = self.key(x).view(tokens, -1, self.head_width)  # [N, Hk, E]
        v = self.value(x).view(tokens, -1, self.head_width)  # [N, Hk, E]
        if shared.cos is not None and shared.sin is not None:
            q = self.ops.rotary(q, shared.cos, shared.sin)
            k = self.ops.rotary(k, shared.cos, shared.sin)
        if shared.cache is not None and shared.cache_rows is not None:
            past_k, past_v = shared.cache.layer(self.layer)  # [slots * capacity, Hk, E] or [capacity, Hk, E]
            k = past_k.index_copy_(0, shared.cache_rows, k)
            v = past_v.index_copy_(0, shared.cache_rows, v)
        mixed = self.ops.attention(q, k, v, shared.layout, self.scale).reshape(tokens, -1)  # [N, Hq * E]
        return self.output(mixed if rows is None else mixed[rows])


class FeedForward(nn.Module):
    """down(act(up(x))), or down(act(gate(x)) * up(x)) when gated."""

    def __init__(self, ops: Ops, spec: StackSpec) -> None:
        super().__init__()
        self.ops = ops
        self.activation = spec.activation
        bias = spec.feed_forward_bias
        self.gate = Linear(ops, spec.width, spec.inner, bias=bias) if spec.gated else None
        self.up = Linear(ops, spec.width, spec.inner, bias=bias)
        self.down = Linear(ops, spec.inner, spec.width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(x)  # [N, F]
        if self.gate is None:
            return self.down(self.ops.activation(up, self.activation))
        return self.down(self.ops.gated_activation(self.gate(x), up, self.activation))


class Block(nn.Module):
    """One layer: attention, then feed-forward, each with a residual connection and a norm before or after."""

    def __init__(self, ops: Ops, spec: StackSpec, layer: int) -> None:
        super().__init__()
        self.norm_first = spec.norm_at == "pre"
        self.last = layer == spec.layers - 1
        self.attention = Attention(ops, spec, layer)
        self.attention_norm = make_norm(ops, spec)
        self.feed_forward = FeedForward(ops, spec)
        self.feed_forward_norm = make_norm(ops, spec)

    def forward(self, x: Tensor, shared: Pass) -> Tensor:
        # Nothing reads the last layer but the result: what is not wanted there needs keys and values, and no more.
        rows = shared.wanted if self.last else None
        kept = x if rows is None else x[rows]
        if self.norm_first:
            x = kept + self.attention(self.attention_norm(x), shared, rows)
            return x + self.feed_forward(self.feed_forward_norm(x))
        x = self.attention_norm(kept + self.attention(x, shared, rows))
        return self.feed_forward_norm(x + self.feed_forward(x))

    def plan(self) -> BlockPlan:
        """For a back end that computes whole stacks."""
        attention, feed_forward = self.attention, self.feed_forward
        return BlockPlan(
            attention_norm=self.attention_norm.plan(),
            query=attention.query.plan(),
            key=attention.key.plan(),
            value=attention.value.plan(),
            output=attention.output.plan(),
            scale=attention.scale,
            feed_forward_norm=self.feed_forward_norm.plan(),
            gate=None if feed_forward.gate is None else feed_forward.gate.plan(),
            up=feed_forward.up.plan(),
            down=feed_forward.down.plan(),
        )

    def linears(self) -> list[Linear]:
        """All that multiply by a matrix."""
        return [module for module in self.modules() if isinstance(module, Linear)]


class Embeddings(nn.Module):
    """Token, position and segment tables; with norms after the layers, a norm on their sum."""

    def __init__(self, ops: Ops, spec: StackSpec) -> None:
        super().__init__()
        self.ops = ops
        self.tokens: nn.Parameter | PackedWeight = nn.Parameter(torch.empty(spec.vocab_size, spec.width))
        learned = spec.rope is None
        self.positions = nn.Parameter(torch.empty(spec.max_length, spec.width)) if learned else None
        self.types = nn.Parameter(torch.empty(spec.types, spec.width)) if spec.types else None
        self.norm = make_norm(ops, spec) if spec.norm_at == "post" else None

    def forward(self, tokens: Tensor, positions: Tensor, types: Tensor | None) -> Tensor:
        x = self.ops.embedding(tokens, self.tokens)  # [N, D]
        if self.types is not None:
            x = x + (self.types[0] if types is None else self.ops.embedding(types, self.types))
        if self.positions is not None:
            x = x + self.ops.embedding(positions, self.positions)
        return x if self.norm is None else self.norm(x)
