"""Back ends and the coarse operators they provide.

Letters: N packed tokens, M rows, I input width, O output width, Hq query heads, Hk key/value heads, E head width, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from llmasos.contracts.base import Contribution

if TYPE_CHECKING:
    from torch import Tensor

    from llmasos.contracts.stack import StackPlan, StackRunner

OpName = Literal[
    "linear",
    "embedding",
    "rms_norm",
    "layer_norm",
    "rotary",
    "attention",
    "activation",
    "gated_activation",
    "token_logprobs",
]

#: Every op a model may ask for, in the order of a forward pass.
OP_NAMES: tuple[OpName, ...] = (
    "embedding",
    "rms_norm",
    "layer_norm",
    "linear",
    "rotary",
    "attention",
    "activation",
    "gated_activation",
    "token_logprobs",
)

#: The ops that read matrices of weights, and take what ``pack`` of their back end returned as well as plain tensors.
WEIGHT_OPS: tuple[OpName, ...] = ("embedding", "linear", "token_logprobs")


@runtime_checkable
class PackedWeight(Protocol):
    """A matrix of weights [O, I] laid out as one back end wants it; only that back end's ops can read it."""

    #: O and I.
    outputs: int
    inputs: int

    @property
    def nbytes(self) -> int:
        """Bytes it holds in memory."""


@runtime_checkable
class QuantisedWeight(PackedWeight, Protocol):
    """A packed matrix of fewer bits than the arithmetic has."""

    def plain(self) -> Tensor:
        """The numbers it stands for: [O, I] float32."""


@runtime_checkable
class BlockWeight(QuantisedWeight, Protocol):
    """A matrix as its file keeps it: each row a run of blocks, as GGUF defines them. Only back ends that say so read it."""

    #: GGUF's name for the type of the blocks: "Q8_0", "Q4_K".
    kind: str
    #: The blocks, [O, bytes of a row] uint8; may be a view of the file.
    data: Tensor

    def part(self, begin: int, end: int) -> BlockWeight:
        """Rows ``begin`` to ``end``."""


@dataclass(frozen=True, slots=True)
class AttentionLayout:
    """Which keys each packed query may see.

    Sequence b has queries ``q_starts[b]:q_starts[b+1]`` and keys ``k_starts[b]:k_starts[b+1]``; its queries are the last
    tokens of its keys. ``causal``: query i of a sequence with n queries and m keys sees keys up to m - n + i.

    ``k_lengths`` is given when keys lie in a cache whose rows have room to grow: then the keys of b are the ``k_lengths[b]``
    rows from ``k_starts[b]`` on, ``k_starts`` has B entries, in any order, and rows between the ranges hold nothing.

    ``before`` and ``visible`` are given together, for trees of tokens: then the keys of b are first the rows of the spans
    ``before[b]``, in that order, which all its queries see, and then its own n rows from ``k_starts[b]`` on (B entries), of
    which query i sees those set in row i of ``visible[b]`` [n, n] bool. That mask is lower triangular, diagonal included;
    None means all of that triangle.
    """

    q_starts: tuple[int, ...]
    k_starts: tuple[int, ...]
    causal: bool
    k_lengths: tuple[int, ...] | None = None
    before: tuple[tuple[tuple[int, int], ...], ...] | None = None
    visible: tuple[Tensor | None, ...] | None = field(default=None, repr=False)


class Ops(Protocol):
    """The operators bound for one model, chosen once when it is built."""

    #: op name -> full name of the provider, for ``--explain`` and the record.
    providers: Mapping[str, str]
    #: Types of blocks that ``pack`` and ``stack`` take as a ``BlockWeight``.
    block_types: frozenset[str]

    def pack(self, weight: Tensor | BlockWeight, lookup: bool) -> Tensor | PackedWeight:
        """A matrix [O, I] as ``WEIGHT_OPS`` read it fastest; called once for each, when a model is loaded.

        ``lookup``: rows of it are looked up, too (``embedding``). The result may share memory with ``weight``.
        """

    def stack(self, plan: StackPlan) -> StackRunner | None:
        """A whole stack of layers in one call, where the back end can do that; None to go op by op."""

    def embedding(self, ids: Tensor, weight: Tensor | PackedWeight) -> Tensor:
        """ids [N] int64, weight [V, O] -> [N, O]."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x [N, I] / rms(x) * weight [I]; statistics in fp32 (Zhang & Sennrich 2019)."""

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        """x [N, I] normalised over I, times weight [I] plus bias [I] (Ba et al. 2016)."""

    def linear(self, x: Tensor, weight: Tensor | PackedWeight, bias: Tensor | None) -> Tensor:
        """x [N, I] @ weight [O, I]ᵀ + bias [O] -> [N, O]."""

    def rotary(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate the first R elements of each head of x [N, H, E], R <= E, by angles given as cos, sin [N, R/2] float32;
        element j is paired with j + R/2 as in Llama (Su et al. 2021) and the rest pass through."""

    def attention(self, q: Tensor, k: Tensor, v: Tensor, layout: AttentionLayout, scale: float) -> Tensor:
        """softmax(q kᵀ · scale) v per sequence and head: q [N, Hq, E], k and v [K, Hk, E] -> [N, Hq, E].

        Hq is a multiple of Hk; query head h reads key head h // (Hq / Hk) (Ainslie et al. 2023).
        """

    def activation(self, x: Tensor, kind: str) -> Tensor:
        """Pointwise ``gelu`` (erf), ``gelu_new`` (tanh), ``relu``, ``silu`` or ``tanh``."""

    def gated_activation(self, gate: Tensor, up: Tensor, kind: str) -> Tensor:
        """activation(gate) * up, both [N, O] (Shazeer 2020)."""

    def token_logprobs(
        self,
        x: Tensor,
        weight: Tensor | PackedWeight,
        bias: Tensor | None,
        targets: Tensor,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """log softmax(x weightᵀ + bias)[targets] in fp32, and the arg-max: x [M, I], weight [V, I], targets [M] -> [M], [M].

        With ``rows`` [M] int64, ascending and on the CPU, x is [R, I] and target i belongs to row ``rows[i]``.
        """


@dataclass(frozen=True, slots=True)
class BackendRequest:
    """What a model wants to run on. ``device`` is what the user said; ``auto`` leaves the choice to the plugins."""

    device: str
    dtype: str


class Backend(Protocol):
    """Factory object of a BackendDef contribution."""

    def devices(self) -> tuple[str, ...]:
        """Devices present on this machine that this back end can drive, best first."""

    def dtypes(self, device: str) -> tuple[str, ...]:
        """Element types it computes in on that device, best first."""


@runtime_checkable
class PreparingBackend(Backend, Protocol):
    """A back end that has something to find out or to set up before models use it."""

    def prepare(self, device: str, dtype: str, folder: Path) -> None:
        """Called before ops are bound for a model. What was measured may be kept below ``folder``, which may not exist yet and
        may be emptied at any time."""


@runtime_checkable
class DescribedBackend(Backend, Protocol):
    """A back end that says what it is on this machine, for ``llmasos backend info``."""

    def facts(self) -> Mapping[str, str]:
        """Name -> one line of text, in the order to show: which kernels it runs and why, the instructions they use, threads,
        what was done to the process. Asked after ``prepare``; cheap, and never raises for what is absent."""


@runtime_checkable
class PackingBackend(Backend, Protocol):
    """A back end whose ops read weights from a layout of their own.

    ``pack`` is used when the back end provides all of ``WEIGHT_OPS`` and each agrees with the reference on packed weights.
    """

    def pack(self, weight: Tensor, lookup: bool) -> Tensor | PackedWeight:
        """As in ``Ops``."""


@runtime_checkable
class BlockBackend(PackingBackend, Protocol):
    """A back end that takes matrices as a quantised file keeps them: ``pack``, and ``stack`` if it has that, are then given a
    ``BlockWeight`` for each of them. Where weights are ``QUANTISED`` it computes with the numbers that the blocks stand for, or
    with finer ones; otherwise it keeps those numbers in the element type that was asked for."""

    #: GGUF's names for the types of blocks it takes.
    block_types: frozenset[str]

    def pack(self, weight: Tensor | BlockWeight, lookup: bool) -> Tensor | PackedWeight:
        """As in ``Ops``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendDef(Contribution):
    """A back end. ``priority`` orders back ends that can serve the same request (higher first)."""

    kind: ClassVar[str] = "backend"

    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelOp(Contribution):
    """One op of one back end; ``name`` is ``backend.op`` and ``factory`` names the callable itself.

    Every op is checked against the ``reference`` back end before it is used and refused, with the number that differed,
    when it is further than ``tolerance`` (largest absolute difference in fp32 on unit-scale inputs).
    """

    kind: ClassVar[str] = "kernel_op"

    op: OpName
    backend: str
    devices: tuple[str, ...] = ("cpu", "cuda")
    dtypes: tuple[str, ...] = ("float32", "bfloat16", "float16")
    tolerance: float = 1e-5


#: The callable behind a KernelOp has the signature of the method of the same name in ``Ops``.
OpCallable = Callable[..., Any]
