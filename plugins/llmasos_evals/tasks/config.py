"""What a task file says: the fields of lm-evaluation-harness 0.4.13, checked and with defaults filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from llmasos.api import InputError
from llmasos_evals.tasks.taskfile import FunctionRef

#: Fields that cannot change a number: left out of the digest.
_WITHOUT_EFFECT = frozenset(
    {
        "task",
        "task_alias",
        "tag",
        "should_decontaminate",
        "doc_to_decontamination_query",
        "metadata",
        "dataset_path",
        "dataset_name",
        "dataset_kwargs",
    }
)


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One entry of ``metric_list``; ``options`` go to the metric."""

    metric: Any
    aggregation: Any = None
    higher_is_better: bool | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.metric.name if isinstance(self.metric, FunctionRef) else self.metric


@dataclass(frozen=True, slots=True)
class FilterSpec:
    """One pipeline of ``filter_list``: steps of (name or filter class, options)."""

    name: str
    steps: tuple[tuple[Any, Mapping[str, Any]], ...]


@dataclass(frozen=True, slots=True)
class FewshotConfig:
    """``fewshot_config`` with what it inherits from the task filled in."""

    sampler: str = "default"
    split: str | None = None
    process_docs: Any = None
    fewshot_indices: tuple[int, ...] | None = None
    samples: Any = None
    doc_to_text: Any = None
    doc_to_choice: Any = None
    doc_to_target: Any = None
    gen_prefix: str | None = None
    fewshot_delimiter: str = "\n\n"
    target_delimiter: str = " "


@dataclass(frozen=True, slots=True)
class TaskConfig:
    """A task file, includes merged, defaults filled in. Values may hold FunctionRefs."""

    task: str
    task_alias: str | None = None
    tag: tuple[str, ...] = ()
    dataset_path: str | None = None
    dataset_name: str | None = None
    dataset_kwargs: Mapping[str, Any] | None = None
    #: A function that gives the splits, called with metadata and dataset_kwargs.
    custom_dataset: Any = None
    training_split: str | None = None
    validation_split: str | None = None
    test_split: str | None = None
    process_docs: Any = None
    doc_to_text: Any = None
    doc_to_target: Any = None
    doc_to_choice: Any = None
    process_results: Any = None
    description: Any = ""
    target_delimiter: str = " "
    fewshot_delimiter: str = "\n\n"
    fewshot: FewshotConfig = field(default_factory=FewshotConfig)
    num_fewshot: int | None = None
    metric_list: tuple[MetricSpec, ...] = ()
    output_type: str = "generate_until"
    generation_kwargs: Mapping[str, Any] = field(default_factory=dict)
    repeats: int = 1
    filter_list: tuple[FilterSpec, ...] = ()
    should_decontaminate: bool = False
    doc_to_decontamination_query: Any = None
    gen_prefix: str | None = None
    #: The metrics run what the model writes.
    unsafe_code: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    #: The file, for messages.
    source: Path = Path()
    #: The fields as given, FunctionRefs as text: what the digest is made from.
    given: Mapping[str, Any] = field(default_factory=dict)

    @property
    def eval_split(self) -> str:
        """The split that is scored: test, else validation."""
        split = self.test_split or self.validation_split
        if split is None:
            raise InputError(
                f"{self.source}: task {self.task} has neither a test_split nor a validation_split",
                hint="name the split to score: `test_split: test`",
            )
        return split


#: Names of fields in task files, and in ``fewshot_config``.
TASK_FIELDS = {f.name for f in fields(TaskConfig)} - {"fewshot", "source", "given"} | {
    "fewshot_split",
    "fewshot_config",
}
FEWSHOT_FIELDS = {f.name for f in fields(FewshotConfig)}


def digest_input(config: TaskConfig, code: Mapping[str, str]) -> dict[str, Any]:
    """What a task's digest covers: every given field that can change a number, but data (it has its own digest)."""
    defaults = {f.name: f.default for f in fields(TaskConfig)}
    kept = {
        key: value
        for key, value in config.given.items()
        if key not in _WITHOUT_EFFECT and value is not None and value != defaults.get(key)
    }
    return {
        "task": config.task,
        "version": config.metadata.get("version"),
        "fields": kept,
        "code": dict(code),
    }
