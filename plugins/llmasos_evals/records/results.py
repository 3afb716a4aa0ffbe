"""From finished documents to the sections of a record that say what came out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmasos.api import canonical_digest, merkle_root
from llmasos_evals.records.record import number
from llmasos_evals.records.samples import read_items
from llmasos_evals.statistics.clusters import Clusters

if TYPE_CHECKING:
    from llmasos_evals.tasks.library import Selection
    from llmasos_evals.tasks.task import Score


class Tally:
    """What the documents of one task add up to, fed one at a time in the order of the plan.

    Holds metric items and digests, not documents, so that the size of a run costs little memory. Items are read back from
    their stored form: a run that was resumed aggregates exactly what an unbroken one does.
    """

    def __init__(self, samples: Iterable[Mapping[str, Any]] = ()) -> None:
        #: (metric, filter) -> items in order.
        self.columns: dict[tuple[str, str], list[Any]] = {}
        self.documents = 0
        self._clusters: list[str | None] = []
        self._prompts: list[str] = []
        self._samples: list[str] = []
        self._counts: Counter[str] = Counter()
        self._observed: Counter[str] = Counter()
        for sample in samples:
            self.add(sample)

    def add(self, sample: Mapping[str, Any]) -> None:
        """Take in the next document."""
        self.documents += 1
        self._clusters.append(sample.get("cluster"))
        self._prompts.append(sample["prompt_digest"])
        self._samples.append(canonical_digest(sample))
        for key, value in read_items(sample).items():
            self.columns.setdefault(key, []).append(value)
        for request, response in zip(sample["requests"], sample["responses"], strict=True):
            self._counts["requests"] += 1
            self._counts["tokens"] += response["tokens"]
            self._counts["truncated_requests"] += response["truncated"] > 0
            self._counts["truncated_tokens"] += response["truncated"]
            self._counts["cut_continuations"] += response["unscored"] > 0
            self._counts["unscored_tokens"] += response["unscored"]
            self._counts["empty_continuations"] += (
                request["kind"] == "loglikelihood" and response["tokens"] == 0
            )
        self._observed.update(sample["observed"])

    def clusters(self, column: str | None) -> Clusters | None:
        """The clusters of the documents, None without a column; a document without one stands alone."""
        if column is None:
            return None
        labels = [
            f"document {place}" if label is None else f"cluster {label}"
            for place, label in enumerate(self._clusters)
        ]
        return Clusters.of(column, labels)

    @property
    def prompt_digest(self) -> str:
        """Merkle root over the documents' ``prompt_digest``."""
        return merkle_root(self._prompts)

    @property
    def samples_digest(self) -> str:
        """Merkle root over the digests of the documents' lines."""
        return merkle_root(self._samples)

    def counts(self) -> dict[str, Any]:
        """The section ``counts``."""
        names = (
            "requests",
            "tokens",
            "truncated_requests",
            "truncated_tokens",
            "cut_continuations",
            "unscored_tokens",
            "empty_continuations",
        )
        return {**{name: self._counts[name] for name in names}, "observed": dict(self._observed)}

    def section(self, scores: Sequence[Score]) -> dict[str, Any]:
        """What a task's section says of its results."""
        return {
            "prompt_digest": self.prompt_digest,
            "samples_digest": self.samples_digest,
            "counts": self.counts(),
            "scores": [score_section(score) for score in scores],
        }


def score_section(score: Score) -> dict[str, Any]:
    """A score of a task or group, in JSON types."""
    return {
        "metric": score.metric,
        "filter": score.filter,
        "value": number(score.value),
        "stderr": number(score.stderr),
        "ci_low": number(score.ci_low),
        "ci_high": number(score.ci_high),
        "stderr_method": score.stderr_method,
        "n": score.n,
        "higher_is_better": score.higher_is_better,
        "unit": score.unit,
        "range": list(score.range),
        "signature": score.signature,
    }


def group_sections(selection: Selection, scores: Mapping[str, Sequence[Score]]) -> list[dict[str, Any]]:
    """Groups that were asked for and those within them, inner ones first."""
    means = selection.aggregate(scores)
    groups = {inner.name: inner for group in selection.groups for inner in group.groups()}
    return [
        {
            "name": group.name,
            "alias": group.alias,
            "version": group.version,
            "members": [member.name for member in group.members],
            "scores": [score_section(score) for score in means[group.name]],
        }
        for group in groups.values()
    ]
