"""From scores to the next token: penalties and filters with the meaning they have in transformers, and seeded draws.

Shapes: B rows, V vocabulary. Scores are float32.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmasos.contracts.model import SamplingParams
from llmasos.errors import UsageError

if TYPE_CHECKING:
    from torch import Generator, Tensor


def check(params: SamplingParams) -> None:
    """Raises UsageError for settings that make no sense."""
    limits = (
        ("max_new_tokens", params.max_new_tokens, params.max_new_tokens >= 0, "0 or more"),
        ("temperature", params.temperature, 0 <= params.temperature < math.inf, "0 (greedy) or more"),
        ("top_k", params.top_k, params.top_k >= 0, "0 (off) or more"),
        ("top_p", params.top_p, 0 < params.top_p <= 1, "above 0 and at most 1 (off)"),
        ("min_p", params.min_p, 0 <= params.min_p <= 1, "from 0 (off) to 1"),
        (
            "repetition_penalty",
            params.repetition_penalty,
            0 < params.repetition_penalty < math.inf,
            "above 0; 1 is off",
        ),
        ("num_beams", params.num_beams, params.num_beams >= 1, "1 (off) or more"),
        ("length_penalty", params.length_penalty, math.isfinite(params.length_penalty), "a finite number"),
        (
            "early_stopping",
            params.early_stopping,
            params.early_stopping in (True, False, "never"),
            "True, False or 'never'",
        ),
        (
            "num_return_sequences",
            params.num_return_sequences,
            1 <= params.num_return_sequences <= params.num_beams,
            f"from 1 to num_beams = {params.num_beams}",
        ),
    )
    for name, value, fine, wanted in limits:
        if not fine:
            raise UsageError(f"{name} = {value!r}", hint=f"{name} must be {wanted}")
    if params.num_beams > 1 and params.temperature > 0:
        raise UsageError(
            f"beam search with temperature = {params.temperature!r}",
            hint="beams are searched at temperature 0; sampling takes num_beams = 1",
        )
    if "" in params.stop:
        raise UsageError("an empty stop string would end every text at once", hint="leave it out")


def penalised(scores: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Divide positive and multiply negative scores of ``seen`` [B, V] bool tokens by ``penalty`` (Keskar et al. 2019)."""
    import torch

    return torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


class SeenTokens:
    """Which tokens the sequence in each slot has, for the repetition penalty; no memory until one asks for it."""

    def __init__(self, slots: int, vocab_size: int, device: str) -> None:
        self._shape = (slots, vocab_size)
        self._device = device
        self._seen: Tensor | None = None

    def start(self, slot: int, tokens: Sequence[int]) -> None:
        """A new sequence begins in ``slot``."""
        table = self._table()
        table[slot] = False
        table[slot, list(tokens)] = True

    def penalised(self, scores: Tensor, slots: Sequence[int], penalty: float) -> Tensor:
        """Penalised scores [B, V] of the sequences in ``slots``."""
        return penalised(scores, self._table()[list(slots)], penalty)

    def penalised_path(self, scores: Tensor, slot: int, tokens: Sequence[int], penalty: float) -> Tensor:
        """Penalised scores [k + 1, V] after the sequence in ``slot``, then after each of ``tokens`` [k] that may follow."""
        seen = self._table()[[slot] * len(scores)]
        for place, token in enumerate(tokens):
            seen[place + 1 :, token] = True
        return penalised(scores, seen, penalty)

    def add(self, slots: Sequence[int], tokens: Sequence[int]) -> None:
        """``tokens[b]`` goes on in ``slots[b]``."""
        self._table()[list(slots), list(tokens)] = True

    def _table(self) -> Tensor:
        """[slots, V] bool."""
        import torch

        if self._seen is None:
            self._seen = torch.zeros(self._shape, dtype=torch.bool, device=self._device)
        return self._seen


def logprobs(scores: Tensor, tokens: Sequence[int]) -> list[float]:
    """Log-probabilities of ``tokens`` [B] under scores [B, V], which no penalty, temperature or filter has touched."""
    import torch

    chosen = scores.gather(1, torch.tensor(tokens, device=scores.device)[:, None]).squeeze(1)
    found: list[float] = (chosen - scores.logsumexp(dim=-1)).tolist()
    return found


def filtered(scores: Tensor, params: SamplingParams) -> Tensor:
    """Scores [B, V] after temperature, top-k, top-p and min-p, in this order; tokens that are out have -inf.

    top-k keeps everything that ties with the k-th best. top-p keeps the smallest set whose probability reaches ``top_p``
    (Holtzman et al. 2020). min-p keeps tokens at least ``min_p`` times as likely as the best (Nguyen et al. 2024). The
    best token always stays.
    """
    import torch

    scores = scores / params.temperature
    if 0 < params.top_k < scores.shape[-1]:
        least = scores.topk(params.top_k, dim=-1).values[:, -1:]  # [B, 1]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if params.top_p < 1:
        # From the least likely up, so that what is cut is a sum of small numbers.
        ordered, tokens = scores.sort(dim=-1)
        out = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - params.top_p
        out[:, -1] = False
        scores = scores.masked_fill(out.scatter(1, tokens, out), -torch.inf)
    if params.min_p > 0:
        probabilities = scores.softmax(dim=-1)
        best = probabilities.amax(dim=-1, keepdim=True)
        scores = scores.masked_fill(probabilities < params.min_p * best, -torch.inf)
    return scores


def row_generator(seed: int, prompt: Sequence[int], occurrence: int) -> Generator:
    """The random stream of one completion.

    It depends on the seed and the prompt, not on the place in a batch, so a prompt gives the same sample alone and among
    others. ``occurrence`` counts earlier equal prompts of the same call: asking for one prompt n times gives n samples.
    """
    import torch

    text = f"{seed}/{occurrence}/{','.join(map(str, prompt))}"
    number = int.from_bytes(hashlib.sha256(text.encode("ascii")).digest()[:8], "big")
    # On the CPU whatever the device, so that a seed means the same everywhere; torch takes 63 bits.
    return torch.Generator(device="cpu").manual_seed(number >> 1)


def draw(scores: Tensor, generator: Generator) -> int:
    """A token from softmax(scores) [V], by inverting its cumulative distribution at one uniform number."""
    import torch

    cumulative = scores.double().cpu().softmax(dim=-1).cumsum(dim=-1)
    uniform = torch.rand((), generator=generator, dtype=torch.float64)
    token = int(torch.searchsorted(cumulative, uniform * cumulative[-1], right=True))
    # rounding could point past the last token that has any probability
    last = int((scores > -torch.inf).nonzero()[-1])
    return min(token, last)


def accepted(scores: Tensor, chances: Tensor, token: int, generator: Generator) -> tuple[int, bool]:
    """Keep a guess or replace it, so that the result is drawn from p = softmax(scores) [V]; and whether it was kept.

    ``token`` was drawn from ``chances`` q [V] float64. It is kept with probability min(1, p / q); otherwise the result is drawn
    from max(0, p - q), normalised (Leviathan et al. 2023, appendix A.1).
    """
    import torch

    wanted = scores.double().cpu().softmax(dim=-1)
    uniform = torch.rand((), generator=generator, dtype=torch.float64)
    if uniform * chances[token] < wanted[token]:
        return token, True
    rest = (wanted - chances).clamp(min=0)
    if not rest.any():  # equal but for rounding
        rest = wanted
    return draw(rest.log(), generator), False
