"""Processors ``exact_dedup`` and ``near_dedup``."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from data_samples import PROSE
from hypothesis import given, settings
from hypothesis import strategies as st

from llmasos.api import Document, InputError, RunError
from llmasos_data.exact import ExactDedup
from llmasos_data.near import NearDedup
from llmasos_data.shingles import Shingler
from llmasos_data.signatures import dump, load


def run(step: Any, shards: Sequence[Sequence[Document]]) -> dict[str, str]:
    """id -> detail of what was dropped; kept ones are absent."""
    resolutions = step.resolve([step.signatures(shard) for shard in shards])
    dropped = {}
    for shard, resolution in zip(shards, resolutions, strict=True):
        decisions = list(step.apply(shard, resolution))
        assert [d.document for d in decisions] == list(shard)
        dropped |= {d.document.id: d.detail for d in decisions if not d.kept}
    return dropped


def words(count: int, seed: int) -> list[str]:
    """Random words."""
    rng = random.Random(seed)
    return [f"w{rng.randrange(5000)}" for _ in range(count)]


def changed(text: Sequence[str], places: int, seed: int) -> str:
    """The text with so many words replaced, spread out."""
    rng = random.Random(seed)
    result = list(text)
    for place in rng.sample(range(len(result)), places):
        result[place] = f"new{rng.randrange(10**6)}"
    return " ".join(result)


# ---- exact ------------------------------------------------------------------------------------------------------------


def test_the_smallest_id_of_equal_texts_stays() -> None:
    shards = [
        [Document("c", "Same  text"), Document("b", "other")],
        [
            Document("a", "same text "),
            Document("d", "SAME\ntext"),
            Document("e", "ﬁne"),
            Document("f", "fine"),
        ],
    ]
    assert run(ExactDedup({}, None), shards) == {"c": "same as a", "d": "same as a", "f": "same as e"}


@pytest.mark.parametrize(
    ("option", "text"), [("case", "SAME text"), ("whitespace", "same  text"), ("compatibility", "ſame text")]
)
def test_what_counts_as_the_same_can_be_narrowed(option: str, text: str) -> None:
    documents = [Document("a", "same text"), Document("b", text)]
    assert run(ExactDedup({}, None), [documents]) == {"b": "same as a"}
    narrow = {option: False, **({"case": False} if option == "compatibility" else {})}
    assert run(ExactDedup(narrow, None), [documents]) == {}


def test_two_documents_with_one_id_are_told_apart() -> None:
    shards = [[Document("x", "text")], [Document("x", "text"), Document("x", "another")]]
    step = ExactDedup({}, None)
    resolutions = list(step.resolve([step.signatures(shard) for shard in shards]))
    kept = [d.kept for shard, r in zip(shards, resolutions, strict=True) for d in step.apply(shard, r)]
    assert kept == [True, False, True]


# ---- near -------------------------------------------------------------------------------------------------------------


def test_copies_with_a_few_changed_words_go_and_others_stay() -> None:
    text = words(300, 1)
    documents = [
        Document("original", " ".join(text)),
        Document("p-close", changed(text, 9, 2)),  # 3 %
        Document("q-far", changed(text, 90, 3)),  # 30 %
        Document("r-other", " ".join(words(300, 4))),
        Document("s-case", " ".join(text).upper() + "!"),
    ]
    dropped = run(NearDedup({}, None), [documents[:2], documents[2:]])
    assert set(dropped) == {"p-close", "s-case"}
    assert dropped["s-case"] == "1.000 similar to original"


def test_documents_without_words_stay_and_short_ones_are_compared_whole() -> None:
    documents = [
        Document("a", ""),
        Document("b", "..."),
        Document("c", "two words"),
        Document("d", "Two words."),
        Document("e", "two"),
    ]
    assert run(NearDedup({"ngram": 5}, None), [documents]) == {"d": "1.000 similar to c"}


def test_scripts_without_spaces_are_compared_by_character() -> None:
    text = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所でニャーニャー泣いていた事だけは記憶している。"
    documents = [Document("a", text), Document("b", text.replace("猫", "犬")), Document("c", text[::-1])]
    assert set(run(NearDedup({"threshold": 0.8}, None), [documents])) == {"b"}


@pytest.mark.parametrize("verify", ["estimate", "exact"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_kept_set_does_not_depend_on_shards_or_order(verify: str, data: st.DataObject) -> None:
    clusters = data.draw(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12)), min_size=1, max_size=25))
    documents = [
        Document(f"{n:03d}", changed(words(60, seed), places, n)) for n, (seed, places) in enumerate(clusters)
    ]
    step = NearDedup({"verify": verify, "threshold": 0.5}, None)
    expected = run(step, [documents])
    shuffled = data.draw(st.permutations(documents))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(documents)), max_size=4)))
    shards = [shuffled[a:b] for a, b in zip([0, *cuts], [*cuts, len(documents)], strict=True)]
    assert run(step, shards) == expected
    for identity, detail in expected.items():
        winner = detail.rsplit(" ", 1)[-1]
        assert winner < identity
        assert winner not in expected


def test_exact_similarity_is_the_jaccard_similarity_of_the_sets() -> None:
    one, two = words(200, 1), changed(words(200, 1), 10, 5)
    shingler = Shingler(3)
    sets = [set(shingler.shingles([text])[0].tolist()) for text in (" ".join(one), two)]
    truth = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
    documents = [Document("a", " ".join(one)), Document("b", two)]
    exact = run(NearDedup({"verify": "exact"}, None), [documents])
    assert exact == {"b": f"{truth:.3f} similar to a"}
    estimate = run(NearDedup({}, None), [documents])
    assert float(estimate["b"].split()[0]) == pytest.approx(truth, abs=0.1)  # four standard errors


def test_shingles_of_a_batch_are_those_of_each_text() -> None:
    texts = [PROSE, "", "one two", PROSE.upper(), "a b c d e f", "短い文"]
    shingler = Shingler(4)
    hashes, offsets = shingler.shingles(texts)
    alone = [shingler.shingles([text])[0].tolist() for text in texts]
    assert [hashes[a:b].tolist() for a, b in pairwise(offsets.tolist())] == alone
    assert alone[0] == alone[3]
    assert [len(one) for one in alone[1:3]] == [0, 1]


def test_signatures_are_the_same_bytes_for_the_same_documents() -> None:
    documents = [Document(f"{n}", " ".join(words(80, n))) for n in range(700)]
    assert NearDedup({}, None).signatures(documents) == NearDedup({}, None).signatures(iter(documents))


def test_a_big_bucket_of_boilerplate_is_one_cluster() -> None:
    text = words(100, 1)
    documents = [Document(f"{n:04d}", changed(text, 1, n)) for n in range(400)]
    assert len(run(NearDedup({}, None), [documents[:150], documents[150:]])) == 399


@pytest.mark.parametrize(
    ("threshold", "permutations"), [(0.5, 256), (0.6, 128), (0.7, 256), (0.8, 256), (0.95, 64)]
)
def test_bands_are_as_long_as_recall_allows(threshold: float, permutations: int) -> None:
    options = NearDedup({"threshold": threshold, "permutations": permutations}, None).options
    rows = options.band_rows()
    recall = 1 - (1 - threshold**rows) ** (permutations // rows)
    assert recall >= 0.99
    assert 1 - (1 - threshold ** (rows + 1)) ** (permutations // (rows + 1)) < 0.99


def test_a_resolution_for_other_documents_is_refused() -> None:
    step = ExactDedup({}, None)
    shard = [Document("a", "one"), Document("b", "one")]
    resolution = next(step.resolve([step.signatures(shard)]))
    with pytest.raises(RunError, match="has 1 documents, its resolution is for 2"):
        list(step.apply(shard[:1], resolution))


@pytest.mark.parametrize("damage", [b"", b"x", b"{}\n", b'{"ids":[],"arrays":{}}\nmore'])
def test_damaged_signatures_are_a_run_error(damage: bytes) -> None:
    with pytest.raises(RunError, match="signatures are damaged"):
        load(damage)


def test_signatures_round_trip() -> None:
    arrays = {"a": np.arange(6, dtype=np.uint32).reshape(2, 3), "b": np.zeros(0, dtype=np.uint64)}
    ids, found = load(dump(["x", "y"], arrays))
    assert ids == ["x", "y"]
    assert all(np.array_equal(arrays[name], found[name]) for name in arrays)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0}, "`threshold`"),
        ({"rows": 300}, "`rows`"),
        ({"treshold": 0.5}, "did you mean `threshold`"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        NearDedup(options, None)
