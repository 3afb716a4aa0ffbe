"""The model: looks histories up in the trie and interpolates. Plain torch, on any device, always in float32.

Letters: N packed tokens, M rows, V vocabulary, H = order - 1 words of history.

A hidden state is the history itself: row i of ``hidden`` has the last H tokens up to token i, as numbers, the oldest first,
-1 where the text is shorter. What a forward pass costs lies in ``logits``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from llmasos.api import (
    ArchitectureSummary,
    Checkpoint,
    DTypeName,
    EvaluationError,
    KVCache,
    Ops,
    PackedBatch,
    UsageError,
    WeightsError,
)
from llmasos_ngram.estimate import Level
from llmasos_ngram.weights import ORDERS, check

#: Rows x vocabulary that are expanded at once, in numbers of 4 bytes.
BLOCK = 1 << 24
_NOTHING = -1


class NgramArchitecture:
    """The ``kneser-ney`` contribution: any checkpoint with tensors ``level.K.token``, ``.share``, ``.rest`` and ``.first``."""

    def summarize(self, checkpoint: Checkpoint) -> ArchitectureSummary:
        """Describe the model. Raises WeightsError when tensors are missing."""
        order, vocab_size, max_length = _facts(checkpoint)
        return ArchitectureSummary(
            family="kneser-ney",
            kind="decoder",
            layers=order,
            width=order - 1,
            heads=0,
            kv_heads=0,
            vocab_size=vocab_size,
            max_length=max_length,
            parameters=sum(
                i.elements for i in checkpoint.tensors.values() if i.name.endswith((".share", ".rest"))
            ),
        )

    def build(self, checkpoint: Checkpoint, ops: Ops, *, dtype: DTypeName, device: str) -> NgramModel:
        """Read the whole table, check it and put it on ``device``. Raises WeightsError, UsageError for other precisions."""
        if dtype != "float32":
            raise UsageError(f"n-gram models compute in float32, not in {dtype}", hint="use --dtype exact")
        order, vocab_size, max_length = _facts(checkpoint)
        levels = []
        for k in range(1, order + 1):
            names = ("token", "share", "rest", "first") if k < order else ("token", "share")
            levels.append(Level(*(checkpoint.tensor(f"level.{k}.{name}").numpy() for name in names)))
        check(checkpoint.path, vocab_size, levels)
        return NgramModel(levels, dict(checkpoint.config), max_length=max_length, device=device)


def _facts(checkpoint: Checkpoint) -> tuple[int, int, int]:
    """(order, vocabulary size, longest sequence) of a checkpoint whose tensors fit them."""
    config = checkpoint.config
    order, vocab_size, longest = (config.get(k) for k in ("order", "vocab_size", "max_position_embeddings"))
    if not isinstance(order, int) or not isinstance(vocab_size, int) or not isinstance(longest, int):
        raise WeightsError(
            f"{checkpoint.path.name}: the configuration lacks order, vocab_size or max_position_embeddings",
            hint="these are the weights of another kind of model",
        )
    wanted = [f"level.{k}.{name}" for k in range(1, order + 1) for name in ("token", "share")]
    wanted += [f"level.{k}.{name}" for k in range(1, order) for name in ("rest", "first")]
    if order not in ORDERS or set(wanted) != set(checkpoint.tensors):
        raise WeightsError(
            f"{checkpoint.path.name}: the tensors are not those of an n-gram model of order {order}",
            hint="fetch or train the model again",
        )
    return order, vocab_size, longest


class HistoryCache:
    """A ``KVCache``: the last H tokens of each slot."""

    def __init__(self, slots: int, capacity: int) -> None:
        self.capacity = capacity
        self.lengths = [0] * slots
        self.tails: list[list[int]] = [[] for _ in range(slots)]

    def reset(self, slot: int) -> None:
        """Forget a slot."""
        self.lengths[slot], self.tails[slot] = 0, []

    def copy(self, source: int, target: int) -> None:
        """Make ``target`` hold what ``source`` holds."""
        self.lengths[target], self.tails[target] = self.lengths[source], list(self.tails[source])

    def rewind(self, slot: int, length: int) -> bool:
        """Only to where the slot is: what lies further back is not kept."""
        return length == self.lengths[slot]


class NgramModel:
    """A ``CausalLM``."""

    dtype: DTypeName = "float32"

    def __init__(
        self, levels: Sequence[Level], config: Mapping[str, Any], *, max_length: int, device: str
    ) -> None:
        self.config = config
        self.vocab_size = len(levels[0].token)
        self.max_length = max_length
        self.device = device
        self._history = len(levels) - 1
        self._share = [torch.tensor(level.share, device=device) for level in levels]
        self._rest = [torch.tensor(level.rest, device=device) for level in levels if level.rest is not None]
        self._token = [torch.tensor(level.token, dtype=torch.int64, device=device) for level in levels]
        self._first = [
            torch.tensor(level.first, dtype=torch.int64, device=device)
            for level in levels
            if level.first is not None
        ]
        #: For levels from 2 on: parent entry x V + token, ascending, to find a child in.
        self._keys = [
            torch.repeat_interleave(torch.arange(len(first) - 1, device=device), first.diff())
            * self.vocab_size
            + token
            for first, token in zip(self._first, self._token[1:], strict=True)
        ]

    def num_parameters(self) -> int:
        """Shares and rests."""
        return sum(values.numel() for values in (*self._share, *self._rest))

    def new_cache(self, slots: int, capacity: int) -> HistoryCache:
        """An empty cache."""
        return HistoryCache(slots, capacity)

    def hidden(self, batch: PackedBatch, cache: KVCache | None = None) -> Tensor:
        """Histories [N, H]. Raises EvaluationError for sequences that do not fit, tokens outside the vocabulary and full
        caches; the cache is then as it was."""
        tokens = batch.tokens.tolist()
        if any(not 0 <= token < self.vocab_size for token in tokens):
            raise EvaluationError(
                f"a token is outside the vocabulary of {self.vocab_size}",
                hint="tokenizer and weights do not belong together",
            )
        tails: list[list[int]] = [[] for _ in range(batch.size)]
        lengths, limit = [0] * batch.size, self.max_length
        if cache is not None:
            if not isinstance(cache, HistoryCache) or batch.slots is None:
                raise UsageError("a pass with a cache needs slots, and a cache that this model made")
            tails = [cache.tails[slot] for slot in batch.slots]
            lengths = [cache.lengths[slot] for slot in batch.slots]
            limit = min(limit, cache.capacity)
        fed = [tokens[start:end] for start, end in pairwise(batch.starts)]
        for length, new in zip(lengths, fed, strict=True):
            if length + len(new) > limit:
                raise EvaluationError(
                    f"a sequence of {length + len(new)} tokens does not fit {limit}", hint="shorten the text"
                )
        width = self._history
        rows = torch.full((len(tokens), width), _NOTHING, dtype=torch.float32)
        at = 0
        for place, (tail, new) in enumerate(zip(tails, fed, strict=True)):
            padded = torch.tensor([_NOTHING] * (width - len(tail)) + [*tail, *new], dtype=torch.float32)
            rows[at : at + len(new)] = padded.unfold(0, width, 1)[1:]
            at += len(new)
            if isinstance(cache, HistoryCache) and batch.slots is not None:
                cache.tails[batch.slots[place]] = [*tail, *new][-width:]
                cache.lengths[batch.slots[place]] += len(new)
        return rows.to(self.device)

    def logits(self, hidden: Tensor) -> Tensor:
        """Log-probabilities [M, V] after histories [M, H]: they are their own log-softmax."""
        return self._probabilities(hidden).log_()

    def token_logprobs(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities [M] of ``targets`` [M] and the most likely tokens [M]."""
        logprobs, best = (
            [torch.zeros(0, device=self.device)],
            [torch.zeros(0, dtype=torch.int64, device=self.device)],
        )
        step = max(1, BLOCK // self.vocab_size)
        for start in range(0, len(hidden), step):
            table = self._probabilities(hidden[start : start + step])
            chosen = table.gather(1, targets[start : start + step, None]).squeeze(1)
            logprobs.append(chosen.log().clamp_(max=0.0))
            best.append(table.argmax(dim=1))
        return torch.cat(logprobs), torch.cat(best)

    def _probabilities(self, hidden: Tensor) -> Tensor:
        """p(· | history) [M, V] for histories [M, H]."""
        # found[j]: the entry of the last j words of the history, -1 where they never occurred together.
        found = [self._entry(hidden[:, hidden.shape[1] - j :].long()) for j in range(1, self._history + 1)]
        rests = [
            torch.where(entry >= 0, self._rest[j][entry.clamp(min=0)], 1.0) for j, entry in enumerate(found)
        ]
        weight = torch.ones(len(hidden), device=self.device)
        for rest in rests:
            weight = weight * rest
        table = weight[:, None] * self._share[0]
        for j, entry in enumerate(found):
            # What the history of j + 1 words adds is itself scaled by the rests of all longer ones.
            weight = torch.ones(len(hidden), device=self.device)
            for rest in rests[j + 1 :]:
                weight = weight * rest
            row = torch.nonzero(entry >= 0).squeeze(1)
            start = self._first[j][entry[row]]
            count = self._first[j][entry[row] + 1] - start
            row = torch.repeat_interleave(row, count)
            offset = torch.arange(len(row), device=self.device) - torch.repeat_interleave(
                count.cumsum(0) - count, count
            )
            child = torch.repeat_interleave(start, count) + offset
            token = self._token[j + 1][child]
            table[row, token] += weight[row] * self._share[j + 1][child]  # (row, token) occurs once a level
        return table

    def _entry(self, words: Tensor) -> Tensor:
        """Entries [M] of the trie for n-grams [M, j], -1 for those that are not in it."""
        entry = words[:, 0]
        for column in range(1, words.shape[1]):
            keys = self._keys[column - 1]
            wanted = entry * self.vocab_size + words[:, column]
            place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
            known = (entry >= 0) & (words[:, column] >= 0) & (keys[place] == wanted)
            entry = torch.where(known, place, _NOTHING)
        return entry
