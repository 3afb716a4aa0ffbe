"""Tasks that live outside plugins and folders of the user: in an installed package, as files or as Python objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from llmasos.contracts.base import Contribution
from llmasos.contracts.evaluation import Request, Response


@dataclass(frozen=True, slots=True)
class ProgramSettings:
    """How the documents of a program are to be asked: everything the user may change about a prompt.

    ``shots`` examples a prompt, drawn from ``seed``. ``render`` turns messages with ``role`` and ``content`` into text, and
    leaves the last one open when its second argument is True; None for plain text.
    """

    shots: int
    seed: int
    render: Callable[[Sequence[Mapping[str, str]], bool], str] | None = None
    system_instruction: str | None = None
    multiturn: bool = False
    generation: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProgramDocument:
    """A document of a program and what it asks, in the program's order. ``doc`` and ``target`` are JSON values."""

    index: int
    doc: Mapping[str, Any]
    target: Any
    requests: tuple[Request, ...]


class TaskProgram(Protocol):
    """A task that is Python rather than data: it makes its own requests and counts its own answers.

    Requests are a function of file, data and settings; items are JSON values, so that a run can be resumed and scored again
    from what was written.
    """

    name: str
    version: str
    num_fewshot: int
    #: File -> sha256 of the Python files that make up the task, and of the task file.
    code: Mapping[str, str]
    #: Where the documents come from: kind, name, config, revision, split.
    origin: Mapping[str, str | None]

    def documents(self) -> Sequence[Mapping[str, Any]]:
        """The documents that are scored."""

    def pool(self) -> Sequence[Mapping[str, Any]]:
        """The documents that examples are drawn from."""

    def plan(self, settings: ProgramSettings, count: int) -> Iterator[ProgramDocument]:
        """The first ``count`` documents with their requests."""

    def items(
        self, document: ProgramDocument, responses: Sequence[Response]
    ) -> Mapping[tuple[str, str], Any]:
        """What a document contributes to each (metric, filter). ``responses`` in the order of its requests."""

    def value(self, metric: str, items: Sequence[Any]) -> float:
        """A metric over all documents."""

    def stderr(self, metric: str, items: Sequence[Any], bootstrap: int) -> float | None:
        """Its standard error by the program's own rules, None where they have none."""

    def aggregation(self, metric: str) -> str:
        """``mean`` for a metric whose value is the arithmetic mean of its items, else a name of the program's own."""

    def higher_is_better(self, metric: str) -> bool:
        """Whether more of a metric is better."""


class TaskSource(Protocol):
    """Factory object of a TaskSourceDef."""

    def folders(self) -> Sequence[Path]:
        """Folders of task files, looked into like those of ``--include`` but after them. Imports no task code."""

    def program(self, file: Path, fields: Mapping[str, Any]) -> TaskProgram:
        """The task of a file that names a Python class (``class: !function module.Class``); ``fields`` are the file's with
        what groups and users put on top. Runs the file's code: the user has allowed it.

        Raises MissingDependency, InputError.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSourceDef(Contribution):
    """Tasks of an installed package. ``factory`` names a TaskSource that takes no arguments."""

    kind: ClassVar[str] = "task_source"
