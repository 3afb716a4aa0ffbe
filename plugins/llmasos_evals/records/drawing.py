"""Which documents a verifier computes again, and how surely such a draw meets altered ones."""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Iterator, Mapping, Sequence

#: Shares of altered documents that the probability is stated for.
SHARES = (0.01, 0.02, 0.05)


def draw(documents: Mapping[str, Sequence[int]], size: int, seed: str) -> dict[str, list[int]]:
    """``size`` documents of all tasks together, each as likely as any other, without replacement: task -> numbers, sorted.

    Those with the smallest sha256 of ``seed``, task and number (joined by newlines): whoever knows the seed can draw them
    again, with any program. All of them when there are no more.
    """
    ranked = heapq.nsmallest(size, _ranked(documents, seed))
    found: dict[str, list[int]] = {}
    for _, task, index in ranked:
        found.setdefault(task, []).append(index)
    return {task: sorted(found[task]) for task in documents if task in found}


def _ranked(documents: Mapping[str, Sequence[int]], seed: str) -> Iterator[tuple[bytes, str, int]]:
    for task, indices in documents.items():
        for index in indices:
            yield hashlib.sha256(f"{seed}\n{task}\n{index}".encode()).digest(), task, index


def detection(documents: int, size: int, share: float) -> float:
    """The probability that a draw of ``size`` meets at least one altered document when a share of them was altered.

    Hypergeometric: 1 - C(N-m, k) / C(N, k) with m altered documents, rounded up. Close to 1 - (1-share)**size for large runs.
    """
    altered = min(documents, math.ceil(share * documents - 1e-9))
    size = min(size, documents)
    if altered == 0 or size == 0:
        return 0.0
    if size > documents - altered:
        return 1.0
    missed = math.fsum(math.log1p(-altered / (documents - drawn)) for drawn in range(size))
    return -math.expm1(missed)
