"""Stand-ins that keep the contracts in full and take milliseconds, for tests of what uses models and tokenizers.

``ByteTokenizer`` and ``ScriptedModel`` pass every conformance check of their kind, so a test that is green with them is
green for the reason it says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from llmasos.contracts.model import DTypeName, KVCache, PackedBatch, PathCache, TreeTile
from llmasos.contracts.tokenizer import Encoding, SpecialTokens
from llmasos.errors import EvaluationError, TokenizerError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

#: A script: the tokens so far with the position of each -> the next token.
Script = Callable[[tuple[int, ...], tuple[int, ...]], int]


class ByteTokenizer:
    """UTF-8 bytes as ids 0 to 255, then ``<bos>`` (256) and ``<eos>`` (257). Lossless."""

    vocab_size = 258
    special = SpecialTokens(bos=256, eos=257, stop=(257,))
    chat_template: str | None = None

    _NAMES = ("<bos>", "<eos>")

    def __init__(self, *, adds_bos: bool = False) -> None:
        self.adds_bos = adds_bos

    def encode(self, text: str, *, add_special_tokens: bool = False, parse_special: bool = True) -> list[int]:
        """One id a byte. Raises TokenizerError for a lone surrogate, which has no bytes."""
        ids: list[int] = [256] if add_special_tokens and self.adds_bos else []
        while text:
            found = [
                (text.find(name), 256 + i)
                for i, name in enumerate(self._NAMES)
                if parse_special and name in text
            ]
            where, token = min(found) if found else (len(text), -1)
            try:
                ids += text[:where].encode("utf-8")
            except UnicodeEncodeError as error:
                raise TokenizerError(
                    f"character {error.start} is a lone surrogate",
                    hint="decode the input with errors='replace'",
                ) from None
            if token < 0:
                break
            ids.append(token)
            text = text[where + len(self._NAMES[token - 256]) :]
        return ids

    def encode_batch(
        self, texts: Sequence[str], *, add_special_tokens: bool = False, parse_special: bool = True
    ) -> list[list[int]]:
        """``encode`` for each text."""
        return [
            self.encode(text, add_special_tokens=add_special_tokens, parse_special=parse_special)
            for text in texts
        ]

    def encode_offsets(self, text: str) -> Encoding:
        """Ids, and for each byte the character it is part of; a parsed special token covers its name."""
        ids = self.encode(text)
        offsets: list[tuple[int, int]] = []
        place = 0
        while len(offsets) < len(ids):
            token = ids[len(offsets)]
            if token >= 256:
                offsets.append((place, place + len(self._NAMES[token - 256])))
                place = offsets[-1][1]
            else:
                offsets += [(place, place + 1)] * len(text[place].encode("utf-8"))
                place += 1
        return Encoding(tuple(ids), tuple(offsets))

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Bytes back to text; what is not UTF-8 becomes U+FFFD."""
        pieces = [
            bytes([token])
            if token < 256
            else b""
            if skip_special_tokens
            else self._NAMES[token - 256].encode()
            for token in ids
        ]
        return b"".join(pieces).decode("utf-8", errors="replace")

    def token(self, token_id: int) -> str:
        """``<0x41>`` for a byte. Raises IndexError outside the vocabulary."""
        if not 0 <= token_id < self.vocab_size:
            raise IndexError(f"token id {token_id} is outside the vocabulary of {self.vocab_size}")
        return f"<0x{token_id:02X}>" if token_id < 256 else self._NAMES[token_id - 256]

    def token_id(self, token: str) -> int | None:
        """The id of a vocabulary entry, or None."""
        return next((i for i in range(self.vocab_size) if self.token(i) == token), None)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, object] | None = None,
    ) -> str:
        """Always TokenizerError: there is no template."""
        raise TokenizerError("this tokenizer has no chat template", hint="give the prompt as plain text")

    def digest(self) -> str:
        """sha256 over the kind of tokenizer and whether it adds BOS."""
        return hashlib.sha256(f"llmasos.testing.ByteTokenizer 1 bos={self.adds_bos}".encode()).hexdigest()


class ScriptedCache:
    """A ``KVCache`` that holds the tokens themselves and their positions."""

    def __init__(self, slots: int, capacity: int) -> None:
        self.capacity = capacity
        self.lengths: list[int] = [0] * slots
        self.held: list[list[tuple[int, int]]] = [[] for _ in range(slots)]

    def reset(self, slot: int) -> None:
        """Forget a slot."""
        self.held[slot], self.lengths[slot] = [], 0

    def copy(self, source: int, target: int) -> None:
        """Make ``target`` hold what ``source`` holds."""
        self.held[target], self.lengths[target] = list(self.held[source]), self.lengths[source]

    def share(self, source: int, target: int, length: int) -> None:
        """Make ``target`` hold the first ``length`` tokens of ``source``."""
        self.held[target], self.lengths[target] = self.held[source][:length], length

    def rewind(self, slot: int, length: int) -> bool:
        """Forget all but the first ``length`` tokens of a slot."""
        self.held[slot], self.lengths[slot] = self.held[slot][:length], length
        return True


class ScriptedPath:
    """A ``PathCache`` that holds the tokens themselves and their positions."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.held: list[tuple[int, int]] = []

    @property
    def length(self) -> int:
        """Tokens held."""
        return len(self.held)

    def rewind(self, length: int) -> None:
        """Forget all but the first ``length`` tokens."""
        del self.held[length:]


class ScriptedModel:
    """A ``TreeLM`` whose next token is what a function of the tokens so far says.

    The scripted token has probability ``confidence``; the others share the rest by a fixed pattern that depends on the
    tokens so far, so that no two histories score alike. Without a script the next token is a hash of the history: an
    arbitrary but fixed model. ``hidden`` is the scores themselves (D = V). float32 on the CPU.

    ::

        answer = tokenizer.encode(" Paris")
        model = ScriptedModel(tokenizer.vocab_size, lambda tokens, positions: answer[len(tokens) % len(answer)])
    """

    dtype: DTypeName = "float32"
    device = "cpu"

    def __init__(
        self,
        vocab_size: int = 258,
        script: Script | None = None,
        *,
        confidence: float = 0.5,
        max_length: int = 128,
    ) -> None:
        if not 0.0 < confidence < 1.0:
            raise UsageError(f"a confidence of {confidence} is not between 0 and 1")
        self.vocab_size = vocab_size
        self.max_length = max_length
        self.config: Mapping[str, Any] = {"model_type": "scripted", "vocab_size": vocab_size}
        self._script = script
        self._confidence = confidence

    def _row(self, history: Sequence[tuple[int, int]]) -> Tensor:
        """Scores [V] after a history of (token, position)."""
        import math

        import torch

        digest = hashlib.sha256(repr(tuple(history)).encode()).digest()
        first, step = int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:8], "big") | 1
        # A low-discrepancy walk in [0, 1): distinct, bounded scores without a random generator.
        noise = torch.tensor(
            [((first + step * i) % 4294967296) / 4294967296 for i in range(self.vocab_size)],
            dtype=torch.float64,
        )
        chosen = (
            first % self.vocab_size
            if self._script is None
            else self._script(tuple(t for t, _ in history), tuple(p for _, p in history)) % self.vocab_size
        )
        others = torch.cat((noise[:chosen], noise[chosen + 1 :]))
        # p(chosen) = confidence: its score is the log-odds above the log-sum-exp of the others.
        noise[chosen] = (float(others.logsumexp(0)) if len(others) else 0.0) + math.log(
            self._confidence / (1 - self._confidence)
        )
        return noise.to(torch.float32)

    def hidden(self, batch: PackedBatch, cache: KVCache | PathCache | None = None) -> Tensor:
        """Scores [N, V] after each token. Raises EvaluationError for what does not fit, as a real model does."""
        import torch

        if isinstance(cache, ScriptedPath) and batch.tree is not None:
            return self._tree(batch, batch.tree, cache)
        tokens, positions = batch.tokens.tolist(), batch.positions.tolist()
        before: list[list[tuple[int, int]]] = [[] for _ in range(batch.size)]
        if cache is not None:
            if not isinstance(cache, ScriptedCache) or batch.slots is None:
                raise UsageError("a cached pass needs a cache made by this model, and slots")
            before = [cache.held[slot] for slot in batch.slots]
        sequences = [
            [*held, *zip(tokens[start:end], positions[start:end], strict=True)]
            for held, (start, end) in zip(before, pairwise(batch.starts), strict=True)
        ]
        for sequence in sequences:
            most = self.max_length if cache is None else min(self.max_length, cache.capacity)
            if len(sequence) > most:
                raise EvaluationError(
                    f"a sequence of {len(sequence)} tokens does not fit {most}", hint="shorten it"
                )
            if any(not 0 <= token < self.vocab_size for token, _ in sequence):
                raise EvaluationError(f"a token is outside the vocabulary of {self.vocab_size} entries")
        rows = [
            self._row(sequence[: len(held) + i + 1])
            for sequence, held in zip(sequences, before, strict=True)
            for i in range(len(sequence) - len(held))
        ]
        if isinstance(cache, ScriptedCache) and batch.slots is not None:
            for slot, sequence in zip(batch.slots, sequences, strict=True):
                cache.held[slot], cache.lengths[slot] = sequence, len(sequence)
        return torch.stack(rows) if rows else torch.zeros(0, self.vocab_size)

    def _tree(self, batch: PackedBatch, tile: TreeTile, path: ScriptedPath) -> Tensor:
        """Scores [N, V] of the tokens of a tile; the path goes on as the tile says."""
        import torch

        own = list(zip(batch.tokens.tolist(), batch.positions.tolist(), strict=True))
        if path.length + len(own) > path.capacity:
            raise UsageError(f"{len(own)} tokens after {path.length} do not fit a path of {path.capacity}")
        if any(not 0 <= token < self.vocab_size or position >= self.max_length for token, position in own):
            raise EvaluationError("a token or a position is outside the tables of the model")
        rows = []
        for b, (start, end) in enumerate(pairwise(batch.starts)):
            above = path.held[: tile.prefix[b]]
            for first, last in tile.ancestors[b]:
                above = above + own[first:last]
            mask = tile.visible[b]
            for i in range(end - start):
                seen = [own[start + j] for j in range(i + 1) if mask is None or bool(mask[i, j])]
                rows.append(self._row([*above, *seen]))
        path.held = path.held[: tile.keep] + [own[row] for span in tile.kept for row in range(*span)]
        scores = torch.stack(rows) if rows else torch.zeros(0, self.vocab_size)
        return scores if tile.wanted is None else scores[tile.wanted]

    def logits(self, hidden: Tensor) -> Tensor:
        """The rows themselves, [M, V]."""
        return hidden.clone()

    def token_logprobs(
        self, hidden: Tensor, targets: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities [M] of ``targets`` [M] and the arg-max tokens [M]."""
        table = self.logits(hidden if rows is None else hidden[rows]).log_softmax(dim=-1)
        return table.gather(1, targets[:, None]).squeeze(1), table.argmax(dim=-1)

    def new_cache(self, slots: int, capacity: int) -> ScriptedCache:
        """An empty cache."""
        return ScriptedCache(slots, capacity)

    def new_path(self, capacity: int) -> ScriptedPath:
        """An empty path."""
        return ScriptedPath(capacity)

    def num_parameters(self) -> int:
        """One: how confident it is."""
        return 1


class RecordedProgress:
    """A ``Progress`` that remembers what was reported."""

    def __init__(self) -> None:
        self.phases: list[tuple[str, int | None]] = []
        self.done = 0
        self.warnings: list[str] = []

    def phase(self, name: str, total: int | None = None) -> None:
        """A new phase begins."""
        self.phases.append((name, total))

    def advance(self, amount: int = 1) -> None:
        """``amount`` more units are done."""
        self.done += amount

    def warn(self, message: str) -> None:
        """One line the user should see."""
        self.warnings.append(message)
