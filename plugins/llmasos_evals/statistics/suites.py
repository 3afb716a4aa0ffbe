"""The comparison of two whole runs: every task and group both have, what could not be compared and why."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from llmasos.api import HubAPI, InputError, Progress
from llmasos_evals.statistics.aggregations import Mean
from llmasos_evals.statistics.comparison import SETTINGS, Difference, Settings, compare, compare_means
from llmasos_evals.statistics.holm import holm
from llmasos_evals.statistics.pairing import (
    ABSENT,
    REFUSED,
    Key,
    Kind,
    Mismatch,
    RunLike,
    agrees,
    clusters_of,
    mismatches,
    pair,
    read_columns,
    signatures,
)
from llmasos_evals.statistics.signatures import aggregation_for

Range = tuple[float | None, float | None]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which scores to compare, and which kinds of mismatch to overlook. Empty: all."""

    tasks: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    allow: frozenset[Kind] = frozenset()

    def names(self, task: str) -> bool:
        """Whether a task or group is chosen; names may be patterns."""
        return not self.tasks or any(fnmatchcase(task, pattern) for pattern in self.tasks)

    def wants_metric(self, metric: str) -> bool:
        """Whether a metric is chosen."""
        return not self.metrics or metric in self.metrics

    def wants(self, task: str, metric: str) -> bool:
        """Whether a score is chosen."""
        return self.names(task) and self.wants_metric(metric)


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison. ``p_holm`` is the p-value corrected for all tests of the comparison."""

    kind: str
    task: str
    metric: str
    filter: str
    higher_is_better: bool
    unit: str
    limits: Range
    result: Difference
    note: str = ""
    p_holm: float | None = None


@dataclass(slots=True)
class Comparison:
    """Two runs compared. ``skipped`` says of a task or score why it was not, ``remarks`` what a reader should know,
    ``refused`` which kinds of mismatch kept something out."""

    rows: list[Row] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    refused: set[Kind] = field(default_factory=set)


def compare_runs(
    a: RunLike,
    b: RunLike,
    hub: HubAPI,
    *,
    choice: Choice = Choice(),
    settings: Settings = SETTINGS,
    progress: Progress | None = None,
    scales: Mapping[tuple[str, Key], float] | None = None,
) -> Comparison:
    """Compare the second run with the first, score by score.

    ``scales`` multiplies values of the first run, by (task, key). Raises InputError when a run's samples are not here, or do
    not give the values of its record.
    """
    found = Comparison()
    refused = REFUSED - choice.allow
    kept: dict[tuple[str, Key], Row] = {}
    below = _below(a, choice)
    for task in a.tasks:
        chosen = _chosen(a, task, choice, below)
        if not chosen:
            continue
        if task not in b.tasks:
            found.skipped.append((task, "only the first run has it"))
            continue
        differ = mismatches(a, b, task)
        reasons = [mismatch.text for mismatch in differ if mismatch.kind in refused]
        if reasons:
            found.skipped.append((task, "; ".join(reasons)))
            found.refused |= {mismatch.kind for mismatch in differ} & refused
            continue
        found.remarks += [f"{task}: {mismatch.text}" for mismatch in differ]
        for row in _task_rows(
            a, b, task, chosen, hub, refused, settings, found, progress, scales or {}, choice
        ):
            if choice.wants(task, row.metric):
                found.rows.append(row)
            kept[task, (row.metric, row.filter)] = row
    found.skipped += [
        (task, "only the second run has it")
        for task in b.tasks
        if task not in a.tasks and _chosen(b, task, choice, set())
    ]
    found.rows += _group_rows(a, b, kept, choice, settings, found, scales or {})
    return found


def _chosen(run: RunLike, task: str, choice: Choice, below: Collection[str]) -> list[Mapping[str, Any]]:
    return [
        score
        for score in run.task(task)["scores"]
        if choice.wants(task, score["metric"]) or (task in below and choice.wants_metric(score["metric"]))
    ]


def _below(run: RunLike, choice: Choice) -> set[str]:
    """Tasks that are compared because a group above them was named."""
    groups = {group["name"]: group for group in run.record["groups"]}
    named = [name for name in groups if choice.tasks and choice.names(name)]
    return {task for name in named for task in members_of(name, run.record)}


def _task_rows(
    a: RunLike,
    b: RunLike,
    task: str,
    chosen: Sequence[Mapping[str, Any]],
    hub: HubAPI,
    refused: Collection[Kind],
    settings: Settings,
    found: Comparison,
    progress: Progress | None,
    scales: Mapping[tuple[str, Key], float],
    choice: Choice,
) -> Iterator[Row]:
    theirs = {(score["metric"], score["filter"]): score for score in b.task(task)["scores"]}
    both: dict[Key, Any] = {}
    for score in chosen:
        key = (score["metric"], score["filter"])
        if key not in theirs:
            found.skipped.append((f"{task}.{_name(key)}", "only the first run has it"))
            continue
        differ: list[Mismatch] = signatures(score, theirs[key])
        if differ and "signature" in refused:
            found.skipped.append((f"{task}.{_name(key)}", differ[0].text))
            found.refused.add("signature")
            continue
        found.remarks += [f"{task}: {mismatch.text}" for mismatch in differ]
        both[key] = score
    if not both:
        return
    sizes = [run.task(task)["scores"][0].get("n") or 0 for run in (a, b)]
    if progress is not None:
        progress.phase(f"reading {task}", sum(sizes))
    left, right = (read_columns(run, task, list(both), progress) for run in (a, b))
    pairs = pair(left.documents, right.documents)
    if not pairs.a:
        found.skipped.append((task, "the runs have no document in common"))
        return
    if pairs.only_a or pairs.only_b:
        found.remarks.append(
            f"{task}: {len(pairs.a)} documents are in both runs; {pairs.only_a} only in the first and "
            f"{pairs.only_b} only in the second are left out"
        )
    for key, score in both.items():
        aggregation = _aggregation(score, left.items[key], hub)
        head = (
            "task", task, *key, score["higher_is_better"] is not False, str(score.get("unit") or ""), _limits(score),
        )  # fmt: skip
        if aggregation is None:
            if choice.wants(task, key[0]):
                found.remarks.append(
                    f"{task}.{_name(key)} has no test: the task's own code computes it, so nothing here says whether the "
                    "difference is chance"
                )
            first, second = (
                math.nan if s["value"] is None else float(s["value"]) for s in (score, theirs[key])
            )
            yield Row(
                *head,
                Difference(len(pairs.a), first, second, second - first),
                "no test: the signature does not say how documents make the value",
            )
            continue
        both_have = [
            (x, y)
            for x, y in zip(pairs.a, pairs.b, strict=True)
            if left.items[key][x] is not ABSENT and right.items[key][y] is not ABSENT
        ]
        if not both_have:
            found.skipped.append((f"{task}.{_name(key)}", "the runs have no document in common"))
            continue
        result = compare(
            aggregation,
            [left.items[key][x] for x, _ in both_have],
            [right.items[key][y] for _, y in both_have],
            higher_is_better=score["higher_is_better"] is not False,
            limits=_limits(score),
            clusters=clusters_of(a, left, [x for x, _ in both_have]),
            settings=settings,
            scale=scales.get((task, key), 1.0),
        )
        for run, columns, recorded, value in (
            (a, left, score, result.a),
            (b, right, theirs[key], result.b),
        ):
            whole = [item for item in columns.items[key] if item is not ABSENT]
            if len(whole) != len(both_have):
                value = float(aggregation.value(whole))
            if not agrees(value, recorded["value"]):
                raise InputError(
                    f"the samples of {task} in {run.folder} do not give the record's {_name(key)}",
                    hint="record and samples are of different runs, or were changed; `llmasos eval verify` says more",
                )
        yield Row(*head, result)


def _aggregation(score: Mapping[str, Any], items: Sequence[Any], hub: HubAPI) -> Any:
    """How a score is computed: from its signature, or as a mean where there is none and the mean of the items is the value."""
    if score["signature"]:
        return aggregation_for(score["signature"], hub)
    numbers = [item for item in items if item is not ABSENT]
    plain = bool(numbers) and all(isinstance(item, float | int) for item in numbers)
    return Mean() if plain and agrees(Mean().value(numbers), score["value"]) else None


def _name(key: Key) -> str:
    return key[0] if key[1] == "none" else f"{key[0]},{key[1]}"


def _limits(score: Mapping[str, Any]) -> Range:
    low, high = score.get("range") or (None, None)
    return (None if low is None else float(low), None if high is None else float(high))


def _group_rows(
    a: RunLike,
    b: RunLike,
    kept: Mapping[tuple[str, Key], Row],
    choice: Choice,
    settings: Settings,
    found: Comparison,
    scales: Mapping[tuple[str, Key], float],
) -> Iterator[Row]:
    """Groups both runs have, from the comparisons of their tasks."""
    theirs = {group["name"]: group for group in b.record["groups"]}
    groups = {group["name"]: group for group in a.record["groups"]}
    for name, group in groups.items():
        if name not in theirs:
            continue
        members, others = members_of(name, a.record), members_of(name, b.record)
        for score in group["scores"]:
            key = (score["metric"], score["filter"])
            if not choice.wants(name, score["metric"]):
                continue
            rows = [kept[task, key] for task in members if (task, key) in kept]
            having = [
                task
                for task in members
                if any((s["metric"], s["filter"]) == key for s in a.task(task)["scores"])
            ]
            if len(rows) != len(having) or sorted(members) != sorted(others):
                found.skipped.append((f"{name}.{_name(key)}", "not all of its tasks were compared"))
                continue
            by_size = "|weight:none|" not in (score["signature"] or "")
            sizes = [row.result.documents if by_size else 1 for row in rows]
            parts = [(size / sum(sizes), row.result) for size, row in zip(sizes, rows, strict=True)]
            result = compare_means(parts, settings, scale=scales.get((name, key), 1.0))
            if result is not None:
                better, limits = score["higher_is_better"] is not False, _limits(score)
                yield Row("group", name, *key, better, str(score.get("unit") or ""), limits, result)


def members_of(name: str, record: Mapping[str, Any]) -> list[str]:
    """The tasks of a group, at any depth; a task is its own."""
    return list(dict.fromkeys(_members(name, {group["name"]: group for group in record["groups"]}, set())))


def _members(name: str, groups: Mapping[str, Mapping[str, Any]], seen: set[str]) -> Iterator[str]:
    if name not in groups:
        yield name
        return
    if name in seen:
        return
    seen.add(name)
    for member in groups[name]["members"]:
        yield from _members(member, groups, seen)


def corrected(comparisons: Sequence[Comparison]) -> None:
    """Fill in ``p_holm``: all tests that are shown together are one family."""
    places = [(comparison, n) for comparison in comparisons for n in range(len(comparison.rows))]
    adjusted = holm([comparison.rows[n].result.p for comparison, n in places])
    for (comparison, n), p in zip(places, adjusted, strict=True):
        comparison.rows[n] = replace(comparison.rows[n], p_holm=p)
