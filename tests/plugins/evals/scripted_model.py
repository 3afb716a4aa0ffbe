"""A causal language model and a Hub small enough to reason about: bytes in, a fixed table of scores out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import llmasos
from llmasos.api import (
    Encoding,
    Generation,
    GenerationChunk,
    LoadedModel,
    PackedBatch,
    PreparedModel,
    ResolvedModel,
    SamplingParams,
    SpecialTokens,
)

BOS, EOS = 256, 257
VOCABULARY = 258
STATES = 97


class ByteTokenizer:
    """One token a byte; optionally BOS in front; ``<s>`` in a text is the BOS token."""

    vocab_size = VOCABULARY
    chat_template = None

    def __init__(self, *, adds_bos: bool = False, bos: int | None = BOS, eos: int | None = EOS) -> None:
        self.adds_bos = adds_bos
        self.special = SpecialTokens(bos=bos, eos=eos, stop=() if eos is None else (eos,))

    def encode(self, text: str, *, add_special_tokens: bool = False, parse_special: bool = True) -> list[int]:
        ids: list[int] = [BOS] if add_special_tokens and self.adds_bos else []
        for number, piece in enumerate(text.split("<s>") if parse_special else [text]):
            ids += ([BOS] if number else []) + list(piece.encode())
        return ids

    def encode_batch(self, texts: Sequence[str], **options: Any) -> list[list[int]]:
        return [self.encode(text, **options) for text in texts]

    def encode_offsets(self, text: str) -> Encoding:
        ids = self.encode(text)
        return Encoding(tuple(ids), tuple((i, i + 1) for i in range(len(ids))))

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        names = {BOS: "<s>", EOS: "</s>"}
        text = ""
        run = bytearray()
        for token in [*ids, None]:
            if token is not None and token < 256:
                run.append(token)
                continue
            text += run.decode(errors="replace")
            run.clear()
            if token is not None and not skip_special_tokens:
                text += names[token]
        return text

    def digest(self) -> str:
        return "b" * 64


class ScriptedModel:
    """Scores depend on all tokens so far through a small state machine, so a wrong context is seen in the number."""

    vocab_size = VOCABULARY
    device = "cpu"
    dtype = "float32"

    def __init__(self, max_length: int = 64) -> None:
        self.max_length = max_length
        self.config: dict[str, Any] = {}
        self.batches: list[PackedBatch] = []
        #: [STATES, V]
        self.table = torch.randn(STATES, VOCABULARY, generator=torch.Generator().manual_seed(7)) * 3

    def states(self, tokens: Sequence[int]) -> list[int]:
        state, result = 1, []
        for token in tokens:
            state = (state * 31 + token + 7) % STATES
            result.append(state)
        return result

    def hidden(self, batch: PackedBatch, cache: object = None) -> torch.Tensor:
        self.batches.append(batch)
        rows: list[int] = []
        for start, end in zip(batch.starts, batch.starts[1:], strict=False):
            assert batch.positions[start:end].tolist() == list(range(end - start))
            assert end - start <= self.max_length
            rows += self.states(batch.tokens[start:end].tolist())
        return torch.tensor(rows, dtype=torch.float32)[:, None]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.table[hidden[:, 0].long()]

    def token_logprobs(
        self, hidden: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.logits(hidden)
        return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0], logits.argmax(-1)

    def num_parameters(self) -> int:
        return self.table.numel()

    def answer(self, context: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool]:
        """What scoring must give, computed token by token."""
        total, greedy = 0.0, True
        for place, target in enumerate(continuation):
            row = self.table[self.states([*context, *continuation[:place]])[-1]]
            total += float(row.log_softmax(-1)[target])
            greedy = greedy and int(row.argmax()) == target
        return total, greedy


class ScriptedHub(llmasos.Hub):
    """A Hub whose only model is a scripted one; names and hooks are those of the environment."""

    def __init__(
        self, cache_dir: Path, model: ScriptedModel | None = None, tokenizer: ByteTokenizer | None = None
    ):
        super().__init__(cache_dir=cache_dir, config_dir=cache_dir, offline=True)
        self.model = model or ScriptedModel()
        self.tokenizer = tokenizer or ByteTokenizer()
        self.generated: list[list[tuple[int, ...]]] = []
        self.params: list[SamplingParams] = []
        self.loads = 0

    def load_model(
        self, ref: str, *, device: str = "auto", dtype: str = "exact", allow_pickle: bool = False
    ) -> LoadedModel:
        self.loads += 1
        facts = {
            "ref": ref,
            "source": "scripted",
            "revision": None,
            "license": None,
            "provenance": {},
            "format": "table",
            "loader": "test/table",
            "architecture": "test/scripted",
            "parameters": self.model.num_parameters(),
            "files": {"table.bin": "a" * 64},
            "tokenizer": {
                "format": "test/bytes",
                "digest": self.tokenizer.digest(),
                "adds_bos": self.tokenizer.adds_bos,
            },
            "backend": "test/reference",
            "device": "cpu",
            "dtype": "float32",
            "ops": {},
            "ops_refused": {},
        }
        return LoadedModel(ResolvedModel(ref, Path(ref), "scripted"), self.model, self.tokenizer, facts)

    def prepare_model(
        self, ref: str, *, device: str = "auto", dtype: str = "exact", allow_pickle: bool = False
    ) -> PreparedModel:
        before = self.loads
        loaded = self.load_model(ref, device=device, dtype=dtype, allow_pickle=allow_pickle)
        self.loads = before
        return PreparedModel(
            loaded.resolved,
            loaded.tokenizer,
            loaded.facts,
            self.model.max_length,
            self.model.vocab_size,
            lambda: self.load_model(ref, device=device, dtype=dtype, allow_pickle=allow_pickle),
        )

    def generate(
        self,
        loaded: LoadedModel,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        batch_size: int,
        share_prefixes: bool = True,
        speculate: str | None = None,
    ) -> Iterator[GenerationChunk]:
        """Greedy, finishing in reverse order, so that an order that is merely hoped for does not hold."""
        assert share_prefixes or batch_size == 1
        # An answer computed alone, or drawn, is computed token by token, and beams do not guess.
        assert (speculate == "lookup") == (
            share_prefixes and params.temperature == 0 and params.num_beams == 1
        )
        self.generated.append([tuple(prompt) for prompt in prompts])
        self.params.append(params)
        for index in reversed(range(len(prompts))):
            ids, out = list(prompts[index]), []
            while len(out) < params.max_new_tokens:
                state = self.model.states(ids)[-1]
                token = int(self.model.table[state, :128].argmax())  # ASCII only: valid UTF-8
                ids.append(token)
                out.append(token)
            text = self.tokenizer.decode(out)
            done = Generation(text, tuple(out), "length", len(prompts[index]))
            yield GenerationChunk(index, text[:1])
            yield GenerationChunk(index, text[1:], done=done)
