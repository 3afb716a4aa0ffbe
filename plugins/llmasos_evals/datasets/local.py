"""Local data: JSON and JSON Lines files as splits of rows.

``dataset_path: json`` with ``dataset_kwargs.data_files`` as the ``datasets`` library takes them. Every row of a split
has the same columns: what a row leaves out is None, as that library does.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from llmasos.api import InputError

Row = dict[str, Any]


class Rows(Sequence[Row]):
    """The rows of a split, with the methods task code uses on a ``datasets.Dataset``: each returns new Rows."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._rows = [dict(row) for row in rows]
        columns: dict[str, None] = {}
        for row in self._rows:
            columns.update(dict.fromkeys(row))
        self.column_names = list(columns)
        for row in self._rows:
            if len(row) != len(columns):
                for name in columns:
                    row.setdefault(name, None)

    @classmethod
    def from_list(cls, rows: Iterable[Mapping[str, Any]]) -> Rows:
        """Rows from dicts."""
        return cls(rows)

    @classmethod
    def from_dict(cls, columns: Mapping[str, Sequence[Any]]) -> Rows:
        """Rows from columns of equal length."""
        return cls(dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))

    @property
    def features(self) -> dict[str, None]:
        """Column names as keys."""
        return dict.fromkeys(self.column_names)

    @property
    def num_rows(self) -> int:
        return len(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Any: ...
    @overload
    def __getitem__(self, index: str) -> Any: ...
    def __getitem__(self, index: int | slice | str) -> Any:
        if isinstance(index, str):
            return [row[index] for row in self._rows]
        if isinstance(index, slice):
            chosen = self._rows[index]
            return {name: [row[name] for row in chosen] for name in self.column_names}
        return self._rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def to_list(self) -> list[Row]:
        return [dict(row) for row in self._rows]

    def map(
        self,
        function: Callable[..., Mapping[str, Any] | None],
        *,
        with_indices: bool = False,
        remove_columns: str | Sequence[str] | None = None,
        **_speed: Any,
    ) -> Rows:
        """Each row updated with what ``function`` returns for it (unchanged for None).

        ``batched`` is refused; ``num_proc``, ``desc`` and other settings without effect on the result are ignored.
        """
        if _speed.get("batched"):
            raise InputError("task code maps in batches, which is not supported here")
        dropped = {remove_columns} if isinstance(remove_columns, str) else set(remove_columns or ())
        out = []
        for number, row in enumerate(self._rows):
            new = function(dict(row), number) if with_indices else function(dict(row))
            kept = {key: value for key, value in row.items() if key not in dropped}
            out.append(kept if new is None else {**kept, **new})
        return Rows(out)

    def filter(self, function: Callable[..., Any], *, with_indices: bool = False, **_speed: Any) -> Rows:
        """The rows for which ``function`` is true."""
        return Rows(
            row
            for number, row in enumerate(self._rows)
            if (function(dict(row), number) if with_indices else function(dict(row)))
        )

    def select(self, indices: Iterable[int]) -> Rows:
        return Rows(self._rows[index] for index in indices)

    def rename_column(self, old: str, new: str) -> Rows:
        return Rows({new if key == old else key: value for key, value in row.items()} for row in self._rows)

    def remove_columns(self, names: str | Sequence[str]) -> Rows:
        dropped = {names} if isinstance(names, str) else set(names)
        return Rows({key: value for key, value in row.items() if key not in dropped} for row in self._rows)

    def add_column(self, name: str, column: Sequence[Any]) -> Rows:
        return Rows({**row, name: value} for row, value in zip(self._rows, column, strict=True))


class LocalData:
    """The splits of one task, each read when it is first asked for."""

    def __init__(self, task: str, files: Mapping[str, Sequence[Path]], field: str | None = None) -> None:
        self.task = task
        self.files = {split: tuple(paths) for split, paths in files.items()}
        self.field = field
        self._splits: dict[str, Rows] = {}

    def has(self, split: str | None) -> bool:
        """Whether there are files for a split."""
        return split in self.files

    def split(self, name: str) -> Rows:
        """The rows of a split. Raises InputError when it has no file, or for a malformed file, naming the line."""
        if name not in self._splits:
            if name not in self.files:
                known = ", ".join(sorted(self.files)) or "none"
                raise InputError(
                    f"task {self.task} reads split {name!r}, for which it has no data file (it has: {known})",
                    hint=f"add it: `dataset_kwargs: {{data_files: {{{name}: FILE.jsonl}}}}`, or set the split to null",
                )
            self._splits[name] = Rows(
                row for path in self.files[name] for row in read_rows(path, self.task, self.field)
            )
        return self._splits[name]


def open_data(
    task: str, dataset_path: str | None, dataset_kwargs: Mapping[str, Any] | None, source: Path
) -> LocalData:
    """The data a task file names.

    Raises InputError for data that is not local JSON (with the way to give local data), for missing files and for
    settings without a meaning here.
    """
    options = dict(dataset_kwargs or {})
    if dataset_path != "json":
        what = f"the data set {dataset_path!r}" if dataset_path else "no data set"
        raise InputError(
            f"{source}: task {task} names {what}; only local JSON data can be read",
            hint="write a file with `include: "
            + str(source)
            + "`, `dataset_path: json`, `dataset_name: null` and "
            "`dataset_kwargs: {data_files: {SPLIT: FILE.jsonl}}`, setting splits you do not have to null",
        )
    files = options.pop("data_files", None)
    field = options.pop("field", None)
    options.pop("trust_remote_code", None)  # no effect on local data
    if options:
        raise InputError(
            f"{source}: unknown dataset_kwargs for local JSON data: {', '.join(sorted(options))}"
        )
    if not files:
        raise InputError(
            f"{source}: task {task} has `dataset_path: json` but no data files",
            hint="add `dataset_kwargs: {data_files: {SPLIT: FILE.jsonl}}`",
        )
    if not isinstance(files, Mapping):
        files = {"train": files}  # what the datasets library calls a lone file
    splits: dict[str, list[Path]] = {}
    for split, value in files.items():
        names = value if isinstance(value, list) else [value]
        for name in names:
            if not isinstance(name, str):
                raise InputError(
                    f"{source}: data_files.{split} must be a path or a list of paths, not {name!r}"
                )
            if "://" in name:
                raise InputError(
                    f"{source}: data_files.{split} is a URL: {name}", hint="download it and give the path"
                )
            path = Path(name)
            if not path.is_file():
                raise InputError(
                    f"{source}: task {task}: no data file {path}",
                    hint="relative paths are taken from the folder of the task file",
                )
            splits.setdefault(str(split), []).append(path)
    return LocalData(task, splits, field)


def read_rows(path: Path, task: str, field: str | None = None) -> Iterator[Row]:
    """Rows of a ``.json`` (list of objects) or ``.jsonl`` (an object a line) file, either also as ``.gz``.

    ``field`` names the key under which a single object holds the list. Raises InputError naming file and line.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = raw.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"task {task}: cannot read data file {path}: {error}") from error
    if field is not None or text.lstrip()[:1] == "[":
        yield from _rows_of_document(text, path, task, field)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            hint = None
            if number == 1 and text.lstrip()[:1] == "{":
                hint = "one object a line, or one list of objects; name the list's key with `field`"
            raise InputError(
                f"task {task}: {path}, line {number}: not valid JSON: {error}", hint=hint
            ) from error
        yield _checked(row, path, task, f"line {number}")


def _rows_of_document(text: str, path: Path, task: str, field: str | None) -> Iterator[Row]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InputError(f"task {task}: {path}: not valid JSON: {error}") from error
    if field is not None:
        if not isinstance(value, dict) or field not in value:
            raise InputError(f"task {task}: {path}: no field {field!r}")
        value = value[field]
    if not isinstance(value, list):
        raise InputError(f"task {task}: {path}: expected a list of objects")
    for number, row in enumerate(value, start=1):
        yield _checked(row, path, task, f"item {number}")


def _checked(row: Any, path: Path, task: str, where: str) -> Row:
    if not isinstance(row, dict):
        raise InputError(f"task {task}: {path}, {where}: a row is an object, this is {type(row).__name__}")
    return row
