"""Decoder and encoder: one stack of blocks, assembled by a ``StackSpec``.

Shapes: N packed tokens, M chosen rows, B sequences, T padded length, D model width, V vocabulary, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llmasos.api import (
    AttentionLayout,
    BlockPlan,
    DTypeName,
    EmbeddingPlan,
    EvaluationError,
    KVCache,
    Ops,
    PackedBatch,
    PackedWeight,
    PathCache,
    StackInput,
    StackPlan,
    StackRunner,
    UsageError,
    WeightsError,
    element_name,
)
from llmasos_transformer import padded
from llmasos_transformer.cache import BlockCache
from llmasos_transformer.layers import Block, Embeddings, Linear, Pass, make_norm
from llmasos_transformer.path import SlabPath, check_tile, key_spans
from llmasos_transformer.spec import StackSpec


def _inside(ids: Tensor, limit: int, what: str, hint: str) -> None:
    """Refuse ids that would index past a table. On accelerators asking would wait for the device, which checks itself."""
    if ids.device.type != "cpu" or not ids.numel():
        return
    low, high = (int(x) for x in torch.aminmax(ids))
    if low < 0 or high >= limit:
        raise EvaluationError(
            f"{what} {low if low < 0 else high} is outside the table of {limit} entries", hint=hint
        )


def _given(batch: PackedBatch, shared: Pass) -> StackInput:
    """A pass as a back end takes it that computes whole stacks."""
    keys = values = None
    if shared.cache is not None:
        keys, values = shared.cache.slabs()
    return StackInput(
        tokens=batch.tokens,
        positions=batch.positions,
        layout=shared.layout,
        types=batch.token_types,
        keys=keys,
        values=values,
        rows=shared.cache_rows,
        wanted=shared.wanted,
    )


class Stack(nn.Module):
    """Embeddings, blocks and the last norm. Decoders see only the past, encoders see everything."""

    def __init__(
        self, ops: Ops, spec: StackSpec, config: Mapping[str, Any], *, dtype: DTypeName, device: str
    ) -> None:
        super().__init__()
        self.ops = ops
        self.spec = spec
        self.config = config
        self.dtype: DTypeName = dtype
        self.device = device
        #: What activations, keys and values are made of.
        self.element: torch.dtype = getattr(torch, element_name(dtype))
        self.vocab_size = spec.vocab_size
        self.max_length = spec.max_length
        self.embeddings = Embeddings(ops, spec)
        self.blocks = nn.ModuleList(Block(ops, spec, layer) for layer in range(spec.layers))
        self.final_norm = make_norm(ops, spec) if spec.norm_at == "pre" else None
        #: The layers as the back end computes them in one call; None: block by block, as above.
        self.runner: StackRunner | None = None
        #: In training, keep only what enters each layer and compute the layer again for its gradients.
        self.recompute = False
        #: Numbers of the matrices that the back end has taken.
        self._taken = 0
        # Kept out of the state: frequencies are float32 whatever the model's dtype.
        self.frequencies: Tensor | None = None if spec.rope is None else spec.rope.frequencies().to(device)

    def hidden(self, batch: PackedBatch, cache: KVCache | PathCache | None = None) -> Tensor:
        """Final hidden states [N, D], after the last norm; [R, D] where a tile says which rows are wanted.

        With a cache, ``batch`` holds the new tokens of the slots it names, or a tile of a tree, and the cache is advanced
        by them once the pass has succeeded. Raises EvaluationError for a sequence longer than ``max_length`` and for ids
        outside their table (tokens, learned positions, token types), UsageError for a batch that does not fit the cache.
        """
        counts = [end - start for start, end in pairwise(batch.starts)]
        slabs = self._check(batch, cache, counts)
        if batch.tokens.shape[0] == 0:
            return torch.zeros(0, self.spec.width, dtype=self.element, device=self.device)
        cos = sin = rows = None
        if self.frequencies is not None and self.runner is None:
            angles = batch.positions.to(torch.float32)[:, None] * self.frequencies  # [N, R/2]
            cos, sin = angles.cos(), angles.sin()
        causal = self.spec.kind == "decoder"
        layout = AttentionLayout(q_starts=batch.starts, k_starts=batch.starts, causal=causal)
        if isinstance(slabs, SlabPath) and batch.tree is not None:
            rows = slabs.rows(batch.starts[-1])
            layout = AttentionLayout(
                q_starts=batch.starts,
                k_starts=tuple(slabs.length + start for start in batch.starts[:-1]),
                causal=True,
                before=key_spans(batch.tree, slabs.length),
                visible=batch.tree.visible,
            )
        elif isinstance(slabs, BlockCache) and batch.slots is not None:
            rows = slabs.rows(batch.slots, counts)
            layout = slabs.layout(batch.slots, batch.starts, causal=causal)
        wanted = None if batch.tree is None else batch.tree.wanted
        shared = Pass(layout=layout, cos=cos, sin=sin, cache=slabs, cache_rows=rows, wanted=wanted)
        if self.runner is not None:
            x = self.runner(_given(batch, shared))
        else:
            x = self._blocks(self.embeddings(batch.tokens, batch.positions, batch.token_types), shared)
        if isinstance(slabs, SlabPath) and batch.tree is not None:
            slabs.advance(batch.tree)
        elif isinstance(slabs, BlockCache) and batch.slots is not None:
            slabs.advance(batch.slots, counts)
        return x

    def _blocks(self, x: Tensor, shared: Pass) -> Tensor:
        """The layers and the last norm: [N, D] -> [N, D], or [R, D] where rows are wanted."""
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, shared, use_reentrant=False)
            else:
                x = block(x, shared)
        return x if self.final_norm is None else self.final_norm(x)

    def plan(self) -> StackPlan:
        """The stack as a back end takes it that computes whole ones, while the matrices of the layers are still here."""
        spec, embeddings = self.spec, self.embeddings
        return StackPlan(
            embedding=EmbeddingPlan(
                tokens=embeddings.tokens,
                positions=embeddings.positions,
                types=embeddings.types,
                norm=None if embeddings.norm is None else embeddings.norm.plan(),
            ),
            blocks=(block.plan() for block in self._layers()),
            layers=spec.layers,
            norm_first=spec.norm_at == "pre",
            gated=spec.gated,
            feed_forward_bias=spec.feed_forward_bias,
            activation=spec.activation,
            query_heads=spec.query_heads,
            key_heads=spec.key_heads,
            head_width=spec.head_width,
            frequencies=self.frequencies,
            final_norm=None if self.final_norm is None else self.final_norm.plan(),
        )

    def settle(
        self,
        fill: Callable[[int], None] = lambda layer: None,
        release: Callable[[int], None] = lambda layer: None,
    ) -> None:
        """All weights but those of the layers are in place: let the back end take the layers whole, or lay out their matrices
        one by one. Each is filled when its turn comes and released before the next: no second copy of the model is ever held.
        """
        self.runner = self.ops.stack(replace(self.plan(), blocks=self._handed_over(fill, release)))
        if self.runner is None:
            for number, block in enumerate(self._layers()):
                fill(number)
                for linear in block.linears():
                    linear.pack()
                release(number)

    def _layers(self) -> Iterator[Block]:
        return (block for block in self.blocks if isinstance(block, Block))

    def _handed_over(
        self, fill: Callable[[int], None], release: Callable[[int], None]
    ) -> Iterator[BlockPlan]:
        """The layers one by one, each let go when the next is asked for."""
        for number, block in enumerate(self._layers()):
            fill(number)
            yield block.plan()
            self._taken += sum(linear.release() for linear in block.linears())
            release(number)

    def _check(
        self, batch: PackedBatch, cache: KVCache | PathCache | None, counts: list[int]
    ) -> BlockCache | SlabPath | None:
        """Refuse what would otherwise be an index error deep inside, or worse, a wrong number."""
        if cache is not None and self.spec.kind == "encoder":
            raise UsageError("an encoder sees the whole sequence at once and cannot use a cache")
        if isinstance(cache, SlabPath) and batch.tree is not None:
            check_tile(batch.tree, batch.starts, cache.length)
            # A mask may hide most of a sequence from each of its tokens: how deep they lie, only positions say.
            _inside(batch.positions, self.max_length, "position", "shorten the sequences of the tree")
        else:
            self._check_lengths(batch, cache, counts)
        _inside(batch.tokens, self.vocab_size, "token", "the tokenizer does not belong to this model")
        if self.spec.rope is None:
            _inside(batch.positions, self.max_length, "position", "count positions from 0 in each sequence")
        if batch.token_types is not None:
            _inside(batch.token_types, self.spec.types, "token type", "most models know the types 0 and 1")
        return cache if isinstance(cache, BlockCache | SlabPath) else None

    def _check_lengths(
        self, batch: PackedBatch, cache: KVCache | PathCache | None, counts: list[int]
    ) -> None:
        past = [0] * len(counts)
        if cache is not None or batch.tree is not None:
            if not isinstance(cache, BlockCache) or batch.slots is None or len(batch.slots) != batch.size:
                raise UsageError(
                    "a cached pass needs a cache made by this model and one slot for each sequence",
                    hint="use model.new_cache(...) and PackedBatch(slots=...), or new_path(...) and PackedBatch(tree=...)",
                )
            past = cache.past(batch.slots)
        for count, before in zip(counts, past, strict=True):
            length = before + count
            if length > self.max_length:
                raise EvaluationError(
                    f"a sequence of {length} tokens does not fit the {self.max_length} positions of this model",
                    hint=f"shorten it by {length - self.max_length} tokens, or use a model with a longer context",
                )

    def padded(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Hidden states [B, T, D] of a left- or right-padded batch [B, T]; padding is not computed and comes back zero."""
        batch, mask = padded.pack(input_ids, attention_mask, token_type_ids)
        return padded.unpack(self.hidden(batch), mask)

    def num_parameters(self) -> int:
        """Parameters, tied weights counted once."""
        plain = sum(parameter.numel() for parameter in self.parameters())
        return plain + self._taken + sum(weight.outputs * weight.inputs for weight in self._packed())

    def _packed(self) -> Iterator[PackedWeight]:
        """Weights that are in a layout of the back end's own."""
        for module in self.modules():
            # Asked by name, for a look at every attribute takes a tenth of a second.
            found = (vars(module).get(name) for name in ("weight", "tokens", "head", "decoder"))
            yield from (value for value in found if isinstance(value, PackedWeight))


class Decoder(Stack):
    """A ``TreeLM``: the stack and a vocabulary head, tied to the embeddings or not."""

    def __init__(
        self, ops: Ops, spec: StackSpec, config: Mapping[str, Any], *, dtype: DTypeName, device: str
    ) -> None:
        super().__init__(ops, spec, config, dtype=dtype, device=device)
        self.head: nn.Parameter | PackedWeight | None = (
            None if spec.tied else nn.Parameter(torch.empty(spec.vocab_size, spec.width))
        )

    @property
    def head_weight(self) -> Tensor | PackedWeight:
        """The vocabulary head [V, D]."""
        return self.embeddings.tokens if self.head is None else self.head

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores [M, V] for rows [M, D], in the model's dtype."""
        return self.ops.linear(hidden, self.head_weight, None)

    def token_logprobs(
        self, hidden: Tensor, targets: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities [M] float32 of ``targets`` [M] after rows [M, D], and the arg-max tokens [M].

        With ``rows`` [M], ascending and on the CPU, target i comes after row ``rows[i]`` of ``hidden`` [R, D].
        """
        if rows is None:
            return self.ops.token_logprobs(hidden, self.head_weight, None, targets)
        return self.ops.token_logprobs(hidden, self.head_weight, None, targets, rows)

    def new_cache(self, slots: int, capacity: int) -> BlockCache:
        """An empty cache for ``slots`` sequences of up to ``capacity`` tokens."""
        return self._cache(slots, capacity, None)

    def new_pages(self, slots: int, capacity: int, tokens: int) -> BlockCache:
        """An empty cache for ``slots`` sequences of up to ``capacity`` tokens, ``tokens`` in all."""
        return self._cache(slots, capacity, tokens)

    def _cache(self, slots: int, capacity: int, tokens: int | None) -> BlockCache:
        spec = self.spec
        return BlockCache(
            slots,
            capacity,
            spec.layers,
            spec.key_heads,
            spec.head_width,
            dtype=self.element,
            device=self.device,
            tokens=tokens,
        )

    def new_path(self, capacity: int) -> SlabPath:
        """An empty path of up to ``capacity`` tokens, the tokens of a pass included."""
        spec = self.spec
        return SlabPath(
            capacity, spec.layers, spec.key_heads, spec.head_width, dtype=self.element, device=self.device
        )

    def padded_logits(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Scores [B, T, V] of a left- or right-padded batch [B, T]; zero at padding."""
        batch, mask = padded.pack(input_ids, attention_mask)
        return padded.unpack(self.logits(self.hidden(batch)), mask)


class MaskedLMHead(nn.Module):
    """dense, activation, norm, then the vocabulary with a bias (Devlin et al. 2019)."""

    def __init__(self, ops: Ops, spec: StackSpec) -> None:
        super().__init__()
        self.ops = ops
        self.activation = spec.activation
        self.transform = Linear(ops, spec.width, spec.width, bias=True)
        self.norm = make_norm(ops, spec)
        self.decoder: nn.Parameter | PackedWeight | None = (
            None if spec.tied else nn.Parameter(torch.empty(spec.vocab_size, spec.width))
        )
        self.bias = nn.Parameter(torch.empty(spec.vocab_size))

    def forward(self, x: Tensor, table: Tensor | PackedWeight) -> Tensor:
        x = self.norm(self.ops.activation(self.transform(x), self.activation))  # [M, D]
        return self.ops.linear(x, table if self.decoder is None else self.decoder, self.bias)


class Encoder(Stack):
    """An ``EncoderModel``: the stack and whichever heads the checkpoint carries.

    ``head_tensors`` says which checkpoint tensors make each head, for the error when one is asked for and absent.
    """

    def __init__(
        self,
        ops: Ops,
        spec: StackSpec,
        config: Mapping[str, Any],
        *,
        dtype: DTypeName,
        device: str,
        head_tensors: Mapping[str, tuple[str, ...]],
    ) -> None:
        super().__init__(ops, spec, config, dtype=dtype, device=device)
        self.heads = spec.heads
        self.head_tensors = head_tensors
        width = spec.width
        self.pooler = Linear(ops, width, width, bias=True) if "pooler" in spec.heads else None
        self.mlm = MaskedLMHead(ops, spec) if "mlm" in spec.heads else None
        self.nsp = Linear(ops, width, 2, bias=True) if "nsp" in spec.heads else None
        self.classifier = (
            Linear(ops, width, spec.labels, bias=True) if "classification" in spec.heads else None
        )

    def _absent(self, head: str) -> WeightsError:
        return WeightsError(
            f"this checkpoint has no {head} head: {', '.join(self.head_tensors[head])} are missing",
            hint=f"it has: {', '.join(sorted(self.heads)) or 'no heads'}",
        )

    def mlm_logits(self, hidden: Tensor) -> Tensor:
        """Masked-LM scores [M, V] for rows [M, D]."""
        if self.mlm is None:
            raise self._absent("mlm")
        return self.mlm(hidden, self.embeddings.tokens)

    def pooled(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """tanh(dense(first token)) of each sequence: [B, D]."""
        if self.pooler is None:
            raise self._absent("pooler")
        if any(start == end for start, end in pairwise(batch.starts)):
            raise UsageError("an empty sequence has no first token to pool")
        first = torch.tensor(batch.starts[:-1], dtype=torch.int64, device=hidden.device)  # [B]
        return self.ops.activation(self.pooler(hidden[first]), "tanh")

    def nsp_logits(self, pooled: Tensor) -> Tensor:
        """Next-sentence scores [B, 2]: column 0 "is next", column 1 "is random"."""
        if self.nsp is None:
            raise self._absent("nsp")
        return self.nsp(pooled)

    def class_logits(self, pooled: Tensor) -> Tensor:
        """Classification scores [B, C]."""
        if self.classifier is None:
            raise self._absent("classification")
        return self.classifier(pooled)
