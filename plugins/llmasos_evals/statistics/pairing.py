"""Two runs brought together: what of them may be compared, and the documents both have scored, in one order.

A run is read once, a document at a time; what stays in memory is what each document contributes to its metrics.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, get_args

from llmasos.api import Progress
from llmasos_evals.records.samples import read_items
from llmasos_evals.statistics.clusters import Clusters

Key = tuple[str, str]
#: What two numbers must share to be about the same thing; the second half is how the model was asked.
Kind = Literal[
    "task", "data", "signature", "shots", "draws", "template", "generation", "windows", "documents"
]
KINDS: tuple[Kind, ...] = get_args(Kind)
#: Differences that make two numbers incomparable; the others are warnings.
REFUSED: frozenset[Kind] = frozenset({"task", "data", "signature"})


#: In a column: this document contributes nothing to the metric.
ABSENT: Any = object()


class RunLike(Protocol):
    """What is used of ``records.reading.Run``."""

    folder: Any
    record: Mapping[str, Any]

    @property
    def tasks(self) -> tuple[str, ...]: ...

    def task(self, name: str) -> Mapping[str, Any]: ...

    def has_samples(self, task: str) -> bool: ...

    def samples(self, task: str) -> Iterator[dict[str, Any]]: ...


class Mismatch(NamedTuple):
    """Something that differs between two runs of a task, in words."""

    kind: Kind
    text: str


def mismatches(a: RunLike, b: RunLike, task: str) -> list[Mismatch]:
    """What differs between two runs of a task besides the model (and, by metric, its signature: ``signatures``)."""
    left, right = a.task(task), b.task(task)
    found = []
    for kind, name, text in (
        ("task", "digest", "the task itself (its file or code)"),
        ("data", "data_digest", "the data"),
        ("shots", "num_fewshot", "the number of shots"),
        ("generation", "generation", "the generation settings"),
    ):
        values = [section.get(name) for section in (left, right)]
        if values[0] != values[1]:
            found.append(_mismatch(kind, text + _older(left, right, kind), *values))
        elif values[0] is None and kind in REFUSED:
            # A run of another harness may not say what it ran; that two do not say it makes them no more alike.
            found.append(Mismatch(kind, f"{text} is not recorded"))
    for kind, text, values in (
        ("template", "the chat template", [_template(run.record) for run in (a, b)]),
        ("windows", "the stride of windows", [_setting(run.record, "stride") for run in (a, b)]),
    ):
        if values[0] != values[1]:
            found.append(_mismatch(kind, text, *values))
    if left.get("num_fewshot") and right.get("num_fewshot"):
        draws = [(_setting(run.record, "seed"), _setting(run.record, "compat")) for run in (a, b)]
        if draws[0] != draws[1]:
            found.append(_mismatch("draws", "the draw of shots (seed, compat)", *draws))
    return found


def signatures(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Mismatch]:
    """What differs between two scores of a metric."""
    if a["signature"] == b["signature"]:
        return (
            []
            if a["signature"]
            else [Mismatch("signature", f"how {a['metric']} is computed is not recorded")]
        )
    return [_mismatch("signature", f"the metric {a['metric']}", a["signature"], b["signature"])]


def _mismatch(kind: Any, text: str, left: Any, right: Any) -> Mismatch:
    return Mismatch(kind, f"{text} differs: {_short(left)} and {_short(right)}")


def _older(left: Mapping[str, Any], right: Mapping[str, Any], kind: Kind) -> str:
    """Why two digests may differ though the scored rows are the same: the first records had the pool in it without examples too."""
    if kind != "data" or left.get("num_fewshot") or right.get("num_fewshot"):
        return ""
    pools = [(section.get("data") or {}).get("fewshot_split") is not None for section in (left, right)]
    if pools[0] == pools[1]:
        return ""
    return " or, in a record of an older llmasos, the few-shot pool that nothing was drawn from (`eval rescore` brings it up to date)"


def _short(value: Any) -> str:
    text = str(value)
    return (
        text[:12] if len(text) == 64 and text.isalnum() else text if len(text) <= 160 else text[:157] + "..."
    )


def _setting(record: Mapping[str, Any], name: str) -> Any:
    return (record.get("settings") or {}).get(name)


def _template(record: Mapping[str, Any]) -> Any:
    """How prompts were dressed. Each model has its own template, so only whether one was applied, and what was said in it."""
    tokenizer = record.get("tokenizer") or {}
    if not tokenizer.get("chat_template_applied"):
        return "none"
    turns = _setting(record, "fewshot_as_multiturn")
    return f"applied, system instruction {tokenizer.get('system_instruction') or 'none'}, shots as turns: {turns}"


# ---- documents ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Columns:
    """What the documents of one task contribute, in the order of the documents."""

    documents: list[str] = field(default_factory=list)
    clusters: list[str | None] = field(default_factory=list)
    items: dict[Key, list[Any]] = field(default_factory=dict)


def read_columns(run: RunLike, task: str, keys: Sequence[Key], progress: Progress | None = None) -> Columns:
    """The items of ``keys`` of all documents of a task, ``ABSENT`` where a document has none. Raises InputError for damage."""
    columns = Columns(items={key: [] for key in keys})
    for sample in run.samples(task):
        columns.documents.append(sample["doc_digest"])
        columns.clusters.append(sample.get("cluster"))
        found = read_items(sample)
        for key, column in columns.items.items():
            column.append(found.get(key, ABSENT))
        if progress is not None:
            progress.advance()
    return columns


class Pairs(NamedTuple):
    """Places of the documents that both have, and how many only one has."""

    a: list[int]
    b: list[int]
    only_a: int
    only_b: int


def pair(a: Sequence[str], b: Sequence[str]) -> Pairs:
    """Match documents by digest, in the order of the first run; the n-th of equal documents goes with the n-th."""
    if list(a) == list(b):
        places = list(range(len(a)))
        return Pairs(places, places, 0, 0)
    waiting: dict[str, list[int]] = {}
    for place in range(len(b) - 1, -1, -1):
        waiting.setdefault(b[place], []).append(place)
    left, right = [], []
    for place, digest in enumerate(a):
        if waiting.get(digest):
            left.append(place)
            right.append(waiting[digest].pop())
    return Pairs(left, right, len(a) - len(left), len(b) - len(right))


def clusters_of(run: RunLike, columns: Columns, places: Sequence[int]) -> Clusters | None:
    """The clusters of the paired documents where the run recorded some."""
    labels = [columns.clusters[place] for place in places]
    if not any(label is not None for label in labels):
        return None
    named = [f"document {n}" if label is None else f"cluster {label}" for n, label in enumerate(labels)]
    return Clusters.of(_setting(run.record, "cluster_column") or "cluster", named)


def agrees(value: float, recorded: Any) -> bool:
    """Whether a value computed from samples is the one of the record."""
    if recorded is None:
        return False
    if isinstance(recorded, str):
        return str(value).lower().startswith(recorded.lower()[:3]) or (
            math.isnan(value) and recorded == "NaN"
        )
    return math.isclose(value, recorded, rel_tol=1e-9, abs_tol=1e-12)
