"""Our side of a run without weights: a causal model whose scores are those of ``pseudo_answers.py``, and a Hub that loads it.

It stands below everything that is ours: task files, prompts, encoding, plan, engine, store, metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pseudo_answers
import torch
from pseudo_answers import Words

import llmasos
from llmasos.api import (
    Generation,
    GenerationChunk,
    LoadedModel,
    PackedBatch,
    PreparedModel,
    ResolvedModel,
    SamplingParams,
)


class PseudoPath:
    """What the tokens of one path add to a state; ``sums[i]`` is what its first i tokens add together."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.added: Words = np.zeros(0, dtype=np.uint64)
        self._sums: Words | None = None

    @property
    def length(self) -> int:
        return len(self.added)

    @property
    def sums(self) -> Words:
        if self._sums is None:
            self._sums = np.concatenate(
                [np.zeros(1, dtype=np.uint64), np.cumsum(self.added, dtype=np.uint64)]
            )
        return self._sums

    def replace(self, added: Words) -> None:
        assert len(added) <= self.capacity
        self.added, self._sums = added, None

    def rewind(self, length: int) -> None:
        self.replace(self.added[:length])


class PseudoModel:
    """A TreeLM without weights. The hidden state of a position, one int64, is the sum of what the tokens it sees add."""

    device = "cpu"
    dtype = "float32"

    def __init__(self, vocab_size: int, max_length: int) -> None:
        self.vocab_size, self.max_length = vocab_size, max_length
        self.config: dict[str, Any] = {}

    def new_path(self, capacity: int) -> PseudoPath:
        return PseudoPath(capacity)

    def hidden(self, batch: PackedBatch, cache: Any = None) -> torch.Tensor:
        with np.errstate(over="ignore"):
            added = pseudo_answers.contributions(batch.tokens.numpy(), batch.positions.numpy())
            states = np.concatenate(
                [self._states(batch, number, added, cache) for number in range(batch.size)]
            )
        tile = batch.tree
        if tile is not None:
            kept = [added[first:last] for first, last in tile.kept]
            cache.replace(np.concatenate([cache.added[: tile.keep], *kept]))
            if tile.wanted is not None:
                states = states[tile.wanted.numpy()]
        return torch.from_numpy(states.view(np.int64))[:, None]

    def _states(self, batch: PackedBatch, number: int, added: Words, path: Any) -> Words:
        own = added[batch.starts[number] : batch.starts[number + 1]]
        tile = batch.tree
        if tile is None:
            return np.cumsum(own, dtype=np.uint64)
        above = path.sums[tile.prefix[number]]
        for first, last in tile.ancestors[number]:
            above = above + added[first:last].sum(dtype=np.uint64)
        mask = tile.visible[number]
        if mask is None:
            return above + np.cumsum(own, dtype=np.uint64)
        return above + np.where(mask.numpy(), own[None, :], np.uint64(0)).sum(axis=1, dtype=np.uint64)

    def token_logprobs(
        self, hidden: torch.Tensor, targets: torch.Tensor, rows: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        states = (hidden if rows is None else hidden[rows])[:, 0].numpy().view(np.uint64)
        with np.errstate(over="ignore"):
            nats, greedy = pseudo_answers.nats_and_greedy(states, targets.numpy())
        best = torch.where(torch.from_numpy(greedy), targets, (targets + 1) % self.vocab_size)
        return torch.from_numpy(nats.astype(np.float32)), best

    def num_parameters(self) -> int:
        return 0


class PseudoHub(llmasos.Hub):
    """A Hub that loads the tokenizer of a model and, in place of its weights, a pseudo-model."""

    def __init__(self, cache_dir: Path, max_length: int) -> None:
        super().__init__(cache_dir=cache_dir, config_dir=cache_dir, offline=True)
        self.max_length = max_length

    def prepare_model(self, ref: str, **settings: Any) -> PreparedModel:
        tokenizer = self.load_tokenizer(ref)
        facts = {
            "ref": ref,
            "source": "pseudo",
            "revision": None,
            "license": None,
            "provenance": {},
            "format": "none",
            "loader": "parity/none",
            "architecture": "parity/pseudo",
            "parameters": 0,
            "files": {"pseudo_answers.py": "0" * 64},
            "tokenizer": {
                "format": "parity/real",
                "digest": tokenizer.digest(),
                "adds_bos": tokenizer.adds_bos,
            },
            "backend": "parity/numpy",
            "device": "cpu",
            "dtype": "float32",
            "ops": {},
            "ops_refused": {},
        }
        resolved = ResolvedModel(ref, Path(ref), "pseudo")
        model = PseudoModel(tokenizer.vocab_size, self.max_length)
        loaded = LoadedModel(resolved, model, tokenizer, facts)
        return PreparedModel(
            resolved, tokenizer, facts, self.max_length, tokenizer.vocab_size, lambda: loaded
        )

    def load_model(self, ref: str, **settings: Any) -> LoadedModel:
        return self.prepare_model(ref).load()

    def generate(
        self,
        loaded: LoadedModel,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        **settings: Any,
    ) -> Iterator[GenerationChunk]:
        for index, prompt in enumerate(prompts):
            tokens = loaded.tokenizer.encode(pseudo_answers.completion(prompt))[: params.max_new_tokens]
            text = loaded.tokenizer.decode(tokens, skip_special_tokens=True)
            done = Generation(text, tuple(tokens), "length", len(prompt))
            yield GenerationChunk(index, text, done=done)
