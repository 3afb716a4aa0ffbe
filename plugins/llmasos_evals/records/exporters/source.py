"""What an exporter writes from: a run, and its documents where the tasks and data are here.

A record does not hold the documents, only their digests; formats that do hold them get them from the task files, when those
are here and have the digests of the record.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from llmasos.api import EvalRequest, HubAPI, LlmasosError, Progress
from llmasos_evals.evaluator import plan_tasks, select_tasks
from llmasos_evals.records.checks import data_digest
from llmasos_evals.records.reading import Run
from llmasos_evals.records.replay import only_these
from llmasos_evals.tasks.task import PlannedDocument, Task


@dataclass
class Source:
    """A run to export. ``progress`` gets a warning for what has to be left out."""

    run: Run
    request: EvalRequest
    hub: HubAPI
    progress: Progress
    #: Task -> ``ORG/NAME`` or ``ORG/NAME#TASK_ID`` of a data set on the Hub, for formats that name one.
    datasets: Mapping[str, str] = field(default_factory=dict)
    #: How the model is called there, for example ``org/name``.
    model_name: str | None = None

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """The tasks that are here as they were. One warning for those that are not."""
        if self.run.imported:
            return {}
        try:
            found = {task.name: task for task in select_tasks(self.request, self.hub).tasks}
        except LlmasosError as error:
            self._without(error.message)
            return {}
        same = {
            name: task
            for name, task in found.items()
            if name in self.run.tasks
            and task.digest == self.run.task(name)["digest"]
            and data_digest(task, self.run.task(name)) == self.run.task(name)["data_digest"]
        }
        absent = [name for name in self.run.tasks if name not in same]
        if absent:
            self._without(
                f"{', '.join(absent[:5])}{', ...' if len(absent) > 5 else ''} are not here as they were"
            )
        return same

    @cached_property
    def documents(self) -> dict[tuple[str, int], PlannedDocument]:
        """(task, number) -> the document, for ``tasks``."""
        if not self.tasks:
            return {}
        wanted = {
            name: list(self.run.offsets(name).indices) if name in self.tasks else []
            for name in self.run.tasks
        }
        selection, request = select_tasks(self.request, self.hub), only_these(self.request, wanted)
        tokenizer = self.hub.load_tokenizer(request.model) if request.apply_chat_template else None
        runs = plan_tasks(selection, request, self.progress, tokenizer)
        return {(run.task.name, planned.index): planned for run in runs for planned in run.planned}

    @property
    def model(self) -> str:
        """The model's name: as given, else its reference, else the name of its folder."""
        if self.model_name:
            return self.model_name
        ref = str(self.run.record["model"]["ref"])
        named = re.match(r"(?:hf|registry)://([^@#]+)", ref)
        return named.group(1) if named else f"local/{Path(ref).name or 'model'}"

    def _without(self, why: str) -> None:
        self.progress.warn(f"documents and filtered answers are left out of the export: {why}")


Exporter = Callable[[Source, Path], Sequence[Path]]


def numeric(value: Any) -> float | None:
    """A number of the record as a float, None for none."""
    if isinstance(value, str):
        return float({"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}[value])
    return None if value is None else float(value)
