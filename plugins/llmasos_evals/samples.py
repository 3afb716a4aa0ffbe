"""The documents of a run with ``--limit auto``: a pilot, then as many more as the wanted interval needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from llmasos.api import EvalRequest, Progress, UsageError
from llmasos_evals.records.runs import TaskRun
from llmasos_evals.statistics.limits import Decision, decide, sampling, section
from llmasos_evals.tasks.library import Selection
from llmasos_evals.tasks.task import Score


class Samples:
    """Which documents of each task are scored. ``statistics.limits`` has the rule and its reasons.

    Raises UsageError when standard errors were turned off: there is no interval then.
    """

    def __init__(self, request: EvalRequest, selection: Selection) -> None:
        if request.interval is None or request.bootstrap <= 0:
            raise UsageError(
                "limit auto needs standard errors and an interval",
                hint="give --interval, and --bootstrap above 0",
            )
        self._request = request
        self._interval = request.interval
        self._orders = {
            task.name: sampling(
                task.name,
                task.size(),
                request.seed,
                task.clusters(task.cluster_column(request.cluster_column)),
            )
            for task in selection.tasks
        }
        self._decisions: dict[str, Decision] = {}

    def pilot(self) -> EvalRequest:
        """The request for the pilot."""
        return self._asking({name: order.first(order.pilot) for name, order in self._orders.items()})

    def rest(self, runs: Sequence[TaskRun], scores: Mapping[str, Sequence[Score]]) -> EvalRequest | None:
        """The request for the documents that the intervals need besides the pilot's; None when it was enough."""
        wanted: dict[str, list[int]] = {}
        for run in runs:
            name, order = run.task.name, self._orders[run.task.name]
            units = None
            if run.cluster_column is not None:
                units = len({sample.get("cluster") for sample in run.ordered})
            decision = decide(scores[name], self._interval, len(order.order), units)
            self._decisions[name] = decision
            done = {planned.index for planned in run.planned}
            wanted[name] = [index for index in order.first(decision.count) if index not in done]
        return self._asking(wanted) if any(wanted.values()) else None

    def join(self, runs: Sequence[TaskRun], more: Sequence[TaskRun]) -> None:
        """Add the documents of the second round to the runs of the first, in the order of their numbers."""
        later = {run.task.name: run for run in more}
        for run in runs:
            added = later.get(run.task.name)
            if added is not None:
                planned = (*run.planned, *added.planned)
                run.planned = tuple(sorted(planned, key=lambda document: document.index))
                run.samples |= added.samples
                run.resumed += added.resumed

    def report(
        self, runs: Sequence[TaskRun], scores: Mapping[str, Sequence[Score]], progress: Progress
    ) -> None:
        """Note for the record how the documents were chosen, and warn where the interval is wider than wanted."""
        for run in runs:
            name = run.task.name
            run.sampling = section(self._decisions[name], scores[name], self._interval)
            if run.sampling["reached"]:
                continue
            decision = self._decisions[name]
            if decision.documents > decision.available:
                why = f"that takes about {decision.documents} documents, and there are {decision.available}"
            else:
                why = "the pilot looked narrower than all documents together"
            progress.warn(f"{name}: an interval is wider than wanted: {why}")

    def _asking(self, documents: Mapping[str, Sequence[int]]) -> EvalRequest:
        return replace(self._request, limit=None, interval=None, samples=documents)
