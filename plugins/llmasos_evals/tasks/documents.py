"""The documents of a task: those that are scored and those that few-shot examples are drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from llmasos.api import InputError
from llmasos_evals.datasets.local import Rows, open_data
from llmasos_evals.digests import digest_rows
from llmasos_evals.tasks.config import TaskConfig
from llmasos_evals.tasks.functions import repeatable_randomness
from llmasos_evals.tasks.rules import TaskRules


class Documents:
    """Reads nothing before it is asked; checks at construction that the named files are there (InputError)."""

    def __init__(self, config: TaskConfig, rules: TaskRules) -> None:
        self.config = config
        self.rules = rules
        self._data = open_data(config.task, config.dataset_path, config.dataset_kwargs, config.source)
        self._processed: dict[tuple[str, bool], Rows] = {}

    @cached_property
    def scored(self) -> Rows:
        """The rows that are scored, after ``process_docs``. Raises InputError when there are none."""
        rows = self._split(self.config.eval_split, examples=False)
        if not len(rows):
            raise InputError(f"task {self.config.task}: split {self.config.eval_split!r} has no documents")
        return rows

    @cached_property
    def pool(self) -> Sequence[Mapping[str, Any]]:
        """The rows few-shot examples are drawn from. Raises InputError when there are none."""
        split, samples = self._pool_source()
        rows: Sequence[Mapping[str, Any]] = (
            self._split(str(split), examples=self.config.fewshot.split is not None)
            if samples is None
            else samples
        )
        if not len(rows):
            raise InputError(f"task {self.config.task}: the few-shot pool is empty")
        return rows

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the canonical rows of the scored split and of the few-shot pool, as they lie in the files."""
        parts: dict[str, Any] = {"eval": self._data.split(self.config.eval_split)}
        split, samples = self._pool_source()
        if samples is not None:
            parts["fewshot"] = samples
        elif split is not None and self._data.has(split):
            parts["fewshot"] = self._data.split(split)
        return digest_rows(parts)

    @property
    def origin(self) -> Mapping[str, str | None]:
        """Where the rows come from, for the record: kind, name, config, revision and the two splits."""
        split, _ = self._pool_source()
        return {
            "kind": "files",
            "name": None,
            "config": None,
            "revision": None,
            **getattr(self._data, "origin", {}),
            "split": self.config.eval_split,
            "fewshot_split": split if split is not None and self._data.has(split) else None,
        }

    def _pool_source(self) -> tuple[str | None, Any]:
        """The split of the few-shot pool, or the rows themselves."""
        config = self.config
        if config.fewshot.split is not None:
            return config.fewshot.split, None
        samples = self.rules.samples
        if samples is not None:
            return None, list(samples() if callable(samples) else samples)
        return config.training_split or config.validation_split or config.test_split, None

    def _split(self, name: str, *, examples: bool) -> Rows:
        """A split after ``process_docs``, of which few-shot examples may have another one."""
        key = (name, examples)
        if key not in self._processed:
            rows = self._data.split(name)
            process = (self.rules.example if examples else self.rules.question).process_docs
            if process is not None:
                with repeatable_randomness():
                    made = process(rows)
                rows = made if isinstance(made, Rows) else Rows(made)
            self._processed[key] = rows
        return self._processed[key]
