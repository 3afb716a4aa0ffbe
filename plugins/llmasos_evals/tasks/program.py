"""A task that is a Python class of another package: planned, scored, resumed and recorded like one from a file.

The package's plugin makes the requests and counts the answers (contract ``TaskProgram``); everything else is ours.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmasos.api import (
    AmbiguousName,
    EvaluationError,
    HubAPI,
    InputError,
    MissingDependency,
    ProgramDocument,
    ProgramSettings,
    Request,
    Response,
    TaskProgram,
    TaskSource,
    UsageError,
)
from llmasos_evals.digests import digest, digest_rows, plain
from llmasos_evals.metrics.measures import Measure
from llmasos_evals.statistics.aggregations import Mean
from llmasos_evals.tasks.chat import PLAIN, ChatSettings
from llmasos_evals.tasks.config import TaskConfig
from llmasos_evals.tasks.functions import TaskCode
from llmasos_evals.tasks.parsing import generation_settings
from llmasos_evals.tasks.planning import PlannedDocument
from llmasos_evals.tasks.task import Task


class ProgramTask(Task):
    """A TaskProgram as a task."""

    def __init__(self, program: TaskProgram, source: Path, overrides: Mapping[str, Any]) -> None:
        self.program = program
        self.name = program.name
        self.alias = str(overrides.get("task_alias") or program.name)
        self.version = program.version
        # It may ask for likelihoods as well; what matters here is that text is generated.
        self.output_type = "generate_until"
        self.num_fewshot = program.num_fewshot
        self.attribution = None
        self.remarks: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = ()
        self.code = dict(program.code)
        self._code = _ProgramCode(program.name, allowed=True, base=source.parent)
        self._data_digests: dict[bool, str] = {}
        #: The program filters answers itself.
        self._pipelines = []
        given = {key: value for key, value in overrides.items() if key != "task_alias"}
        self.digest = digest(
            {"program": self.name, "version": self.version, "fields": plain(given), "code": self.code}
        )
        self.config = TaskConfig(task=self.name, source=source, process_results=program.items)

    def size(self) -> int:
        return len(self.program.documents())

    def data_digest(self, shots: int) -> str:
        if bool(shots) not in self._data_digests:
            parts = {"eval": self.program.documents(), **({"fewshot": self.program.pool()} if shots else {})}
            self._data_digests[bool(shots)] = digest_rows(
                {name: map(plain, rows) for name, rows in parts.items()}
            )
        return self._data_digests[bool(shots)]

    def data_origin(self, shots: int) -> Mapping[str, str | None]:
        return {**self.program.origin, **({} if shots else {"fewshot_split": None})}

    def plan(
        self,
        *,
        limit: int | None,
        num_fewshot: int | None,
        seed: int,
        compat: str,
        chat: ChatSettings = PLAIN,
        documents: Collection[int] | None = None,
        gen_kwargs: Mapping[str, Any] | None = None,
    ) -> Iterator[PlannedDocument]:
        """As for a task from a file. A program draws examples its own way, whatever ``compat`` says."""
        template = chat.template
        settings = ProgramSettings(
            shots=self.shots(num_fewshot, compat),
            seed=seed,
            render=None
            if template is None
            else lambda messages, open_answer: template.render(messages, open_answer=open_answer),
            system_instruction=chat.system_instruction,
            multiturn=chat.multiturn,
            generation=dict(gen_kwargs or {}),
        )
        size = self.size()
        outside = [index for index in documents or () if not 0 <= index < size]
        if outside:
            raise InputError(
                f"task {self.name} has no document {outside[0]}", hint=f"its documents are 0 to {size - 1}"
            )
        end = size if limit is None else min(limit, size)
        if documents is not None:
            end = min(end, max(documents, default=-1) + 1)
        for document in self.program.plan(settings, end) if end else ():
            if documents is None or document.index in documents:
                yield self._planned(document, settings.generation)
        self.notes = tuple(chat.remarks())

    def _planned(self, document: ProgramDocument, generation: Mapping[str, Any]) -> PlannedDocument:
        requests = tuple(
            self._request(number, document.index, request, generation)
            for number, request in enumerate(document.requests)
        )
        doc = plain(document.doc)
        return PlannedDocument(document.index, doc, plain(document.target), requests, digest(doc))

    def _request(self, number: int, index: int, request: Request, generation: Mapping[str, Any]) -> Request:
        options: Mapping[str, Any] = {}
        if request.kind == "generate_until":
            given = {**request.options, **generation}
            options = generation_settings(given, self.config.fewshot_delimiter, self.config.source)
        key = (self.name, index, number)
        return Request(request.kind, key, request.context, request.continuation, options)

    def items(self, planned: PlannedDocument, responses: Sequence[Response]) -> dict[tuple[str, str], Any]:
        by_key = {response.key: response for response in responses}
        missing = [request.key for request in planned.requests if request.key not in by_key]
        if missing:
            raise EvaluationError(f"task {self.name}: no answer to request {missing[0]}")
        document = ProgramDocument(planned.index, planned.doc, planned.target, planned.requests)
        found = self.program.items(document, [by_key[request.key] for request in planned.requests])
        return {key: plain(value) for key, value in found.items()}

    def answers(self, planned: PlannedDocument, responses: Sequence[Response]) -> dict[str, Any]:
        """Nothing: the program keeps what its filters make to itself."""
        return {}

    def observe(self, planned: PlannedDocument, responses: Sequence[Response]) -> dict[str, int]:
        return {}

    def _measure(self, name: str) -> Measure:
        metric = ProgramMetric(self.program, name, self.digest)
        return Measure(name, metric, higher_is_better=self.program.higher_is_better(name))


class _ProgramCode(TaskCode):
    """A program is all code: what it draws at random must be the same every time."""

    @property
    def used(self) -> bool:
        return True


class ProgramMetric:
    """A metric of a program; the name means what the program says, so the signature names the program."""

    def __init__(self, program: TaskProgram, name: str, task_digest: str) -> None:
        self.program, self.name = program, name
        self._digest = task_digest
        #: Known to have a formula for its standard error and interval.
        self.aggregation = Mean() if program.aggregation(name) == "mean" else None

    @property
    def signature(self) -> str:
        return (
            f"{self.name}|from:program|of:{self._digest[:16]}|agg:{self.program.aggregation(self.name)}|v:1"
        )

    def item(self, outcome: Any) -> Any:
        """Never asked: the program makes its items itself."""
        raise EvaluationError(f"metric {self.name} belongs to a task that counts its own answers")

    def aggregate(self, items: Sequence[Any]) -> float:
        return float(self.program.value(self.name, items))

    def stderr(self, items: Sequence[Any], *, bootstrap: int) -> float | None:
        return self.program.stderr(self.name, items, bootstrap)


def open_program(
    hub: HubAPI, file: Path, fields: Mapping[str, Any], overrides: Mapping[str, Any], *, allowed: bool
) -> ProgramTask:
    """The task of a file with ``class``.

    Raises MissingDependency when no plugin brings such tasks, UsageError when task code is not allowed.
    """
    name = str(fields.get("task"))
    sources = hub.names("task_source")
    if not sources:
        raise MissingDependency(
            f"{file}: task {name} is a Python class, which needs a plugin that knows such tasks",
            hint='pip install "llmasos[lm-eval]" and enable llmasos-lmeval',
        )
    if len(sources) > 1:
        raise AmbiguousName(
            f"{file}: task {name} is a Python class, which several plugins know: "
            + ", ".join(source.full_name for source in sources),
            hint="disable all but one of them",
        )
    if not allowed:
        raise UsageError(
            f"task {name} runs Python code ({fields['class']}, beside {file}), which was not allowed",
            hint="read that file, then add --allow-task-code",
        )
    source: TaskSource = hub.get("task_source", sources[0].full_name)()
    given = {key: value for key, value in overrides.items() if key != "class"}
    return ProgramTask(source.program(file, {"task": name, **given}), file, given)
