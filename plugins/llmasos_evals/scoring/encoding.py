"""From the texts of a request to the token ids a model scores.

Semantics of lm-evaluation-harness 0.4 for causal models (``lm_eval/api/model.py``: ``_encode_pair``, ``loglikelihood``;
``lm_eval/models/huggingface.py``: ``tok_encode``), except that what does not fit is counted and nothing crashes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmasos.api import EvaluationError, Request, Tokenizer, UsageError
from llmasos_evals.scoring.windows import rolling_windows


@dataclass(frozen=True, slots=True)
class Scored:
    """Ids whose last ``targets`` are scored given those before them, one id more than the model reads.

    ``truncated`` ids of context and ``unscored`` ids of the continuation were left out on the left because they did not fit.
    """

    ids: tuple[int, ...]
    targets: int
    truncated: int = 0
    unscored: int = 0


class PairEncoder:
    """Encodes for one model. ``max_length`` is the longest input in tokens."""

    def __init__(self, tokenizer: Tokenizer, max_length: int) -> None:
        self.max_length = max_length
        self._tokenizer = tokenizer
        special = tokenizer.special
        #: Stands in front of an empty context: BOS, or EOS where the vocabulary has no BOS.
        self.prefix: int | None = special.bos if special.bos is not None else special.eos
        self.prefix_text = tokenizer.decode([self.prefix]) if self.prefix is not None else ""

    def require_prefix(self) -> int:
        """The prefix token. Raises EvaluationError when the vocabulary has neither BOS nor EOS."""
        if self.prefix is None:
            raise EvaluationError(
                "a text must be scored without context, but the tokenizer has neither a BOS nor an EOS token",
                hint="choose tasks whose prompts are not empty, or a tokenizer with a BOS token",
            )
        return self.prefix

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, with BOS in front where the tokenizer adds one and the text does not begin with it already."""
        guarded = [bool(self.prefix_text) and text.startswith(self.prefix_text) for text in texts]
        result: list[list[int]] = [[] for _ in texts]
        for starts_with_prefix in (False, True):
            places = [index for index, flag in enumerate(guarded) if flag == starts_with_prefix]
            if places:
                rows = self._tokenizer.encode_batch(
                    [texts[index] for index in places], add_special_tokens=not starts_with_prefix
                )
                for index, row in zip(places, rows, strict=True):
                    result[index] = row
        return result

    def pairs(self, requests: Sequence[Request]) -> list[Scored]:
        """Context and continuation of each loglikelihood request, encoded together and cut on the left to fit.

        Spaces at the end of a context belong to the continuation, because that is how words are tokenised. An empty
        continuation has no targets.
        """
        texts: dict[str, list[int]] = {}
        alone: dict[str, list[int]] = {}
        moved: list[tuple[str, str]] = []
        for request in requests:
            context, continuation = _move_spaces(request.context, request.continuation)
            moved.append((context, continuation))
            if context:
                texts[context] = texts[context + continuation] = []
            else:
                alone[continuation] = []
        texts.update(zip(texts, self.encode(list(texts)), strict=True))
        alone.update(zip(alone, self._tokenizer.encode_batch(list(alone)), strict=True))
        return [
            self._fit(
                *(
                    self._joined(texts[context], texts[context + continuation])
                    if context
                    else self._without_context(alone[continuation])
                )
            )
            for context, continuation in moved
        ]

    def text(self, text: str) -> list[int]:
        """Ids of a whole text, for rolling windows and prompts."""
        return self.encode([text])[0]

    def windows(self, tokens: Sequence[int], *, stride: int | None = None) -> list[Scored]:
        """Windows over the ids of a whole text that together score each of them once, as many as the model reads at a time.

        ``stride``: how many ids each window but the first scores, the others are context; by default all but one, as in
        lm-eval. Raises UsageError for a stride the model's context cannot hold.
        """
        if stride is not None and not 1 <= stride <= self.max_length:
            raise UsageError(
                f"a stride of {stride} tokens does not fit the model's context of {self.max_length}",
                hint=f"choose a stride from 1 (slow, most context) to {self.max_length}",
            )
        context = 1 if stride is None else self.max_length - stride + 1
        found = rolling_windows(
            tokens, prefix=self.require_prefix(), max_length=self.max_length, context_length=context
        )
        return [Scored((*window.context, *window.targets), len(window.targets)) for window in found]

    def _joined(self, context: list[int], whole: list[int]) -> tuple[list[int], list[int]]:
        # The split is by count: where the join merges tokens across the border, that is lm-eval's split too.
        if not context:
            return [self.require_prefix()], whole
        return whole[: len(context)], whole[len(context) :]

    def _without_context(self, continuation: list[int]) -> tuple[list[int], list[int]]:
        prefix = self.require_prefix()
        if continuation and continuation[0] == prefix:
            return continuation[:1], continuation[1:]
        return [prefix], continuation

    def _fit(self, context: list[int], continuation: list[int]) -> Scored:
        ids = context + continuation
        over = max(0, len(ids) - (self.max_length + 1))
        # At least one id must stay in front of the first target.
        targets = min(len(continuation), self.max_length)
        return Scored(
            tuple(ids[over:]),
            targets,
            truncated=min(over, len(context)),
            unscored=len(continuation) - targets,
        )


def _move_spaces(context: str, continuation: str) -> tuple[str, str]:
    stripped = context.rstrip()
    return stripped, context[len(stripped) :] + continuation
