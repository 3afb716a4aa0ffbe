"""The tokens that end a completion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from llmasos.contracts.evaluation import LoadedModel
from llmasos.contracts.model import SamplingParams
from llmasos.contracts.tokenizer import Tokenizer


class Endings:
    """What ends a completion of a model under some settings: end tokens of tokenizer and configuration, and stop strings
    that are special tokens, which leave no text behind in which they could be found."""

    def __init__(self, loaded: LoadedModel, params: SamplingParams) -> None:
        tokenizer, ends = loaded.tokenizer, set()
        if not params.ignore_eos:
            stated = loaded.model.config.get("eos_token_id")
            ends = {*tokenizer.special.stop, *(stated if isinstance(stated, list) else [stated])}
        size = loaded.model.vocab_size
        self._ends = frozenset(end for end in ends if isinstance(end, int) and 0 <= end < size)
        self._stops = _stop_tokens(tokenizer, params.stop)
        self._all = self._ends | self._stops

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._all)

    def __contains__(self, token: int) -> bool:
        return token in self._all

    def finish(self, token: int) -> Literal["stop", "eos"]:
        """How a completion finishes with this token, one of those that end it."""
        return "stop" if token in self._stops else "eos"


def _stop_tokens(tokenizer: Tokenizer, stop: Sequence[str]) -> frozenset[int]:
    found = ((text, tokenizer.token_id(text)) for text in stop)
    return frozenset(
        token
        for text, token in found
        if token is not None
        and tokenizer.decode([token]) == text
        and not tokenizer.decode([token], skip_special_tokens=True)
    )
