"""How well a causal language model foretells a text: what quantising costs, in one number.

Perplexity is exp of the mean of -log p(token | tokens before it) over a text (Jelinek et al. 1977). The text is cut into windows
that follow one another; each begins anew, and its first token, which nothing precedes, is not foretold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmasos.contracts.model import CausalLM, PackedBatch
from llmasos.errors import EvaluationError

if TYPE_CHECKING:
    from llmasos.contracts.model import Model

#: Tokens of a window, where the model's context holds so many.
WINDOW = 1024


@dataclass(frozen=True, slots=True)
class Perplexity:
    """``value`` over ``tokens`` tokens that were foretold."""

    value: float
    tokens: int


def windows(ids: Sequence[int], max_length: int) -> Iterator[PackedBatch]:
    """The windows of a text, one a batch; a last one of a single token is left out."""
    import torch

    size = min(WINDOW, max_length)
    for begin in range(0, len(ids), size):
        tokens = torch.tensor(ids[begin : begin + size])
        if len(tokens) > 1:
            yield PackedBatch(tokens=tokens, positions=torch.arange(len(tokens)), starts=(0, len(tokens)))


def perplexity(
    model: Model, ids: Sequence[int], advance: Callable[[int], None] = lambda tokens: None
) -> Perplexity:
    """Of a model over the tokens ``ids``. ``advance`` is told of tokens that are done.

    Raises EvaluationError for a text of fewer than two tokens, and for a model that computes no numbers (NaN weights).
    """
    import torch

    assert isinstance(model, CausalLM)
    total, count = 0.0, 0
    with torch.inference_mode():
        for batch in windows(ids, model.max_length):
            hidden = model.hidden(batch)
            found, _ = model.token_logprobs(hidden[:-1], batch.tokens[1:].to(hidden.device))
            total -= float(found.double().sum())
            count += len(found)
            advance(len(batch.tokens))
    if count == 0:
        raise EvaluationError("a text of fewer than two tokens says nothing", hint="give a longer text")
    if not math.isfinite(total):
        raise EvaluationError(
            "the model gives probabilities that are no numbers: its weights hold NaN or infinity",
            hint="download it again, or mend the checkpoint",
        )
    return Perplexity(math.exp(min(total / count, 700.0)), count)
