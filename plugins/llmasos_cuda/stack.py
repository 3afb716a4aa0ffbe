"""Whole stacks of layers: between the matrices, one kernel where op by op there are three.

Sums go with the norms after them, rotary positions with the way of keys and values into the cache, queries, keys and values are one
product, and so are gate and up. Steps of decoding are replayed as graphs.

Letters: N packed tokens, R wanted rows, D model width, F feed-forward width, Hq query heads, Hk key/value heads, E head width, L
layers, K rows of a cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llmasos.api import LinearPlan, NormPlan, StackInput, StackPlan
from llmasos_cuda import ops
from llmasos_cuda.devices import answering
from llmasos_cuda.graphs import Graphs
from llmasos_cuda.launching import on_device_of, power_of_two
from llmasos_cuda.operators import operators
from llmasos_cuda.plan import AttentionPlan
from llmasos_cuda.quantisation import QuantisedMatrix, quantise

#: Sequences of a step beyond which launches cost little beside the work.
_LARGEST_GRAPH = 256


@dataclass(frozen=True, slots=True)
class _Linear:
    weight: Tensor | QuantisedMatrix
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return ops.linear(x, self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class _Layer:
    attention_norm: NormPlan
    qkv: _Linear
    output: _Linear
    scale: float
    feed_forward_norm: NormPlan
    up: _Linear  # gate and up where there is a gate
    down: _Linear


@dataclass(frozen=True, slots=True)
class _Pass:
    """What the layers of one pass share: attention as a function of a layer's queries, keys and values, and the cache."""

    attend: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    cos: Tensor | None
    sin: Tensor | None
    keys: Tensor | None
    values: Tensor | None
    rows: Tensor | None
    wanted: Tensor | None


class CudaStack:
    """A ``StackRunner``. Its matrices are its own, in 8 or 4 bits where ``bits`` says so."""

    def __init__(self, plan: StackPlan, bits: int | None, graphs: Graphs | None) -> None:
        self._plan = plan
        self._graphs = graphs
        self._layers = [
            _Layer(
                attention_norm=block.attention_norm,
                qkv=_joined([block.query, block.key, block.value], bits),
                output=_joined([block.output], bits),
                scale=block.scale,
                feed_forward_norm=block.feed_forward_norm,
                up=_joined([block.up] if block.gate is None else [block.gate, block.up], bits),
                down=_joined([block.down], bits),
            )
            for block in plan.blocks
        ]

    def __call__(self, given: StackInput) -> Tensor:
        """The final hidden states [N, D], or [R, D] where rows are wanted. Raises DeviceUnavailable for a device that is gone."""
        with answering(given.tokens.device), on_device_of([given.tokens]), torch.no_grad():
            if self._graphs is not None and _is_step(given):
                return self._step(given, self._graphs)
            return self._run(given)

    def _run(self, given: StackInput) -> Tensor:
        made: dict[int, AttentionPlan] = {}

        def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
            if ops.dense(q, given.layout):
                return ops.attention(q, k, v, given.layout, scale)
            # One plan serves all layers; it is made when the first of them knows its heads.
            plan = made.get(0) or made.setdefault(0, ops.plan_of(q, k, given.layout))
            return ops.attend(q, k, v, plan, scale)

        x = self._embed(given.tokens, given.positions, given.types)
        cos, sin = self._angles(given.positions)
        return self._blocks(x, _Pass(attend, cos, sin, given.keys, given.values, given.rows, given.wanted))

    def _step(self, given: StackInput, graphs: Graphs) -> Tensor:
        """A token for each sequence, by a recorded step for so many sequences and so much attention, or a little more."""
        assert given.keys is not None
        assert given.values is not None
        assert given.rows is not None
        keys, values = given.keys, given.values
        count = given.tokens.shape[0]
        room = power_of_two(count)
        width = self._plan.head_width
        shape = torch.empty(0, self._plan.query_heads, width, dtype=keys.dtype, device=keys.device)
        plan = ops.plan_of(shape, keys[0], given.layout, room)

        def body(inputs: Sequence[Tensor]) -> Tensor:
            tokens, positions, rows, tables = inputs
            here = replace(plan, tables=tables)
            cos, sin = self._angles(positions)
            one = _Pass(
                lambda q, k, v, scale: ops.attend(q, k, v, here, scale), cos, sin, keys, values, rows, None
            )
            return self._blocks(self._embed(tokens, positions, None), one)

        inputs = (
            _filled(given.tokens, room, 0),
            _filled(given.positions, room, 0),
            # What only fills the step up is kept out of the cache.
            _filled(given.rows, room, -1),
            plan.tables,
        )
        slabs = (keys.data_ptr(), values.data_ptr(), keys.shape, keys.stride())
        key = (room, plan.places, plan.part_rows, plan.rows, *slabs)
        return graphs.run(key, inputs, body)[:count]

    def _embed(self, tokens: Tensor, positions: Tensor, types: Tensor | None) -> Tensor:
        embedding = self._plan.embedding
        table = embedding.tokens
        assert isinstance(table, Tensor | QuantisedMatrix), "packed by this back end"
        x = ops.embedding(tokens, table)
        if embedding.types is not None:
            x = x + (embedding.types[0] if types is None else ops.embedding(types, embedding.types))
        if embedding.positions is not None:
            x = x + ops.embedding(positions, embedding.positions)
        return x if embedding.norm is None else _norm(x, embedding.norm)

    def _angles(self, positions: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if self._plan.frequencies is None:
            return None, None
        angles = positions.float()[:, None] * self._plan.frequencies
        return angles.cos(), angles.sin()

    def _blocks(self, x: Tensor, shared: _Pass) -> Tensor:
        plan = self._plan
        h = _norm(x, self._layers[0].attention_norm) if plan.norm_first else x
        for number, layer in enumerate(self._layers):
            last = number == len(self._layers) - 1
            mixed = self._attention(layer, number, h, shared)
            if last and shared.wanted is not None:
                # Nothing reads the last layer but the result.
                x, mixed = x[shared.wanted], mixed[shared.wanted]
            delta = layer.output(mixed)
            x, h = self._added(x, delta, layer.feed_forward_norm if plan.norm_first else layer.attention_norm)
            up = layer.up(h)
            gate = up.chunk(2, dim=1) if plan.gated else (up, None)
            delta = layer.down(operators().gated(*gate, plan.activation))
            if not plan.norm_first:
                x, h = self._added(x, delta, layer.feed_forward_norm)
            elif not last:
                x, h = self._added(x, delta, self._layers[number + 1].attention_norm)
            elif plan.final_norm is not None:
                h = self._added(x, delta, plan.final_norm)[1]
            else:
                h = x + delta
        return h

    def _added(self, x: Tensor, delta: Tensor, norm: NormPlan) -> tuple[Tensor, Tensor]:
        """(what the next residual connection adds to, what the next matrix reads)."""
        h, total = operators().add_norm(x, delta, norm.weight, norm.bias, norm.eps, norm.kind == "layer")
        return (total, h) if self._plan.norm_first else (h, h)

    def _attention(self, layer: _Layer, number: int, h: Tensor, shared: _Pass) -> Tensor:
        """What attention mixes for each token: [N, Hq E]."""
        plan = self._plan
        qkv = layer.qkv(h)  # [N, (Hq + 2 Hk) E]
        heads = qkv.view(qkv.shape[0], -1, plan.head_width)
        q, k, v = heads.split([plan.query_heads, plan.key_heads, plan.key_heads], dim=1)
        if shared.keys is not None and shared.values is not None and shared.rows is not None:
            k, v = shared.keys[number], shared.values[number]
            operators().rotary_store(qkv, shared.cos, shared.sin, shared.rows, k, v, plan.query_heads)
        elif shared.cos is not None and shared.sin is not None:
            turned = ops.rotary(heads[:, : plan.query_heads + plan.key_heads], shared.cos, shared.sin)
            q, k = turned.split([plan.query_heads, plan.key_heads], dim=1)
        return shared.attend(q, k, v, layer.scale).flatten(1)


def _joined(parts: Sequence[LinearPlan], bits: int | None) -> _Linear:
    """Several matrices that read the same input as one, which shares no memory with them."""
    weight = torch.cat([one.weight.detach() for one in parts])
    bias = None
    if any(one.bias is not None for one in parts):
        zeros = weight.new_zeros
        bias = torch.cat([zeros(len(one.weight)) if one.bias is None else one.bias.detach() for one in parts])
    return _Linear(weight if bits is None else quantise(weight, bits), bias)


def _norm(x: Tensor, norm: NormPlan) -> Tensor:
    found: Tensor = operators().norm(x, norm.weight, norm.bias, norm.eps, norm.kind == "layer")
    return found


def _is_step(given: StackInput) -> bool:
    """Whether a pass is a step of decoding: a token for each sequence, after what a cache holds."""
    count = given.tokens.shape[0]
    return (
        given.keys is not None
        and given.rows is not None
        and given.wanted is None
        and given.types is None
        and count <= _LARGEST_GRAPH
        and given.layout.q_starts == tuple(range(count + 1))
    )


def _filled(x: Tensor, room: int, value: int) -> Tensor:
    return torch.nn.functional.pad(x, (0, room - x.shape[0]), value=value)
