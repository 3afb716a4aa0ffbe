"""The model against the definition, computed slowly from dictionaries of counts."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from llmasos.api import InputError, PackedBatch
from llmasos_ngram.estimate import FALLBACK, estimate
from llmasos_ngram.model import NgramModel
from llmasos_ngram.weights import check
from llmasos_ngram.words import BOUNDARY

Gram = tuple[int, ...]


class Textbook:
    """Chen & Goodman 1998, equations 24 to 26, with Kneser-Ney counts below the highest order. No arrays, no trie."""

    def __init__(self, texts: Sequence[Sequence[int]], order: int, vocab_size: int) -> None:
        self.order, self.vocab_size = order, vocab_size
        whole = [(BOUNDARY, *text, BOUNDARY) for text in texts]
        grams = {
            n: Counter(t[i : i + n] for t in whole for i in range(len(t) - n + 1))
            for n in range(1, order + 1)
        }
        self.counts: dict[int, dict[Gram, int]] = {order: dict(grams[order])}
        for n in range(1, order):
            before: dict[Gram, set[int]] = defaultdict(set)
            for gram in grams[n + 1]:
                before[gram[1:]].add(gram[0])
            self.counts[n] = {gram: len(left) for gram, left in before.items()}
            if n > 1:
                self.counts[n] |= {gram: c for gram, c in grams[n].items() if gram[0] == BOUNDARY}
        self.discounts = {n: self._discounts(list(self.counts[n].values())) for n in self.counts}

    @staticmethod
    def _discounts(counts: list[int]) -> Sequence[float]:
        n1, n2, n3, n4 = (counts.count(k) for k in (1, 2, 3, 4))
        if 0 in (n1, n2, n3, n4):
            return FALLBACK
        y = n1 / (n1 + 2 * n2)
        found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        return found if all(0 < d < k for d, k in zip(found, (1, 2, 3), strict=True)) else FALLBACK

    def probability(self, word: int, history: Gram) -> float:
        n = len(history) + 1
        lower = self.probability(word, history[1:]) if history else 1 / self.vocab_size
        followers = {g: c for g, c in self.counts[n].items() if g[:-1] == history}
        total = sum(followers.values())
        if total == 0:
            return lower

        def discount(count: int) -> float:
            return self.discounts[n][min(count, 3) - 1] if count else 0.0

        count = followers.get((*history, word), 0)
        rest = sum(discount(c) for c in followers.values()) / total
        return (count - discount(count)) / total + rest * lower


def random_texts(seed: int, *, texts: int, words: int) -> list[list[int]]:
    """Texts in which few words are frequent and most are rare, as in a language."""
    rng = random.Random(seed)
    return [
        [257 + min(int(rng.paretovariate(0.7)) - 1, words - 1) for _ in range(rng.randrange(1, 40))]
        for _ in range(texts)
    ]


def probabilities(model: NgramModel, history: Sequence[int]) -> torch.Tensor:
    batch = PackedBatch(torch.tensor(history), torch.arange(len(history)), (0, len(history)))
    return model.logits(model.hidden(batch))[-1].double().exp()


@pytest.mark.parametrize(("order", "texts"), [(2, 3), (3, 40), (4, 12), (5, 12)])
def test_probabilities_are_those_of_the_textbook_and_sum_to_one(order: int, texts: int) -> None:
    corpus = random_texts(order, texts=texts, words=30)
    vocab_size = 257 + 30
    table = estimate(corpus, order=order, vocab_size=vocab_size)
    check(Path("table"), vocab_size, table.levels)
    model = NgramModel(table.levels, {}, max_length=64, device="cpu")
    textbook = Textbook(corpus, order, vocab_size)
    np.testing.assert_allclose(
        np.array(table.discounts), [textbook.discounts[n] for n in range(1, order + 1)]
    )
    rng = random.Random(1)
    histories: list[list[int]] = [[BOUNDARY], [BOUNDARY, corpus[0][0]], [257 + 29, 255, 257], [255, 255, 255]]
    histories += [text[:stop] for text in corpus[:4] for stop in (1, 3, 6) if text[:stop]]
    histories += [[rng.randrange(255, vocab_size) for _ in range(4)] for _ in range(4)]
    for history in histories:
        ours = probabilities(model, history)
        assert abs(float(ours.sum()) - 1) < 1e-5
        seen = tuple(history[-(order - 1) :])
        theirs = [textbook.probability(word, seen) for word in range(255, vocab_size)]
        np.testing.assert_allclose(ours[255:].numpy(), theirs, rtol=1e-5)


def test_discounts_are_estimated_where_counts_allow_and_fall_back_where_they_do_not() -> None:
    plenty = estimate(random_texts(3, texts=200, words=60), order=3, vocab_size=257 + 60)
    assert plenty.discounts[2] != FALLBACK
    scarce = estimate([[257, 258]], order=3, vocab_size=260)
    assert scarce.discounts == (FALLBACK, FALLBACK, FALLBACK)


def test_a_text_that_was_seen_is_likelier_than_its_words_in_another_order() -> None:
    text = [257 + i for i in range(20)]
    model = NgramModel(estimate([text], order=3, vocab_size=300).levels, {}, max_length=64, device="cpu")

    def score(ids: list[int]) -> float:
        whole = torch.tensor([BOUNDARY, *ids])
        hidden = model.hidden(PackedBatch(whole[:-1], torch.arange(len(ids)), (0, len(ids))))
        return float(model.token_logprobs(hidden, whole[1:])[0].sum())

    assert score(text) > score(text[::-1]) + 10


def test_nothing_to_train_on_is_an_error() -> None:
    with pytest.raises(InputError, match="no text"):
        estimate([[], []], order=3, vocab_size=300)
