"""The documents of a task: those that are scored and those that few-shot examples are drawn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from llmasos.api import HubAPI, InputError
from llmasos_evals.datasets.opening import Data, open_data
from llmasos_evals.datasets.rows import Rows
from llmasos_evals.digests import digest_rows
from llmasos_evals.tasks.config import TaskConfig
from llmasos_evals.tasks.functions import repeatable_randomness
from llmasos_evals.tasks.rules import TaskRules


class MadeData:
    """Splits that a function of the task's own makes (``custom_dataset``); it is called when rows are first asked for.

    The function gets the task's metadata, the path of the task file as ``config_source``, and ``dataset_kwargs``.
    """

    def __init__(self, config: TaskConfig, function: Callable[..., Any]) -> None:
        self.config = config
        self.function = function

    @property
    def origin(self) -> Mapping[str, str | None]:
        return {"kind": "function", "name": self.config.dataset_path, "config": self.config.dataset_name}

    @cached_property
    def splits(self) -> Mapping[str, Rows]:
        """All splits. Raises InputError when the function gives none."""
        given = {**self.config.metadata, "config_source": str(self.config.source)}
        with repeatable_randomness():
            made = self.function(**{**given, **(self.config.dataset_kwargs or {})})
        if not isinstance(made, Mapping):
            raise InputError(
                f"{self.config.source}: `custom_dataset` must give splits by name, not {type(made).__name__}"
            )
        return {str(name): as_rows(rows) for name, rows in made.items()}

    def has(self, split: str | None) -> bool:
        return split in self.splits

    def split(self, name: str) -> Rows:
        """The rows of a split. Raises InputError when the function makes none of that name."""
        if name not in self.splits:
            raise InputError(
                f"task {self.config.task} reads split {name!r}, which its `custom_dataset` does not make "
                f"(it makes: {', '.join(sorted(self.splits)) or 'none'})"
            )
        return self.splits[name]


def _splits(config: TaskConfig) -> list[str]:
    """Splits that a task names, what is scored first."""
    named = (config.test_split, config.validation_split, config.training_split, config.fewshot.split)
    return list(dict.fromkeys(split for split in named if split is not None))


def as_rows(made: Any) -> Rows:
    """What task code returned as rows."""
    return made if isinstance(made, Rows) else Rows(made)


class Documents:
    """Reads nothing before it is asked; checks at construction that the named files are there (InputError)."""

    def __init__(self, config: TaskConfig, rules: TaskRules, hub: HubAPI) -> None:
        self._stated = config
        self.rules = rules
        self._data: Data | MadeData = (
            open_data(
                config.task,
                config.dataset_path,
                config.dataset_kwargs,
                config.source,
                dataset_name=config.dataset_name,
                hub=hub,
                splits=_splits(config),
            )
            if rules.custom_dataset is None
            else MadeData(config, rules.custom_dataset)
        )
        self._processed: dict[tuple[str, bool], Rows] = {}
        self._digests: dict[bool, str] = {}
        #: Splits that data of the user's choice does not have, known once the data was asked for.
        self.absent: tuple[str, ...] = ()

    @cached_property
    def config(self) -> TaskConfig:
        """The fields of the task; splits that data of the user's choice does not have are null.

        Raises InputError when that leaves nothing to score, and what finding the data raises.
        """
        stated, data = self._stated, self._data
        if not getattr(data, "lenient", False):
            return stated

        def there(split: str | None) -> str | None:
            return split if split is None or data.has(split) else None

        self.absent = tuple(split for split in _splits(stated) if not data.has(split))
        if there(stated.test_split) is None and there(stated.validation_split) is None:
            data.split(stated.eval_split)  # says what there is, and how to add what is missing
        return replace(
            stated,
            test_split=there(stated.test_split),
            validation_split=there(stated.validation_split),
            training_split=there(stated.training_split),
            fewshot=replace(stated.fewshot, split=there(stated.fewshot.split)),
        )

    @property
    def remarks(self) -> list[str]:
        """What the user should know about the data, once it was asked for."""
        if not self.absent:
            return []
        return [f"its data has no split {', '.join(self.absent)}; the task does without"]

    @cached_property
    def scored(self) -> Rows:
        """The rows that are scored, after ``process_docs``. Raises InputError when there are none."""
        rows = self._split(self.config.eval_split, examples=False)
        if not len(rows):
            raise InputError(
                f"task {self.config.task}: split {self.config.eval_split!r} has no documents",
                hint="look at its data files, and at what `process_docs` leaves of them",
            )
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

    @property
    def pool_is_scored(self) -> bool:
        """Whether the pool holds the very rows that are scored, so that equal numbers are equal rows."""
        split, samples = self._pool_source()
        return (
            samples is None
            and split == self.config.eval_split
            and (self.config.fewshot.split is None or self._same_process)
        )

    @property
    def _same_process(self) -> bool:
        return self.config.fewshot.process_docs == self.config.process_docs

    def digest(self, *, pool: bool) -> str:
        """SHA-256 over the canonical rows of the scored split, and of the few-shot pool, as they lie in the files."""
        if pool not in self._digests:
            parts: dict[str, Any] = {"eval": self._data.split(self.config.eval_split)}
            split, samples = self._pool_source() if pool else (None, None)
            if samples is not None:
                parts["fewshot"] = samples
            elif split is not None and self._data.has(split):
                parts["fewshot"] = self._data.split(split)
            self._digests[pool] = digest_rows(parts)
        return self._digests[pool]

    def origin(self, *, pool: bool) -> Mapping[str, str | None]:
        """Where the rows come from, for the record: kind, name, config, revision and the splits that are used."""
        split = self._pool_source()[0] if pool else None
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
        examples = examples and not self._same_process
        key = (name, examples)
        if key not in self._processed:
            rows = self._data.split(name)
            process = (self.rules.example if examples else self.rules.question).process_docs
            if process is not None:
                with repeatable_randomness():
                    made = process(rows)
                rows = as_rows(made)
            self._processed[key] = rows
        return self._processed[key]
