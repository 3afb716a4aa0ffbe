"""The self-check of an op: how far it is from the reference on fixed inputs.

Used when ops are bound to a model (a provider that differs is refused) and by the conformance kit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from llmasos.contracts.model import DTypeName
from llmasos.contracts.runtime import AttentionLayout, OpCallable, OpName

if TYPE_CHECKING:
    from torch import Tensor

#: Token counts tried: none, one, odd, and more than one cache line.
SIZES = (0, 1, 7, 33)


def largest_difference(
    op: OpName, call: OpCallable, reference: OpCallable, *, device: str, dtype: DTypeName
) -> float:
    """Largest absolute difference, in fp32, between ``call`` and ``reference`` over the sample inputs of ``op``.

    In half precision two correct ops may round the last bit differently, so twice the spacing of the element type at
    the expected value is taken off before the maximum.

    A wrong shape, a NaN, or an exception counts as infinite. Inputs are the same on every run and of unit scale; both
    contiguous ones and views with gaps are tried, because a model slices its tensors.
    """
    import torch

    spacing = 0.0 if dtype == "float32" else 2 * torch.finfo(getattr(torch, dtype)).eps
    worst = 0.0
    for strided in (False, True):
        for arguments in sample_inputs(op, device=device, dtype=dtype, strided=strided):
            expected = tensors(reference(*arguments))
            try:
                actual = tensors(call(*arguments))
            except Exception:  # whatever a provider raises, it is not usable here
                return float("inf")
            if [t.shape for t in actual] != [t.shape for t in expected]:
                return float("inf")
            for left, right in zip(actual, expected, strict=True):
                if left.numel() == 0:
                    continue
                beyond = (left.float() - right.float()).abs() - spacing * right.float().abs()
                difference = float(beyond.max())
                # NaN compares false with everything, so it is caught here and cannot hide behind a larger number.
                worst = max(worst, difference) if difference == difference else float("inf")
    return worst


#: Which argument of an op is the matrix of weights.
_WEIGHT = {"embedding": 1, "linear": 1, "token_logprobs": 1}


def packed(op: OpName, call: OpCallable, pack: Callable[[Tensor, bool], Any]) -> OpCallable:
    """One of ``WEIGHT_OPS`` that gets its weights packed, for ``largest_difference``."""

    def on_packed(*arguments: Any) -> Any:
        weight = pack(arguments[_WEIGHT[op]], op == "embedding")
        return call(*arguments[: _WEIGHT[op]], weight, *arguments[_WEIGHT[op] + 1 :])

    return on_packed


def sample_inputs(
    op: OpName, *, device: str, dtype: DTypeName, strided: bool = False
) -> Iterator[tuple[Any, ...]]:
    """Argument tuples for an op: empty, single, odd and longer inputs; several head layouts for attention.

    ``strided`` gives the same numbers as views with gaps between rows or elements.
    """
    import torch

    generator = torch.Generator().manual_seed(20261121)
    kind = getattr(torch, dtype)
    made = 0

    def random(*shape: int) -> Tensor:
        nonlocal made
        values = torch.randn(*shape, generator=generator).to(device=device, dtype=kind)
        made += 1
        return _with_gaps(values, every=made % 2 == 0) if strided else values

    def integers(high: int, *shape: int) -> Tensor:
        values = torch.randint(0, high, shape, generator=generator).to(device)
        return _with_gaps(values, every=True) if strided else values

    makers: dict[str, Callable[[int], Iterator[tuple[Any, ...]]]] = {
        "embedding": lambda n: iter([(integers(19, n), random(19, 24))]),
        "rms_norm": lambda n: iter([(random(n, 40), random(40), 1e-5)]),
        "layer_norm": lambda n: iter(
            [(random(n, 40), random(40), random(40), 1e-5), (random(n, 40), random(40), None, 1e-12)]
        ),
        "linear": lambda n: iter(
            [(random(n, 40), random(24, 40) / 6.3, random(24)), (random(n, 40), random(24, 40) / 6.3, None)]
        ),
        "rotary": lambda n: iter(
            # All of each head, and half of it. Angles are float32 whatever the element type.
            [(random(n, 3, 16), *_angles(random(n, 8))), (random(n, 3, 16), *_angles(random(n, 4)))]
        ),
        "attention": lambda n: _attention_inputs(n, random, device),
        "activation": lambda n: iter(
            [(random(n, 24), name) for name in ("gelu", "gelu_new", "relu", "silu", "tanh")]
        ),
        "gated_activation": lambda n: iter(
            [(random(n, 24), random(n, 24), name) for name in ("gelu", "gelu_new", "relu", "silu", "tanh")]
        ),
        "token_logprobs": lambda n: iter(
            [
                (random(n, 24), random(50, 24) / 4.9, None, integers(50, n)),
                (random(n, 24), random(50, 24) / 4.9, random(50), integers(50, n)),
                # The first row has no target, the others one or two.
                (random(n + 1, 24), random(50, 24) / 4.9, None, integers(50, n), 1 + torch.arange(n)),
                (random(n + 1, 24), random(50, 24) / 4.9, None, integers(50, n), 1 + torch.arange(n) // 2),
            ]
        ),
    }
    for size in SIZES:
        yield from makers[op](size)


def _attention_inputs(n: int, random: Callable[..., Tensor], device: str) -> Iterator[tuple[Any, ...]]:
    for query_heads, key_heads in ((4, 4), (6, 2)):
        for causal in (True, False):
            # Two sequences; the second has 5 cached keys before its queries.
            packed = AttentionLayout((0, n, n + 3), (0, n, n + 8), causal)
            # The same lengths, but keys lie in rows of a cache, in another order and with room to grow.
            cached = AttentionLayout((0, n, n + 3), (11, 0), causal, k_lengths=(n, 8))
            for layout, keys in ((packed, n + 8), (cached, n + 14)):
                yield (
                    random(n + 3, query_heads, 16),
                    random(keys, key_heads, 16),
                    random(keys, key_heads, 16),
                    layout,
                    0.25,
                )
        yield (
            random(2 * n + 3, query_heads, 16),
            random(2 * n + 10, key_heads, 16),
            random(2 * n + 10, key_heads, 16),
            _tree_layout(n, device),
            0.25,
        )


def _tree_layout(n: int, device: str) -> AttentionLayout:
    """A path of 7 keys in front; a chain of n that continues it; n siblings at the chain's end; a small tree off the path.

    The keys are the rows of the path, then those of the batch, as they lie in a path cache.
    """
    import torch

    path = 7
    siblings = torch.eye(n, dtype=torch.bool, device=device)
    forked = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]], dtype=torch.bool, device=device)
    return AttentionLayout(
        q_starts=(0, n, 2 * n, 2 * n + 3),
        k_starts=(path, path + n, path + 2 * n),
        causal=True,
        before=(((0, path),), ((0, path), (path, path + n)), ((0, 2), (path, path + n // 2))),
        visible=(None, siblings, forked),
    )


def _with_gaps(values: Tensor, *, every: bool) -> Tensor:
    """A view that equals ``values`` [..., K] and is not contiguous: every second element, or rows with padding behind."""
    if values.dim() == 0:
        return values
    size = values.shape[-1]
    if every or values.dim() == 1:
        wide = values.new_zeros(*values.shape[:-1], 2 * size)
        wide[..., ::2] = values
        return wide[..., ::2]
    wide = values.new_zeros(*values.shape[:-1], size + 3)
    wide[..., :size] = values
    return wide[..., :size]


def _angles(raw: Tensor) -> tuple[Tensor, Tensor]:
    return raw.float().cos(), raw.float().sin()


def tensors(result: Any) -> list[Tensor]:
    """The tensors an op returned, as a list."""
    return list(result) if isinstance(result, tuple | list) else [result]
