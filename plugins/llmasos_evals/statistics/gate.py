"""Whether a run keeps the rules of a gate.

A rule without ``@p`` looks at the values alone. With ``@p<ALPHA`` it fails only when the data speak against it: when the
one-sided test of "the true value keeps the bound" has a p-value below ALPHA. So a rule with ``@p`` never fails by chance more
often than ALPHA, and a small run can hide a large loss; ``sees`` says how large.
"""

from __future__ import annotations

import glob
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from llmasos.api import HubAPI, LlmasosError, Progress
from llmasos_evals.statistics.amounts import points
from llmasos_evals.statistics.comparison import Difference, Settings
from llmasos_evals.statistics.distributions import binomial_at_most, normal_below, normal_quantile, t_below
from llmasos_evals.statistics.pairing import KINDS, Key, Kind, RunLike, mismatches, signatures
from llmasos_evals.statistics.power import USUAL
from llmasos_evals.statistics.rules import Rule
from llmasos_evals.statistics.suites import Choice, Row, compare_runs, members_of

#: The chance with which a loss of the size ``sees`` makes a rule fail.
POWER = 0.8


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one rule on one score. ``bound`` is what the value must keep; ``margin`` how far it is on the good side."""

    rule: Rule
    task: str
    metric: str
    filter: str
    status: Literal["passed", "failed", "error"]
    message: str
    value: float | None = None
    baseline: float | None = None
    bound: float | None = None
    margin: float | None = None
    p: float | None = None
    sees: float | None = None


def judge(
    rules: Sequence[Rule],
    run: RunLike,
    baseline: RunLike | None,
    hub: HubAPI,
    *,
    allow: frozenset[Kind] = frozenset(),
    settings: Settings = Settings(),  # noqa: B008 (frozen)
    progress: Progress | None = None,
) -> list[Verdict]:
    """The verdicts of all rules, in order; a pattern gives one for each score it fits.

    What cannot be judged is an error and never passes: a score that is not there, a baseline that is not comparable.
    """
    return [
        verdict for rule in rules for verdict in _judge(rule, run, baseline, hub, allow, settings, progress)
    ]


def _judge(
    rule: Rule,
    run: RunLike,
    baseline: RunLike | None,
    hub: HubAPI,
    allow: frozenset[Kind],
    settings: Settings,
    progress: Progress | None,
) -> Iterator[Verdict]:
    targets = list(_targets(rule, run))
    if not targets:
        yield _error(rule, rule.task, (rule.metric, rule.filter or ""), "the run has no such score")
    if rule.is_relative and baseline is not None and glob.has_magic(rule.task):
        # A task that the baseline has and the run lost must not slip through a pattern.
        here = {name for name, _ in targets}
        for name, score in _targets(rule, baseline):
            if name not in here:
                yield _error(rule, name, _key(score), "only the baseline has it")
    for name, score in targets:
        key = _key(score)
        try:
            yield _verdict(rule, name, score, run, baseline, hub, allow, settings, progress)
        except _Unjudged as reason:
            yield _error(rule, name, key, str(reason))
        except LlmasosError as error:
            yield _error(rule, name, key, error.message)


class _Unjudged(Exception):
    """Why a rule cannot be judged."""


def _error(rule: Rule, task: str, key: Key, message: str) -> Verdict:
    return Verdict(rule, task, *key, "error", message)


def _key(score: Mapping[str, Any]) -> Key:
    return score["metric"], score["filter"]


def _sections(run: RunLike) -> dict[str, Mapping[str, Any]]:
    """Tasks and groups by name."""
    return {section["name"]: section for section in [*run.record["tasks"], *run.record["groups"]]}


def _targets(rule: Rule, run: RunLike) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, section in _sections(run).items():
        if fnmatchcase(name, rule.task):
            for score in section["scores"]:
                if score["metric"] == rule.metric and rule.filter in (None, score["filter"]):
                    yield name, score


def _number(value: Any) -> float:
    return float(value)  # the record's names of what JSON cannot write are Python's, too


def _verdict(
    rule: Rule,
    name: str,
    score: Mapping[str, Any],
    run: RunLike,
    baseline: RunLike | None,
    hub: HubAPI,
    allow: frozenset[Kind],
    settings: Settings,
    progress: Progress | None,
) -> Verdict:
    if score["value"] is None or score["higher_is_better"] is None:
        raise _Unjudged("the record does not say its value, or whether more is better")
    better: bool = score["higher_is_better"]
    if (rule.relation == ">=") != better:
        right = ">=" if better else "<="
        raise _Unjudged(
            f"{'more' if better else 'less'} is better for {score['metric']}: the rule must say {right}"
        )
    several = [s["filter"] for s in _sections(run)[name]["scores"] if s["metric"] == rule.metric]
    if rule.filter is None and len(several) > 1:
        raise _Unjudged(f"{rule.metric} has several filters: {', '.join(several)}; name one after a comma")
    value = _number(score["value"])
    if not math.isfinite(value):
        raise _Unjudged(f"the value is {score['value']}")
    key, sign = _key(score), 1.0 if better else -1.0
    verdict = Verdict(rule, name, *key, "passed", "", value)
    if not rule.is_relative:
        bound = rule.value
        verdict = replace(verdict, bound=bound, margin=sign * (value - bound))
        if rule.alpha is None:
            return _by_value(verdict)
        return _by_test(verdict, rule.alpha, *_one_sample(score, bound, sign))
    if baseline is None:
        raise _Unjudged("the rule is relative, and there is no --baseline")
    theirs = _comparable(name, key, score, run, baseline, allow)
    if theirs["value"] is None:
        raise _Unjudged("the baseline has no value")
    base = _number(theirs["value"])
    if not math.isfinite(base):
        raise _Unjudged(f"the value of the baseline is {theirs['value']}")
    change = _points(rule, score) if rule.unit == "pp" else base * rule.value / 100
    bound = base + change
    verdict = replace(verdict, baseline=base, bound=bound, margin=sign * (value - bound))
    if rule.alpha is None:
        return _by_value(verdict)
    factor = 1.0 if rule.unit == "pp" else 1 + rule.value / 100
    row = _compared(name, key, run, baseline, hub, factor, allow, settings, progress)
    return _by_test(verdict, rule.alpha, *_two_samples(row, change if rule.unit == "pp" else 0.0, sign))


def _points(rule: Rule, score: Mapping[str, Any]) -> float:
    low, high = score.get("range") or (None, None)
    found = points(rule.value, (low, high))
    if found is None:
        raise _Unjudged(f"{rule.metric} is no share, so percentage points mean nothing; use % or a value")
    return found


def _by_value(verdict: Verdict) -> Verdict:
    assert verdict.margin is not None
    assert verdict.bound is not None
    kept = verdict.margin >= -1e-12 * max(1.0, abs(verdict.bound))
    words = f"{verdict.value:.6g} {'keeps' if kept else 'does not keep'} {verdict.rule.relation} {verdict.bound:.6g}"
    return replace(verdict, status="passed" if kept else "failed", message=words)


def _by_test(verdict: Verdict, alpha: float, p: float, stderr: float | None) -> Verdict:
    failed = p < alpha
    sees = None if stderr is None else (normal_quantile(1 - alpha) + normal_quantile(POWER)) * stderr
    if verdict.margin is not None and verdict.margin >= 0:
        words = f"{verdict.value:.6g} keeps {verdict.rule.relation} {verdict.bound:.6g}"
    else:
        words = (
            f"{verdict.value:.6g} does not keep {verdict.rule.relation} {verdict.bound:.6g}, "
            f"{'significantly' if failed else 'but not significantly'} (p = {p:.4g})"
        )
    return replace(verdict, status="failed" if failed else "passed", message=words, p=p, sees=sees)


# ---- the tests ---------------------------------------------------------------------------------------------------------


def _one_sample(score: Mapping[str, Any], bound: float, sign: float) -> tuple[float, float | None]:
    """One-sided p-value that a score's true value keeps an absolute bound: binomial for proportions, else Student's t."""
    stderr, n, value = score["stderr"], score["n"], _number(score["value"])
    if score.get("stderr_method") in ("analytic|wilson", "none|wilson") and 0 <= bound <= 1:
        hits = round(value * n)
        p = binomial_at_most(hits, n, bound) if sign > 0 else 1 - binomial_at_most(hits - 1, n, bound)
        return p, math.sqrt(bound * (1 - bound) / n)
    if stderr is None or not math.isfinite(_number(stderr)):
        raise _Unjudged("the score has no standard error, so nothing can be said about chance")
    margin = sign * (value - bound)
    if stderr == 0:
        return (0.0 if margin < 0 else 1.0), 0.0
    return t_below(margin / _number(stderr), max(1, n - 1)), _number(stderr)


def _two_samples(row: Row, change: float, sign: float) -> tuple[float, float | None]:
    """One-sided p-value that the true difference keeps a bound of ``change``."""
    result = row.result
    error = None if result.detectable is None else result.detectable / USUAL.reach
    if result.stderr is None:
        raise _Unjudged(
            row.note or "the difference has no standard error, so nothing can be said about chance"
        )
    if (
        result.test == "mcnemar:exact"
        and row.kind == "task"
        and result.wins is not None
        and result.losses is not None
    ):
        wins, losses = result.wins, result.losses
        if change == 0:
            return binomial_at_most(wins, wins + losses, 0.5), error
        up, down = (wins, losses) if sign > 0 else (losses, wins)
        return normal_below(sign * tango(up, down, result.documents, change)), error
    margin = sign * (result.difference - change)
    if result.stderr == 0:
        return (0.0 if margin < -1e-12 else 1.0), error
    z = margin / result.stderr
    mean = row.kind == "task" and result.deltas is not None
    return (t_below(z, _freedom(result)) if mean else normal_below(z)), error


def _freedom(result: Difference) -> int:
    return max(1, (result.units or result.documents) - 1)


def tango(up: int, down: int, n: int, change: float) -> float:
    """Tango's score statistic (1998) for a difference of two shares of the same ``n`` documents being ``change``.

    ``up`` documents became right and ``down`` wrong. Standard normal where the true difference is ``change``; it keeps its
    level where Wald's does not, with few documents that differ. With ``change`` 0 it is McNemar's.
    """
    a = 2.0 * n
    b = -up - down + (2 * n - up + down) * change
    c = -down * change * (1 - change)
    share = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = n * (2 * share + change * (1 - change))
    distance = up - down - n * change
    if variance <= 0:
        return math.inf if distance > 0 else -math.inf if distance < 0 else 0.0
    return distance / math.sqrt(variance)


# ---- the baseline ------------------------------------------------------------------------------------------------------


def _comparable(
    name: str,
    key: Key,
    score: Mapping[str, Any],
    run: RunLike,
    baseline: RunLike,
    allow: frozenset[Kind],
) -> Mapping[str, Any]:
    """The baseline's score. Raises _Unjudged for anything but the model that differs."""
    section = _sections(baseline).get(name)
    theirs: Mapping[str, Any] | None = None
    if section is not None:
        theirs = next((s for s in section["scores"] if _key(s) == key), None)
    if theirs is None:
        raise _Unjudged("the baseline has no such score")
    tasks = members_of(name, run.record)
    if sorted(tasks) != sorted(members_of(name, baseline.record)):
        raise _Unjudged("the group has other tasks in the baseline")
    found = [
        f"{task}: {mismatch.text}" if task != name else mismatch.text
        for task in tasks
        for mismatch in mismatches(baseline, run, task)
        if mismatch.kind not in allow
    ]
    found += [mismatch.text for mismatch in signatures(theirs, score) if mismatch.kind not in allow]
    if "documents" not in allow:
        if score["n"] != theirs["n"]:
            found.append(f"the documents differ: {theirs['n']} and {score['n']} were scored")
        elif any(_samples(baseline, task) != _samples(run, task) for task in tasks):
            found.append("the documents differ: others were asked for")
    if found:
        raise _Unjudged(f"the baseline is not comparable: {'; '.join(found[:3])}")
    return theirs


def _samples(run: RunLike, task: str) -> Any:
    """The documents of a task that were asked for one by one."""
    return ((run.record.get("settings") or {}).get("samples") or {}).get(task)


def _compared(
    name: str,
    key: Key,
    run: RunLike,
    baseline: RunLike,
    hub: HubAPI,
    factor: float,
    allow: frozenset[Kind],
    settings: Settings,
    progress: Progress | None,
) -> Row:
    tasks = members_of(name, run.record)
    found = compare_runs(
        baseline,
        run,
        hub,
        choice=Choice((glob.escape(name),), (key[0],), frozenset(KINDS)),
        settings=settings,
        progress=progress,
        scales={(task, key): factor for task in {name, *tasks}},
    )
    for row in found.rows:
        if (row.task, row.metric, row.filter) == (name, *key):
            size = next(s["n"] for s in _sections(run)[name]["scores"] if _key(s) == key)
            if row.result.documents != size and "documents" not in allow:
                raise _Unjudged("the baseline is not comparable: the documents differ")
            return row
    raise _Unjudged("; ".join(why for _, why in found.skipped) or "it cannot be compared with the baseline")
