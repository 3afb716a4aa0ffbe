"""The self-check of an op: how far it is from the reference on fixed inputs.

Used when ops are bound to a model (a provider that differs is refused) and by the conformance kit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from llmasos.contracts.model import DTypeName, element_name
from llmasos.contracts.runtime import AttentionLayout, OpCallable, OpName, QuantisedWeight

if TYPE_CHECKING:
    from torch import Tensor

#: Token counts tried: none, one, odd, and more than one cache line.
SIZES = (0, 1, 7, 33)
#: Tried too by a thorough check: around the widths of registers and of the blocks that kernels work in.
MORE_SIZES = (2, 3, 8, 15, 16, 17, 64, 65, 130)


class Widths(NamedTuple):
    """Input width, output width, head width (a multiple of 4) and vocabulary of the sample inputs."""

    inner: int = 40
    outer: int = 24
    head: int = 16
    vocabulary: int = 50


#: Tried too by a thorough check: narrower than a register, whole registers, and a little more than many of them.
MORE_WIDTHS = (Widths(7, 5, 4, 3), Widths(64, 96, 64, 257), Widths(131, 33, 80, 1031))


class Comparison(NamedTuple):
    """How far an op is from the reference, and what it did where that is no number."""

    difference: float
    problem: str | None = None


def largest_difference(
    op: OpName, call: OpCallable, reference: OpCallable, *, device: str, dtype: DTypeName
) -> float:
    """The difference that ``compare`` finds."""
    return compare(op, call, reference, device=device, dtype=dtype).difference


def compare(
    op: OpName,
    call: OpCallable,
    reference: OpCallable,
    *,
    device: str,
    dtype: DTypeName,
    thorough: bool = False,
) -> Comparison:
    """Largest absolute difference, in fp32, between ``call`` and ``reference`` over the sample inputs of ``op``.

    In half precision two correct ops may round differently, inside (where values are of unit scale) and at the end, so
    twice the spacing of the element type there is taken off before the maximum. Of two scores that are nearly equal either
    may be called the largest, so an arg-max is compared by its score.

    A wrong shape, a NaN, or an exception counts as infinite. Inputs are the same on every run and of unit scale; both
    contiguous ones and views with gaps are tried, because a model slices its tensors.
    """
    import torch

    element = element_name(dtype)
    spacing = 0.0 if element == "float32" else 2 * torch.finfo(getattr(torch, element)).eps
    infinite = float("inf")
    worst = 0.0
    for strided in (False, True):
        for arguments in sample_inputs(op, device=device, dtype=dtype, strided=strided, thorough=thorough):
            expected = tensors(reference(*arguments))
            try:
                actual = tensors(call(*arguments))
            except Exception as error:  # whatever a provider raises, it is not usable here
                said = (str(error).strip().splitlines() or [""])[0]
                return Comparison(infinite, f"raised {type(error).__name__}: {said}")
            shapes = [list(t.shape) for t in actual], [list(t.shape) for t in expected]
            if shapes[0] != shapes[1]:
                return Comparison(infinite, f"gave the shapes {shapes[0]} instead of {shapes[1]}")
            if op == "token_logprobs":
                if not _are_tokens(actual[1], arguments[1].shape[0]):
                    return Comparison(infinite, "gave an arg-max outside the vocabulary")
                actual[1], expected[1] = (_scores(arguments, best) for best in (actual[1], expected[1]))
            for left, right in zip(actual, expected, strict=True):
                if left.numel() == 0:
                    continue
                allowed = spacing * (1 + right.float().abs())
                beyond = ((left.float() - right.float()).abs() - allowed).clamp(min=0)
                difference = float(beyond.max())
                # NaN compares false with everything, so it is caught here and cannot hide behind a larger number.
                if difference != difference:
                    return Comparison(infinite, "gave NaN")
                worst = max(worst, difference)
    return Comparison(worst)


def _are_tokens(best: Tensor, vocabulary: int) -> bool:
    return not best.is_floating_point() and bool(((best >= 0) & (best < vocabulary)).all())


def _scores(arguments: tuple[Any, ...], best: Tensor) -> Tensor:
    """The scores [M] of tokens ``best`` [M] for the arguments of ``token_logprobs``."""
    x, weight, bias, _, *rows = arguments
    scores = x.float() @ weight.float().T + (0 if bias is None else bias.float())
    chosen: Tensor = scores[rows[0].to(scores.device)] if rows else scores
    return chosen.gather(1, best[:, None]).squeeze(1)


#: Which argument of each of ``WEIGHT_OPS`` is the matrix of weights.
WEIGHT_PLACE: Mapping[OpName, int] = {"embedding": 1, "linear": 1, "token_logprobs": 1}


def packed(op: OpName, call: OpCallable, pack: Callable[[Tensor, bool], Any]) -> OpCallable:
    """One of ``WEIGHT_OPS`` that gets its weights packed, for ``compare``."""
    place = WEIGHT_PLACE[op]

    def on_packed(*arguments: Any) -> Any:
        weight = pack(arguments[place], op == "embedding")
        return call(*arguments[:place], weight, *arguments[place + 1 :])

    return on_packed


def unpacked(op: OpName, reference: OpCallable, pack: Callable[[Tensor, bool], Any]) -> OpCallable:
    """The reference on the numbers that packed weights stand for."""
    place = WEIGHT_PLACE[op]

    def on_plain(*arguments: Any) -> Any:
        weight = pack(arguments[place], op == "embedding")
        plain = weight.plain() if isinstance(weight, QuantisedWeight) else arguments[place]
        return reference(*arguments[:place], plain, *arguments[place + 1 :])

    return on_plain


def sample_inputs(
    op: OpName, *, device: str, dtype: DTypeName, strided: bool = False, thorough: bool = False
) -> Iterator[tuple[Any, ...]]:
    """Argument tuples for an op: empty, single, odd and longer inputs; several head layouts for attention.

    ``strided`` gives the same numbers as views with gaps between rows or elements; ``thorough`` more sizes and widths.
    """
    import torch

    generator = torch.Generator().manual_seed(20261121)
    kind = getattr(torch, element_name(dtype))
    made = 0

    def random(*shape: int, scale: float = 1.0) -> Tensor:
        nonlocal made
        values = torch.randn(*shape, generator=generator).mul_(scale).to(device=device, dtype=kind)
        made += 1
        return _with_gaps(values, every=made % 2 == 0) if strided else values

    def integers(high: int, *shape: int) -> Tensor:
        values = torch.randint(0, high, shape, generator=generator).to(device)
        return _with_gaps(values, every=True) if strided else values

    def matrix(outputs: int, inputs: int) -> Tensor:
        return random(outputs, inputs, scale=1 / math.sqrt(inputs))

    kinds = ("gelu", "gelu_new", "relu", "silu", "tanh")
    makers: dict[str, Callable[[int, Widths], Iterator[tuple[Any, ...]]]] = {
        "embedding": lambda n, w: iter([(integers(19, n), random(19, w.outer))]),
        "rms_norm": lambda n, w: iter([(random(n, w.inner), random(w.inner), 1e-5)]),
        "layer_norm": lambda n, w: iter(
            [
                (random(n, w.inner), random(w.inner), random(w.inner), 1e-5),
                (random(n, w.inner), random(w.inner), None, 1e-12),
            ]
        ),
        "linear": lambda n, w: iter(
            [
                (random(n, w.inner), matrix(w.outer, w.inner), random(w.outer)),
                (random(n, w.inner), matrix(w.outer, w.inner), None),
            ]
        ),
        "rotary": lambda n, w: iter(
            # All of each head, and half of it. Angles are float32 whatever the element type.
            [
                (random(n, 3, w.head), *_angles(random(n, w.head // 2))),
                (random(n, 3, w.head), *_angles(random(n, w.head // 4))),
            ]
        ),
        "attention": lambda n, w: _attention_inputs(n, w.head, random, device),
        "activation": lambda n, w: iter([(random(n, w.outer), name) for name in kinds]),
        "gated_activation": lambda n, w: iter(
            [(random(n, w.outer), random(n, w.outer), name) for name in kinds]
        ),
        "token_logprobs": lambda n, w: _head_inputs(n, w, random, integers, matrix),
    }
    for width in (Widths(), *MORE_WIDTHS) if thorough else (Widths(),):
        for size in (*SIZES, *MORE_SIZES) if thorough else SIZES:
            yield from makers[op](size, width)


def _head_inputs(
    n: int,
    w: Widths,
    random: Callable[..., Tensor],
    integers: Callable[..., Tensor],
    matrix: Callable[..., Tensor],
) -> Iterator[tuple[Any, ...]]:
    import torch

    yield random(n, w.outer), matrix(w.vocabulary, w.outer), None, integers(w.vocabulary, n)
    yield random(n, w.outer), matrix(w.vocabulary, w.outer), random(w.vocabulary), integers(w.vocabulary, n)
    # The first row has no target, the others one or two.
    for rows in (1 + torch.arange(n), 1 + torch.arange(n) // 2):
        yield random(n + 1, w.outer), matrix(w.vocabulary, w.outer), None, integers(w.vocabulary, n), rows


def _attention_inputs(
    n: int, head: int, random: Callable[..., Tensor], device: str
) -> Iterator[tuple[Any, ...]]:
    scale = 1 / math.sqrt(head)
    for query_heads, key_heads in ((4, 4), (6, 2)):
        for causal in (True, False):
            # Two sequences; the second has 5 cached keys before its queries.
            packed = AttentionLayout((0, n, n + 3), (0, n, n + 8), causal)
            # The same lengths, but keys lie in rows of a cache, in another order and with room to grow.
            cached = AttentionLayout((0, n, n + 3), (11, 0), causal, k_lengths=(n, 8))
            for layout, keys in ((packed, n + 8), (cached, n + 14)):
                yield (
                    random(n + 3, query_heads, head),
                    random(keys, key_heads, head),
                    random(keys, key_heads, head),
                    layout,
                    scale,
                )
        yield (
            random(2 * n + 3, query_heads, head),
            random(2 * n + 10, key_heads, head),
            random(2 * n + 10, key_heads, head),
            _tree_layout(n, device),
            scale,
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
