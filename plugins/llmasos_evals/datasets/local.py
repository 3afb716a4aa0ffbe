"""Local data: JSON and JSON Lines files as splits of rows.

``dataset_path: json`` with ``dataset_kwargs.data_files`` as the ``datasets`` library takes them. Every row of a split
has the same columns: what a row leaves out is None, as that library does.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmasos.api import InputError
from llmasos_evals.datasets.rows import Row, Rows


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
