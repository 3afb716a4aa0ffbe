"""Models, checkpoints and model references.

Tensor shapes are written with these letters: N packed tokens, B sequences, T padded length, V vocabulary, D model width,
M selected rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from llmasos.contracts.base import Contribution

if TYPE_CHECKING:
    from torch import Tensor

    from llmasos.contracts.runtime import Ops

#: Element type the arithmetic is done in; for int8 and int4, that of the matrices of weights, and arithmetic is in float32.
#: The policies of the command line are ``exact`` = float32, ``fast`` = bfloat16.
DTypeName = Literal["float32", "bfloat16", "float16", "int8", "int4"]

#: Element types of weights alone.
QUANTISED: frozenset[DTypeName] = frozenset(("int8", "int4"))


def element_name(dtype: DTypeName) -> Literal["float32", "bfloat16", "float16"]:
    """Element type of everything but the matrices of weights, by the name torch gives it."""
    return "float32" if dtype == "int8" or dtype == "int4" else dtype


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """Where a model reference leads: a local directory or one weight file, and how it got there.

    ``files`` maps a path relative to ``path`` (or the file's own name) to its sha256 where the source vouches for it;
    it may be empty, in which case provenance hashes the files itself.
    """

    ref: str
    path: Path
    source: str
    revision: str | None = None
    license: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One stored tensor, known from the header alone. ``nbytes`` is its size in the file; ``dtype`` as the format names it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int

    @property
    def elements(self) -> int:
        """Number of elements: the product of the shape."""
        total = 1
        for size in self.shape:
            total *= size
        return total


class Checkpoint(Protocol):
    """An open, memory-mapped weight file or directory. Opening reads headers only.

    Whatever the file format, ``config`` has the keys of a Hugging Face ``config.json`` and ``tensors`` the names and
    layouts of the matching Hugging Face checkpoint (GGUF loaders rename and un-permute).
    """

    path: Path
    format: str

    @property
    def config(self) -> Mapping[str, Any]:
        """Hugging Face style configuration, ``model_type`` always present."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Stored tensors by Hugging Face name."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """Free facts for ``model info``: name, licence, quantisation, file format version."""

    @property
    def header(self) -> Mapping[str, Any]:
        """Raw key-value header of formats that have one (GGUF: ``tokenizer.ggml.tokens`` and so on), checked, arrays as
        sequences decoded on access; empty for other formats."""

    def tensor(self, name: str) -> Tensor:
        """Read one tensor, dequantised; a view of the mapped file where the format allows.

        Raises WeightsError when the bytes are not what the header promised, KeyError for an unknown name.
        """

    def files(self) -> Sequence[Path]:
        """The files whose bytes define this checkpoint (weights and configuration), for digests."""

    def close(self) -> None:
        """Release the memory maps."""


#: Rows ``begin`` to ``end`` of a packed tensor.
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class TreeTile:
    """How the sequences of a batch hang together when they are parts of a tree of tokens. One entry a sequence.

    A ``PathCache`` holds one path from the root. Every token of sequence b sees the first ``prefix[b]`` tokens of that path,
    then the batch's own rows ``ancestors[b]`` (spans that end before the sequence begins), then, of its own sequence of n
    tokens, those that ``visible[b]`` [n, n] bool says; None means all up to itself. Nothing sees what comes after it, so
    ``visible[b]`` is lower triangular, its diagonal set.

    After the pass the path is its first ``keep`` tokens, followed by the batch's rows ``kept``. ``wanted`` [R] int64, ascending:
    the rows whose hidden states are asked for, None for all; the last layer need not be computed in full for the others.
    """

    prefix: tuple[int, ...]
    ancestors: tuple[tuple[Span, ...], ...]
    visible: tuple[Tensor | None, ...] = field(repr=False)
    keep: int
    kept: tuple[Span, ...]
    wanted: Tensor | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Sequences laid end to end; nothing is padded.

    tokens [N] int64, positions [N] int64, starts: B+1 offsets into N, slots: the cache row of each sequence (None
    without a cache), token_types [N] int64 for models that have segments (None means all zero), tree: how the sequences
    hang together, only for a pass with a path cache.
    """

    tokens: Tensor
    positions: Tensor
    starts: tuple[int, ...]
    slots: tuple[int, ...] | None = None
    token_types: Tensor | None = None
    tree: TreeTile | None = None

    @property
    def size(self) -> int:
        """Number of sequences B."""
        return len(self.starts) - 1


class KVCache(Protocol):
    """Keys and values of past tokens, one row ("slot") a sequence, preallocated to ``capacity`` tokens."""

    capacity: int
    #: Tokens held for each slot; a forward pass appends and advances it.
    lengths: list[int]

    def reset(self, slot: int) -> None:
        """Forget a slot."""

    def copy(self, source: int, target: int) -> None:
        """Make ``target`` hold what ``source`` holds (shared prefixes)."""

    def rewind(self, slot: int, length: int) -> bool:
        """Forget all but the first ``length`` tokens of a slot; False, and nothing changed, for a state that cannot go back."""


@runtime_checkable
class SharingCache(KVCache, Protocol):
    """A ``KVCache`` whose slots can begin with tokens that another slot holds, kept once. Optional."""

    def share(self, source: int, target: int, length: int) -> None:
        """Make ``target`` hold the first ``length`` tokens of ``source``, which has as many, without a copy.

        From then on each goes its own way: what becomes of one of them changes nothing for the other.
        """


@runtime_checkable
class PagedCache(SharingCache, Protocol):
    """A ``SharingCache`` whose slots take blocks from one pool: a short sequence takes little. Optional.

    ``copy`` shares blocks, too. A pass that needs a block when there is none raises UsageError and advances nothing.
    """

    @property
    def free(self) -> int:
        """Blocks that no slot holds."""

    def needs(self, slot: int, length: int) -> int:
        """Blocks to be taken until ``slot`` holds ``length`` tokens, if nobody shares with it in the meantime."""


class PathCache(Protocol):
    """Keys and values of the tokens on one path through a tree, preallocated to ``capacity`` tokens.

    The capacity has to hold the path and, during a pass, the batch.
    """

    capacity: int

    @property
    def length(self) -> int:
        """Tokens held. A pass with a ``TreeTile`` changes it as the tile says."""

    def rewind(self, length: int) -> None:
        """Forget all but the first ``length`` tokens."""


class Model(Protocol):
    """What every loaded model can do."""

    config: Mapping[str, Any]
    vocab_size: int
    #: Longest sequence the positions allow, in tokens.
    max_length: int
    device: str
    dtype: DTypeName

    def hidden(self, batch: PackedBatch, cache: KVCache | None = None) -> Tensor:
        """Final hidden states [N, D] (after the last norm, before any head).

        With a cache, ``batch`` holds only the new tokens of each slot and the cache is advanced by them.
        """

    def num_parameters(self) -> int:
        """Trainable parameters, tied weights counted once."""


@runtime_checkable
class CausalLM(Model, Protocol):
    """A model of the next token."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores [M, V] in the model's dtype for chosen rows [M, D] of ``hidden``."""

    def token_logprobs(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """(log-probability of ``targets`` [M] float32, arg-max token [M] int64) for rows [M, D]; log-sum-exp in fp32."""

    def new_cache(self, slots: int, capacity: int) -> KVCache:
        """An empty cache for ``slots`` sequences of up to ``capacity`` tokens."""


@runtime_checkable
class PagingLM(CausalLM, Protocol):
    """A ``CausalLM`` with a cache whose sequences share a pool. Optional."""

    def new_pages(self, slots: int, capacity: int, tokens: int) -> PagedCache:
        """An empty cache for ``slots`` sequences of up to ``capacity`` tokens each, and at least ``tokens`` in all, however they
        are spread; what slots share counts once."""


@runtime_checkable
class TreeLM(CausalLM, Protocol):
    """A ``CausalLM`` that computes trees of tokens: what sequences begin with in common is computed once.

    Optional: scoring falls back to whole sequences for models without it (recurrent ones, for example).
    ``hidden(batch, path)`` then takes a ``PathCache`` and a batch with a ``TreeTile``.
    """

    def new_path(self, capacity: int) -> PathCache:
        """An empty path of up to ``capacity`` tokens."""

    def hidden(self, batch: PackedBatch, cache: KVCache | PathCache | None = None) -> Tensor:
        """Final hidden states [N, D], as in ``Model``; [R, D] where a tile says which rows are wanted."""

    def token_logprobs(
        self, hidden: Tensor, targets: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As in ``CausalLM``; with ``rows`` [M] int64, ascending and on the CPU, target i belongs to row ``rows[i]`` of
        ``hidden`` [R, D], whose logits are computed once however many targets it has."""


@runtime_checkable
class EncoderModel(Model, Protocol):
    """A bidirectional encoder. Heads the checkpoint lacks raise WeightsError naming the missing tensors."""

    heads: frozenset[str]  # of "mlm", "nsp", "pooler", "classification"

    def mlm_logits(self, hidden: Tensor) -> Tensor:
        """Masked-LM scores [M, V] for rows [M, D]."""

    def pooled(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Pooler output [B, D] from each sequence's first token."""

    def nsp_logits(self, pooled: Tensor) -> Tensor:
        """Next-sentence scores [B, 2]."""

    def class_logits(self, pooled: Tensor) -> Tensor:
        """Sequence-classification scores [B, C]."""


@dataclass(frozen=True, slots=True)
class ArchitectureSummary:
    """Facts for ``model info``, computed from configuration and headers alone."""

    family: str
    kind: Literal["decoder", "encoder", "encoder-decoder"]
    layers: int
    width: int
    heads: int
    kv_heads: int
    vocab_size: int
    max_length: int
    parameters: int


class Architecture(Protocol):
    """Factory object of a ModelArchitecture contribution."""

    def summarize(self, checkpoint: Checkpoint) -> ArchitectureSummary:
        """Check that configuration and tensor headers fit together, and describe the model. Loads no weights.

        Raises WeightsError naming what is missing, unexpected or of the wrong shape.
        """

    def build(self, checkpoint: Checkpoint, ops: Ops, *, dtype: DTypeName, device: str) -> Model:
        """Load the weights and bind the ops once. Raises WeightsError as ``summarize`` does."""


class WeightFormat(Protocol):
    """Factory object of a WeightLoader contribution."""

    def accepts(self, path: Path) -> bool:
        """Whether this directory or file is of this format, judged by names and magic bytes only."""

    def open(self, path: Path, *, allow_pickle: bool = False) -> Checkpoint:
        """Check the headers and map the file. Raises WeightsError on anything that does not add up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelArchitecture(Contribution):
    """A model family. Manifest ``matches``: ``model_type`` and ``architectures`` lists."""

    kind: ClassVar[str] = "model_architecture"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightLoader(Contribution):
    """A weight file format. Manifest ``matches``: ``files`` glob patterns.

    ``priority`` orders formats that accept the same directory (higher first).
    """

    kind: ClassVar[str] = "weight_loader"

    priority: int = 0


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to pick the next token. ``temperature`` 0 is greedy. Filters apply in the order top-k, top-p, min-p, after
    the repetition penalty (Keskar et al. 2019) and temperature, as in transformers.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    #: Report the log-probability of each generated token.
    logprobs: bool = False
    #: Go on past the end-of-sequence token (benchmarks, parity tests).
    ignore_eos: bool = False
    #: Beam search over so many beams, with the meaning of the four settings in transformers; 1 is off. Greedy only.
    num_beams: int = 1
    #: Beams compete by the sum of their log-probabilities over length ** ``length_penalty``.
    length_penalty: float = 1.0
    #: True: over once ``num_beams`` beams have ended. False, "never": when no better one is likely, or possible.
    early_stopping: bool | Literal["never"] = False
    #: How many of the best beams are returned.
    num_return_sequences: int = 1


@dataclass(frozen=True, slots=True)
class Generation:
    """One finished completion. ``text`` excludes the stop string; ``tokens`` are the ids generated, end token excluded.

    Beam search gives each its ``score`` and the best one the others that were asked for as ``alternatives``, best first.
    Speculative decoding says how many tokens were ``drafted`` for it and how many of these were ``accepted``.
    """

    text: str
    tokens: tuple[int, ...]
    finish: Literal["stop", "length", "eos"]
    prompt_tokens: int
    logprobs: tuple[float, ...] | None = None
    score: float | None = None
    alternatives: tuple[Generation, ...] = ()
    drafted: int = 0
    accepted: int = 0


@dataclass(frozen=True, slots=True)
class GenerationChunk:
    """A piece of a streamed completion. ``index`` is the prompt it belongs to; the last chunk carries ``done``."""

    index: int
    text: str
    token: int | None = None
    logprob: float | None = None
    done: Generation | None = None
