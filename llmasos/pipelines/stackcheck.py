"""The self-check of whole stacks: small ones of each form, against the reference ops one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any, cast

from llmasos.contracts.model import QUANTISED, DTypeName, element_name
from llmasos.contracts.runtime import AttentionLayout, OpCallable, PackedWeight, QuantisedWeight
from llmasos.contracts.stack import (
    BlockPlan,
    EmbeddingPlan,
    LinearPlan,
    NormPlan,
    StackInput,
    StackPlan,
    StackRunner,
)

if TYPE_CHECKING:
    from torch import Tensor

#: Widths that are no multiples of a vector: of the model, inside the feed-forward part, of a head.
_WIDTH, _INNER, _HEAD, _LAYERS = 40, 72, 8, 2
_SLAB, _VOCABULARY = 23, 50

Pack = Callable[["Tensor", bool], "Tensor | PackedWeight"]


def stack_difference(
    build: Callable[[StackPlan], StackRunner | None],
    pack: Pack,
    reference: Mapping[str, OpCallable],
    *,
    device: str,
    dtype: DTypeName,
) -> float | None:
    """Largest absolute difference between stacks that ``build`` makes and the reference ops; keys and values count as well.

    A wrong shape, a NaN or an exception counts as infinite. None when it declines every stack.
    """
    import torch

    worst: float | None = None
    for plan in sample_plans(device=device, dtype=dtype):
        if dtype in QUANTISED:
            plan = _representable(plan, pack)
        try:
            packed = replace(plan.embedding, tokens=pack(cast("Tensor", plan.embedding.tokens), True))
            runner = build(replace(plan, embedding=packed))
        except Exception:  # whatever it raises, it is not usable here
            return float("inf")
        if runner is None:
            continue
        worst = worst or 0.0
        for given in sample_passes(plan, device=device, dtype=dtype):
            mine = replace(given, keys=_copy(given.keys), values=_copy(given.values))
            with torch.inference_mode():
                expected = [reference_stack(plan, given, reference), given.keys, given.values]
                try:
                    actual = [runner(mine), mine.keys, mine.values]
                except Exception:
                    return float("inf")
            for left, right in zip(actual, expected, strict=True):
                if right is None or left is None or right.numel() == 0:
                    continue
                if left.shape != right.shape:
                    return float("inf")
                difference = float((left.float() - right.float()).abs().max())
                # NaN compares false with everything, so it is caught here and cannot hide behind a larger number.
                worst = max(worst, difference) if difference == difference else float("inf")
    return worst


def _representable(plan: StackPlan, pack: Pack) -> StackPlan:
    """The plan with matrices of numbers that quantising does not change, so that only the arithmetic is compared."""

    def settled(weight: Any, lookup: bool = False) -> Any:
        packed = pack(weight, lookup)
        return packed.plain() if isinstance(packed, QuantisedWeight) else weight

    def linear(one: LinearPlan) -> LinearPlan:
        return LinearPlan(settled(one.weight), one.bias)

    blocks = [
        replace(
            block,
            query=linear(block.query),
            key=linear(block.key),
            value=linear(block.value),
            output=linear(block.output),
            gate=None if block.gate is None else linear(block.gate),
            up=linear(block.up),
            down=linear(block.down),
        )
        for block in plan.blocks
    ]
    tokens = settled(plan.embedding.tokens, True)
    return replace(plan, blocks=blocks, embedding=replace(plan.embedding, tokens=tokens))


def reference_stack(plan: StackPlan, given: StackInput, ops: Mapping[str, OpCallable]) -> Tensor:
    """What ``StackPlan`` means, op by op, on plain weights."""

    def norm(x: Tensor, one: NormPlan) -> Any:
        if one.kind == "rms":
            return ops["rms_norm"](x, one.weight, one.eps)
        return ops["layer_norm"](x, one.weight, one.bias, one.eps)

    def linear(x: Tensor, one: LinearPlan) -> Any:
        return ops["linear"](x, one.weight, one.bias)

    embedding = plan.embedding
    x = ops["embedding"](given.tokens, embedding.tokens)
    if embedding.types is not None:
        rows = given.tokens * 0 if given.types is None else given.types
        x = x + ops["embedding"](rows, embedding.types)
    if embedding.positions is not None:
        x = x + ops["embedding"](given.positions, embedding.positions)
    if embedding.norm is not None:
        x = norm(x, embedding.norm)
    angles = None if plan.frequencies is None else given.positions.float()[:, None] * plan.frequencies
    count = x.shape[0]
    for layer, block in enumerate(plan.blocks):
        h = norm(x, block.attention_norm) if plan.norm_first else x
        q, k, v = (
            linear(h, one).view(count, -1, plan.head_width) for one in (block.query, block.key, block.value)
        )
        if angles is not None:
            q, k = (ops["rotary"](one, angles.cos(), angles.sin()) for one in (q, k))
        if given.keys is not None and given.values is not None and given.rows is not None:
            k = given.keys[layer].index_copy_(0, given.rows, k)
            v = given.values[layer].index_copy_(0, given.rows, v)
        mixed = ops["attention"](q, k, v, given.layout, block.scale).reshape(count, -1)
        x = x + linear(mixed, block.output)
        if not plan.norm_first:
            x = norm(x, block.attention_norm)
        h = norm(x, block.feed_forward_norm) if plan.norm_first else x
        up = linear(h, block.up)
        if block.gate is None:
            inner = ops["activation"](up, plan.activation)
        else:
            inner = ops["gated_activation"](linear(h, block.gate), up, plan.activation)
        x = x + linear(inner, block.down)
        if not plan.norm_first:
            x = norm(x, block.feed_forward_norm)
    if given.wanted is not None:
        x = x[given.wanted]
    found: Tensor = x if plan.final_norm is None else norm(x, plan.final_norm)
    return found


def sample_plans(*, device: str, dtype: DTypeName) -> Iterator[StackPlan]:
    """The three kinds of stacks in the world: Llama's, GPT-2's and BERT's."""
    import torch

    generator = torch.Generator().manual_seed(20261122)
    kind = getattr(torch, element_name(dtype))

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device=device, dtype=kind)

    def norm(form: Any) -> NormPlan:
        weight = 1 + random(_WIDTH) / 8
        return NormPlan(form, weight, random(_WIDTH) / 8 if form == "layer" else None, 1e-5)

    def linear(outputs: int, inputs: int, biased: bool) -> LinearPlan:
        weight = random(outputs, inputs) / inputs**0.5
        return LinearPlan(weight, random(outputs) / 8 if biased else None)

    def block(form: str, key_heads: int, gated: bool, biased: bool, layer: int) -> BlockPlan:
        heads = 4
        return BlockPlan(
            attention_norm=norm(form),
            query=linear(heads * _HEAD, _WIDTH, biased),
            key=linear(key_heads * _HEAD, _WIDTH, biased),
            value=linear(key_heads * _HEAD, _WIDTH, biased),
            output=linear(_WIDTH, heads * _HEAD, biased),
            scale=0.3 / (1 + layer),
            feed_forward_norm=norm(form),
            gate=linear(_INNER, _WIDTH, biased) if gated else None,
            up=linear(_INNER, _WIDTH, biased),
            down=linear(_WIDTH, _INNER, biased),
        )

    for form, activation, key_heads, gated, first in (
        ("rms", "silu", 2, True, True),
        ("layer", "gelu_new", 4, False, True),
        ("layer", "gelu", 4, False, False),
    ):
        biased = form == "layer"
        rotary = form == "rms"
        yield StackPlan(
            embedding=EmbeddingPlan(
                tokens=random(_VOCABULARY, _WIDTH),
                positions=None if rotary else random(_SLAB, _WIDTH),
                types=None if first else random(2, _WIDTH),
                norm=None if first else norm(form),
            ),
            blocks=tuple(block(form, key_heads, gated, biased, layer) for layer in range(_LAYERS)),
            layers=_LAYERS,
            norm_first=first,
            gated=gated,
            feed_forward_bias=biased,
            activation=activation,
            query_heads=4,
            key_heads=key_heads,
            head_width=_HEAD,
            frequencies=torch.rand(_HEAD // 2, generator=generator).to(device) if rotary else None,
            final_norm=norm(form) if first else None,
        )


def sample_passes(plan: StackPlan, *, device: str, dtype: DTypeName) -> Iterator[StackInput]:
    """One token, sequences end to end, tokens after what a cache holds, and part of a tree."""
    import torch

    generator = torch.Generator().manual_seed(20261123)
    kind = getattr(torch, element_name(dtype))

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device=device, dtype=kind)

    def integers(high: int, count: int) -> Tensor:
        return torch.randint(0, high, (count,), generator=generator).to(device)

    def given(count: int, layout: AttentionLayout, *, slab: bool, wanted: bool) -> StackInput:
        past = (plan.layers, _SLAB, plan.key_heads, _HEAD)
        types = plan.embedding.types is not None and wanted
        return StackInput(
            tokens=integers(_VOCABULARY, count),
            positions=integers(_SLAB, count),
            layout=layout,
            types=integers(2, count) if types else None,
            keys=random(*past) if slab else None,
            values=random(*past) if slab else None,
            rows=torch.arange(_SLAB - count, _SLAB, device=device) if slab else None,
            wanted=torch.arange(0, count, 2, device=device) if wanted else None,
        )

    causal = plan.norm_first
    yield given(1, AttentionLayout((0, 1), (0, 1), causal), slab=False, wanted=False)
    for wanted in (False, True):
        yield given(11, AttentionLayout((0, 4, 4, 11), (0, 4, 4, 11), causal), slab=False, wanted=wanted)
    if not causal:
        return
    # Sequences of one new token each, after five that the cache holds.
    for rows, wanted in product((1, 4), (False, True)):
        begins = tuple(_SLAB - rows + at for at in range(rows))
        layout = AttentionLayout(
            tuple(range(rows + 1)), tuple(max(0, begin - 5) for begin in begins), True, (6,) * rows
        )
        yield given(rows, layout, slab=True, wanted=wanted)
    mask = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]], dtype=torch.bool, device=device)
    tree = AttentionLayout(
        q_starts=(0, 4, 7),
        k_starts=(_SLAB - 7, _SLAB - 3),
        causal=True,
        before=(((0, 9),), ((0, 6), (_SLAB - 7, _SLAB - 5))),
        visible=(None, mask),
    )
    yield given(7, tree, slab=True, wanted=True)


def _copy(slab: Tensor | None) -> Tensor | None:
    return None if slab is None else slab.clone()
