"""Answers that are a function of token ids alone: both harnesses get the same ones, on all documents, in seconds.

A token's nats are a hash of the token and of all tokens before it, in quarters of a nat: sums are exact whatever their
order, so scores are equal to the last bit or something is wrong, and ties are frequent enough to be seen. A token counts
as greedy one time in four. Imported by both sides; needs numpy only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Numbers that are answers of some documents, and texts around them that filters and stop strings must deal with.
NUMBERS = (2, 3, 4, 5, 6, 8, 10, 12, 15, 16, 18, 20, 24, 25, 30, 40, 50, 60, 64, 100, 120, 540)
FRAMES = (
    " Adding up gives ${}.\n#### {}.\n\nQuestion: and then?",
    " They take {} and {}, so that is all\n\nQuestion: what else",
    " I do not know<|im_end|> {} {}",
    " #### {},00 or {}",
)

Words = NDArray[np.uint64]


def mixed(values: Words) -> Words:
    """Well-spread 64-bit values (splitmix64, Steele et al. 2014). Overflow is meant."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def contributions(tokens: NDArray[np.int64], positions: NDArray[np.int64]) -> Words:
    """What each token adds to the state of every position that sees it."""
    return mixed(tokens.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + positions.astype(np.uint64))


def nats_and_greedy(
    states: Words, targets: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(log-probability, whether it is the best token) of ``targets`` [M] after ``states`` [M]."""
    words = mixed(states ^ mixed(targets.astype(np.uint64)))
    return (words % np.uint64(32)).astype(np.float64) / -4.0 - 0.25, (words >> np.uint64(40)) % np.uint64(
        4
    ) == 0


def likelihood(context: Sequence[int], continuation: Sequence[int], max_length: int) -> tuple[float, bool]:
    """Nats of a continuation and whether greedy decoding gives it; what does not fit is cut on the left."""
    ids = np.asarray([*context, *continuation], dtype=np.int64)[-(max_length + 1) :]
    inputs = ids[:-1]
    states = np.cumsum(contributions(inputs, np.arange(len(inputs), dtype=np.int64)))
    count = len(continuation)
    nats, greedy = nats_and_greedy(states[-count:], ids[-count:])
    return float(nats.sum()), bool(greedy.all())


def completion(prompt: Sequence[int]) -> str:
    """What the pseudo-model writes after a prompt, stop strings and all."""
    raw = hashlib.sha256(np.asarray(prompt, dtype="<i8").tobytes()).digest()
    number = NUMBERS[raw[0] % len(NUMBERS)]
    return FRAMES[raw[1] % len(FRAMES)].format(number, number)
