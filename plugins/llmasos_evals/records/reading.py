"""A run as others read it: its record, and its documents without all of them in memory.

``open_run(folder)`` -> ``Run``. Everything read is checked: a run may come from a stranger.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from llmasos.api import InputError, UnknownName, record_digest
from llmasos_evals.records.offsets import Offsets, Place, offsets_of
from llmasos_evals.records.samples import REQUIRED, unpack
from llmasos_evals.records.store import RECORD_FILE, RUN_FILE, samples_name
from llmasos_evals.records.untrusted import read_object


class Item(NamedTuple):
    """What one document contributes to a metric. ``doc_digest`` says which document it is, whatever run it is in."""

    index: int
    doc_digest: str
    value: Any


class Run:
    """A finished run. ``record`` is validated against its schema; samples are read when they are asked for.

    ``fresh`` passes over the offset indexes beside the samples, for runs whose files nobody vouches for.
    """

    def __init__(self, path: Path, record: Mapping[str, Any], *, fresh: bool = False) -> None:
        #: The record's file; the samples lie beside it.
        self.path = path
        self.folder = path.parent
        self.record = record
        self._sections = {task["name"]: task for task in record["tasks"]}
        self._offsets: dict[str, Offsets] = {}
        self._fresh = fresh

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in the order of the record."""
        return tuple(self._sections)

    @property
    def imported(self) -> bool:
        """Whether another harness computed it: nothing about it can be verified here."""
        return str(self.record["schema"]).startswith("llmasos-imported-record/")

    def refuse_if_touched(self) -> None:
        """Raise InputError for a record whose digest is not that of its content: it was changed after it was written.

        For those who act on what a record says. Who only shows it may do with a remark.
        """
        if record_digest(self.record) != self.record["digest"]:
            raise InputError(
                f"{self.path}: its digest does not fit its content; it was changed after it was written",
                hint="compute the run again, or ask whoever gave you the file",
            )

    def task(self, name: str) -> Mapping[str, Any]:
        """The record's section of a task. Raises UnknownName."""
        if name not in self._sections:
            raise UnknownName(
                f"{self.folder} has no task {name}", hint=f"it has {', '.join(self.tasks) or 'none'}"
            )
        return self._sections[name]

    def samples_path(self, task: str) -> Path:
        """The samples file of a task; it may be missing in a run whose samples were not passed on."""
        return self.folder / samples_name(self.task(task)["name"])

    def has_samples(self, task: str) -> bool:
        """Whether the samples of a task are here."""
        return self.samples_path(task).is_file()

    def offsets(self, task: str) -> Offsets:
        """Where the documents of a task lie; ``len`` is their number. Raises InputError."""
        if task not in self._offsets:
            path = self.samples_path(task)
            if not path.exists():
                raise InputError(
                    f"{path} is missing: the record came without its samples",
                    hint="ask for the whole folder of the run",
                )
            self._offsets[task] = offsets_of(path, fresh=self._fresh)
        return self._offsets[task]

    def count(self, task: str) -> int:
        """Documents of a task that were scored."""
        return len(self.offsets(task))

    def sample(self, task: str, index: int) -> dict[str, Any]:
        """One document of a task by its number. Raises InputError when it is damaged, UnknownName when there is none."""
        place = self.offsets(task).find(index)
        if place is None:
            raise UnknownName(f"task {task} in {self.folder} has no document {index}")
        with open(self.samples_path(task), "rb") as file:
            return _read(file, place, self.samples_path(task))

    def samples(self, task: str, start: int = 0, stop: int | None = None) -> Iterator[dict[str, Any]]:
        """The documents of a task in the order of their numbers, one at a time.

        ``start`` and ``stop`` count documents, as in a slice. Raises InputError naming a damaged one.
        """
        places, path = self.offsets(task), self.samples_path(task)
        with open(path, "rb") as file:
            for number in range(start, len(places) if stop is None else min(stop, len(places))):
                yield _read(file, places[number], path)

    def lines(self, task: str) -> Iterator[bytes]:
        """The lines of the documents as they are in the file, in the order of their numbers."""
        places = self.offsets(task)
        with open(self.samples_path(task), "rb") as file:
            for number in range(len(places)):
                place = places[number]
                file.seek(place.offset)
                yield file.read(place.length)

    def metrics(self, task: str) -> list[tuple[str, str]]:
        """(metric, filter) of each score of a task, in the order of the record."""
        return [(score["metric"], score["filter"]) for score in self.task(task)["scores"]]

    def items(self, task: str, metric: str, pipeline: str = "none") -> Iterator[Item]:
        """What each document contributes to a metric, in the order of the documents.

        Raises UnknownName when the task has no such metric and filter, InputError for a document that lacks it.
        """
        if (metric, pipeline) not in self.metrics(task):
            known = ", ".join(f"{name} ({of})" for name, of in self.metrics(task))
            raise UnknownName(f"task {task} has no score {metric} ({pipeline})", hint=f"it has {known}")
        for sample in self.samples(task):
            for name, of, value in sample["items"]:
                if (name, of) == (metric, pipeline):
                    yield Item(sample["index"], sample["doc_digest"], unpack(value))
                    break
            else:
                raise InputError(
                    f"document {sample['index']} of task {task} in {self.folder} has no {metric} ({pipeline})"
                )


def open_run(path: Path | str, *, fresh: bool = False) -> Run:
    """A finished run from its folder or its record file.

    Raises InputError for files that are missing, damaged, too large or of a schema that this program does not read.
    """
    path = Path(path)
    folder, file = (path, path / RECORD_FILE) if path.is_dir() else (path.parent, path)
    if not file.exists():
        unfinished = (folder / RUN_FILE).exists()
        raise InputError(
            f"{folder} has a run that is not finished" if unfinished else f"there is no record at {file}",
            hint="the same `llmasos eval` command goes on with it"
            if unfinished
            else "give the folder of a run, as `llmasos eval` names it at the end",
        )
    return Run(file, read_record(file), fresh=fresh)


def read_record(file: Path) -> dict[str, Any]:
    """A record, checked against its schema. Raises InputError; whether its digest holds is not looked at here."""
    from llmasos_evals.records.record import check_record

    record = read_object(file)
    try:
        check_record(record)
    except ValueError as error:
        raise InputError(
            f"{file} is not a record that this version reads: {error}",
            hint="read it with the llmasos that wrote it, compute the run again, or ask whoever gave you the file",
        ) from None
    return record


def _read(file: Any, place: Place, path: Path) -> dict[str, Any]:
    file.seek(place.offset)
    line = file.read(place.length)
    try:
        sample = json.loads(line)
        if sample["index"] != place.index or not sample.keys() >= REQUIRED:
            raise ValueError
        _check_shape(sample)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(
            f"{path}: document {place.index} is damaged",
            hint="compute the run again, or ask whoever gave you the file",
        ) from None
    assert isinstance(sample, dict)
    return sample


def _check_shape(sample: Mapping[str, Any]) -> None:
    """Raise ValueError for a line that readers would trip over."""
    lists = ("prompts", "requests", "responses", "items")
    if any(not isinstance(sample.get(name, []), list) for name in lists) or not isinstance(
        sample["observed"], dict
    ):
        raise ValueError("not a sample")
    if any(not (isinstance(entry, list) and len(entry) == 3) for entry in sample["items"]):
        raise ValueError("not an item")
    if any(not isinstance(entry, dict) for name in lists[1:3] for entry in sample[name]):
        raise ValueError("not a request")
    if not isinstance(sample["doc_digest"], str):
        raise ValueError("not a digest")
