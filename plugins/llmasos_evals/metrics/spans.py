"""Token-level tagging scored by entities: precision, recall and F1 of spans whose borders and type are right.

Tags are words separated by white space, in IOB2 (B-PER I-PER O) or IOBES (also E- and S-). ``mode: default`` reads spans as
the CoNLL-2000 script conlleval does, forgiving a span that begins with I-; ``mode: strict`` takes only spans that the
scheme allows. Both are those of the package seqeval (Nakayama 2018), checked against it; it is not needed to run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from llmasos.api import EvaluationError, GenerationOutcome, InputError, Outcome
from llmasos_evals.metrics.base import AggregatedMetric, said
from llmasos_evals.statistics.aggregations import Aggregation
from llmasos_evals.statistics.resampling import SumAggregation

#: Tags a scheme knows.
SCHEMES = {"IOB2": "BI", "IOBES": "BIES"}

#: (type, first token, last token)
Span = tuple[str, int, int]


def read_tags(text: Any, scheme: str) -> list[tuple[str, str]]:
    """(prefix, type) of each tag; what is no tag of the scheme counts as O. ``text`` is a text or a list of tags."""
    tags = text if isinstance(text, list) else str(text).split()
    found = []
    for tag in tags:
        prefix, _, kind = str(tag).partition("-")
        known = len(prefix) == 1 and prefix in SCHEMES[scheme]
        found.append((prefix, kind or "_") if known else ("O", ""))
    return found


def default_spans(tags: Sequence[tuple[str, str]]) -> Iterator[Span]:
    """Spans as conlleval reads them: a change of type or an I- after O begins one, whatever the scheme says."""
    begin, before, kind = 0, "O", ""
    for place, (prefix, type_) in enumerate([*tags, ("O", "")]):
        changed = kind != type_
        if before != "O" and (before in "ES" or prefix in "BSO" or changed):
            yield kind, begin, place - 1
        if prefix in "BS" or (prefix in "EI" and before in "ESO") or (prefix != "O" and changed):
            begin = place
        before, kind = prefix, type_


def strict_spans(tags: Sequence[tuple[str, str]], scheme: str) -> Iterator[Span]:
    """Spans that the scheme allows: B- and I- of one type; in IOBES closed by an E-, or a lone S-."""
    place = 0
    while place < len(tags):
        prefix, kind = tags[place]
        if prefix == "S":
            yield kind, place, place
        if prefix != "B":
            place += 1
            continue
        last = place
        while last + 1 < len(tags) and tags[last + 1] == ("I", kind):
            last += 1
        if scheme == "IOB2":
            yield kind, place, last
        elif last + 1 < len(tags) and tags[last + 1] == ("E", kind):
            last += 1
            yield kind, place, last
        place = last + 1


class EntityCounts(SumAggregation):
    """Precision, recall or F1 from (type, both, right, given) counts; a row holds both, right and given, type by type."""

    def __init__(self, measure: str, average: str = "micro") -> None:
        self.measure, self.average = measure, average
        self.name = f"entity_{measure}_{average}"

    def rows(self, items: Sequence[Any]) -> NDArray[np.float64]:
        kinds = {kind: n for n, kind in enumerate(sorted({count[0] for item in items for count in item}))}
        table = np.zeros((len(items), max(1, len(kinds)), 3))
        for row, item in zip(table, items, strict=True):
            for kind, *counts in item:
                row[kinds[kind]] = counts
        return table.reshape(len(items), -1)

    def score_of_row(self, row: Any) -> float:
        counts = np.asarray(row, dtype=np.float64).reshape(-1, 3)
        counts = counts[counts[:, 1] + counts[:, 2] > 0]
        if not len(counts):
            return 0.0
        if self.average == "micro":
            counts = counts.sum(axis=0, keepdims=True)
        both, right, given = counts.T
        below = {"precision": given, "recall": right, "f1": (right + given) / 2}[self.measure]
        each = np.divide(both, below, out=np.zeros_like(both), where=below > 0)
        if self.average == "weighted":
            return float(np.dot(each, right) / right.sum()) if right.sum() else 0.0
        return float(each.mean())


class EntityF1(AggregatedMetric):
    """F1 of entities over all documents. Tags beyond the right answer's are cut, missing ones are O."""

    name = "entity_f1"
    measure: ClassVar[str] = "f1"

    def __init__(
        self, scheme: str = "IOB2", mode: str = "default", average: str = "micro", **idle: Any
    ) -> None:
        super().__init__(**idle)
        scheme = {"BIO": "IOB2", "BIOES": "IOBES"}.get(scheme, scheme)
        for option, value, known in (
            ("scheme", scheme, (*SCHEMES, "BIO", "BIOES")),
            ("mode", mode, ("default", "strict")),
            ("average", average, ("micro", "macro", "weighted")),
        ):
            if value not in known:
                raise InputError(f"{self.name}: {option} {value!r} is none of {', '.join(known)}")
        self.scheme, self.mode, self.average = scheme, mode, average
        self.aggregation = EntityCounts(self.measure, average)

    @classmethod
    def default_aggregation(cls) -> Aggregation:
        return EntityCounts(cls.measure)

    def details(self) -> Mapping[str, str]:
        return {"scheme": self.scheme, "mode": self.mode, "average": self.average, "length": "reference"}

    def item(self, outcome: Outcome) -> Any:
        """[[type, right and given, right, given], ...]"""
        if not isinstance(outcome, GenerationOutcome):
            raise self.cannot_score(outcome)
        if len(outcome.references) != 1:
            raise EvaluationError(f"{self.name}: a document needs one reference with all its tags")
        right = read_tags(outcome.references[0], self.scheme)
        prediction = outcome.prediction
        given = read_tags(
            prediction if isinstance(prediction, list) and len(prediction) > 1 else said(prediction),
            self.scheme,
        )
        given = (given + [("O", "")] * len(right))[: len(right)]
        wanted, found = set(self.spans(right)), set(self.spans(given))
        counts = [Counter(span[0] for span in spans) for spans in (wanted & found, wanted, found)]
        return [[kind, *(count[kind] for count in counts)] for kind in sorted(counts[1] | counts[2])]

    def spans(self, tags: Sequence[tuple[str, str]]) -> Iterator[Span]:
        return strict_spans(tags, self.scheme) if self.mode == "strict" else default_spans(tags)


class EntityPrecision(EntityF1):
    """Share of the given entities that are right."""

    name = "entity_precision"
    measure = "precision"


class EntityRecall(EntityF1):
    """Share of the right entities that are given."""

    name = "entity_recall"
    measure = "recall"
