"""Where tasks come from: files in several formats, each turned into the fields of a task file.

A format is known by what is in the file, not by its name. Everything behind this package sees task fields only, so a task
of any format is checked, planned, scored and recorded like one that was written in YAML.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmasos_evals.tasks.summary import Reader, Summary, summarise
from llmasos_evals.tasks.taskfile import read_taskfile


def task_suffixes() -> tuple[str, ...]:
    """Endings of files that may give tasks."""
    return (".yaml",)


def summaries_of(path: str, reader: Reader) -> tuple[Sequence[Summary], Sequence[str]]:
    """The names a file gives, and the files it includes. Raises InputError for a file that is broken."""
    fields, parts = reader.fields(path)
    summary = summarise(fields)
    return ([] if summary is None else [summary]), parts


def read_fields(path: Path, name: str | None = None) -> dict[str, Any]:
    """The fields of a task or group, ``name`` of those a file gives, or the one it is about.

    Raises InputError for a file that is missing or broken.
    """
    return read_taskfile(path)
