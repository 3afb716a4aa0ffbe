"""The names of ``datasets`` that task code uses: rows in memory instead of tables on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llmasos.api import EvaluationError
from llmasos_evals.datasets.rows import Rows, concatenate
from llmasos_evals.tasks.standins import Context


class DatasetDict(dict[str, Any]):
    """Splits by name; what is asked of it is asked of every split."""

    def map(self, function: Callable[..., Any], **settings: Any) -> DatasetDict:
        return DatasetDict({name: rows.map(function, **settings) for name, rows in self.items()})

    def filter(self, function: Callable[..., Any], **settings: Any) -> DatasetDict:
        return DatasetDict({name: rows.filter(function, **settings) for name, rows in self.items()})


class Value:
    """A column of plain values; ``encode_example`` makes them."""

    _MADE_BY: Mapping[str, Callable[[Any], Any]] = {"string": str, "bool": bool}

    def __init__(self, dtype: str, **_rest: Any) -> None:
        self.dtype = dtype

    def encode_example(self, value: Any) -> Any:
        make = self._MADE_BY.get(self.dtype)
        if make is None:
            make = int if "int" in self.dtype else float if "float" in self.dtype else lambda same: same
        return make(value)


class ClassLabel:
    """A column of class numbers with their names."""

    def __init__(self, num_classes: int | None = None, names: list[str] | None = None, **_rest: Any) -> None:
        self.names = list(names or map(str, range(num_classes or 0)))
        self.num_classes = len(self.names)

    def encode_example(self, value: Any) -> Any:
        return self.names.index(value) if isinstance(value, str) and value in self.names else int(value)

    def int2str(self, values: Any) -> Any:
        return self.names[values] if isinstance(values, int) else [self.names[value] for value in values]

    def str2int(self, values: Any) -> Any:
        return self.names.index(values) if isinstance(values, str) else [self.names.index(v) for v in values]


class Sequence:
    """A column of lists."""

    def __init__(self, feature: Any = None, length: int = -1, **_rest: Any) -> None:
        self.feature = feature

    def encode_example(self, value: Any) -> Any:
        encode = getattr(self.feature, "encode_example", None)
        return [encode(item) for item in value] if encode is not None and isinstance(value, list) else value


class Features(dict[str, Any]):
    """Column names and their types."""


def offered(context: Context) -> Mapping[str, Any]:
    """``datasets``"""
    from llmasos_evals.datasets.opening import open_data
    from llmasos_evals.tasks.standins.scripts import loader

    def load_dataset(
        path: str,
        name: str | None = None,
        *,
        split: str | None = None,
        data_files: Any = None,
        features: Any = None,
        **settings: Any,
    ) -> Any:
        """The splits of a data set as a task file would name it, or the rows of one."""
        options = {**settings, "data_files": data_files} if data_files is not None else settings
        data = open_data(context.task, path, options, Path("task code"))
        if split is not None:
            return _part(data.split, split)
        return DatasetDict({known: data.split(known) for known in data.names})

    return {
        "ClassLabel": ClassLabel,
        "Dataset": Rows,
        "DatasetDict": DatasetDict,
        "Features": Features,
        "List": Sequence,
        "Sequence": Sequence,
        "Value": Value,
        "concatenate_datasets": concatenate,
        "load_dataset": load_dataset,
        "load_metric": loader(context),
    }


def _part(split: Callable[[str], Rows], wanted: str) -> Rows:
    """A split by name, or a part of it: ``test[:100]``."""
    name, bracket, bounds = wanted.partition("[")
    rows = split(name)
    if not bracket:
        return rows
    try:
        first, _, last = bounds.rstrip("]").partition(":")
        chosen = range(len(rows))[slice(int(first) if first else None, int(last) if last else None)]
    except ValueError as error:
        raise EvaluationError(
            f"task code asks for the split {wanted!r}, which is not `NAME[from:to]`"
        ) from error
    return rows.select(chosen)
