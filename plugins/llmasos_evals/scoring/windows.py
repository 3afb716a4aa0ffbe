"""Cutting a long text into windows that each predict new tokens.

Semantics of lm-evaluation-harness 0.4 (``lm_eval/utils.py``: rolling windows with one token of context, made disjoint), so
that perplexities are comparable with published ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """``targets`` are predicted given ``context`` and the targets before them; every target belongs to one window."""

    context: tuple[int, ...]
    targets: tuple[int, ...]


def rolling_windows(
    tokens: Sequence[int], *, prefix: int, max_length: int, context_length: int = 1
) -> list[Window]:
    """Windows of at most ``max_length`` model inputs that together predict each of ``tokens`` once.

    The first window starts from the ``prefix`` token (BOS) alone. Each further one predicts up to
    ``max_length - context_length + 1`` tokens; the last is moved back so that it is as long as the others, which gives its
    tokens more context. No tokens: no windows. Raises ValueError unless 1 <= context_length <= max_length.
    """
    if not 1 <= context_length <= max_length:
        raise ValueError(f"context_length {context_length} is not between 1 and max_length {max_length}")
    if not tokens:
        return []
    first = min(max_length, len(tokens))
    windows = [Window((prefix,), tuple(tokens[:first]))]
    step = max_length - context_length + 1
    done = first
    while done < len(tokens):
        count = min(len(tokens) - done, step)
        end = done + count
        # The inputs are the max_length tokens before the last target; those before the first target are context.
        windows.append(Window(tuple(tokens[end - max_length - 1 : done]), tuple(tokens[done:end])))
        done = end
    return windows
