"""A whole stack of transformer layers, as a back end may compute it in one go.

Letters: N packed tokens, R wanted rows, K rows of a cache, L layers, D model width, V vocabulary, Hk key/value heads, E head
width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from llmasos.contracts.runtime import AttentionLayout, Backend, BlockWeight, PackedWeight

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class NormPlan:
    """``rms_norm`` or ``layer_norm`` as in ``Ops``: weight [D], bias [D]."""

    kind: Literal["rms", "layer"]
    weight: Tensor = field(repr=False)
    bias: Tensor | None = field(repr=False)
    eps: float


@dataclass(frozen=True, slots=True)
class LinearPlan:
    """``linear`` as in ``Ops``: weight [O, I], bias [O]. The weight is a ``BlockWeight`` only for a ``BlockBackend``."""

    weight: Tensor | BlockWeight = field(repr=False)
    bias: Tensor | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """One layer. ``gate`` is None for a feed-forward part without one. ``scale``: what scores of attention are multiplied with."""

    attention_norm: NormPlan
    query: LinearPlan
    key: LinearPlan
    value: LinearPlan
    output: LinearPlan
    scale: float
    feed_forward_norm: NormPlan
    gate: LinearPlan | None
    up: LinearPlan
    down: LinearPlan


@dataclass(frozen=True, slots=True)
class EmbeddingPlan:
    """What the layers begin with: rows of ``tokens`` [V, D], plus those of ``positions`` [T, D] and ``types`` [S, D] where these
    are given (all of type 0 where a pass has none), then ``norm``."""

    tokens: Tensor | PackedWeight = field(repr=False)
    positions: Tensor | None = field(repr=False)
    types: Tensor | None = field(repr=False)
    norm: NormPlan | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class StackPlan:
    """Embeddings and ``layers`` layers one after the other, each with two residual connections.

    With ``norm_first``, for x [N, D]::

        x = x + output(attention(rotary(query(h)), rotary(key(h)), value(h)))    where h = attention_norm(x)
        x = x + down(activation(gate(h)) * up(h))    or down(activation(up(h)))    where h = feed_forward_norm(x)

    and ``final_norm`` of the last x. Otherwise h is x itself and each sum goes through the norm. ``frequencies`` [R/2] float32:
    radians per position of each rotary pair; None without rotary positions.

    ``blocks`` is read once, in order, and its matrices are plain tensors, which may be let go as soon as the next block is
    asked for: whoever takes a stack copies what it needs. Everything else says whether it can be taken.
    """

    embedding: EmbeddingPlan = field(repr=False)
    blocks: Iterable[BlockPlan] = field(repr=False)
    layers: int
    norm_first: bool
    gated: bool
    #: Whether the matrices of the feed-forward parts have biases.
    feed_forward_bias: bool
    #: As in ``Ops.activation``.
    activation: str
    query_heads: int
    key_heads: int
    head_width: int
    frequencies: Tensor | None = field(repr=False)
    final_norm: NormPlan | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class StackInput:
    """One pass over ``tokens`` [N] int64 at ``positions`` [N] int64, of ``types`` [N] int64 (None: all 0).

    With a cache, ``keys`` and ``values`` [L, K, Hk, E] are its slabs: those of the new tokens go to rows ``rows`` [N] int64 of
    each layer before attention reads the slab. ``wanted`` [R] int64, ascending: the rows of the result; the last layer need
    not be computed in full for the others.
    """

    tokens: Tensor
    positions: Tensor
    layout: AttentionLayout
    types: Tensor | None = None
    keys: Tensor | None = None
    values: Tensor | None = None
    rows: Tensor | None = None
    wanted: Tensor | None = None


class StackRunner(Protocol):
    """A stack that a back end has made its own."""

    def __call__(self, given: StackInput) -> Tensor:
        """The final hidden states: [N, D], or [R, D] where rows are wanted."""


@runtime_checkable
class StackBackend(Backend, Protocol):
    """A back end that computes whole stacks, with fewer calls and waits than op by op.

    Small stacks of each form are compared with the reference ops first. What it computes is what its ops compute, but for
    rounding.
    """

    def stack(self, plan: StackPlan) -> StackRunner | None:
        """The stack, ready to run; None, before a block is read, when it cannot run this one (then it goes op by op).

        Raises WeightsError for weights that cannot be used.
        """
