"""Where tasks come from: files in several formats, each turned into the fields of a task file.

A format is known by what is in the file, not by its name. Everything behind this package sees task fields only, so a task
of any format is checked, planned, scored and recorded like one that was written in YAML.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmasos.api import HubAPI, InputError, UsageError
from llmasos_evals.tasks.sources import bigbench, hub_eval, jsonl_header
from llmasos_evals.tasks.sources.members import Data, Member
from llmasos_evals.tasks.summary import Reader, Summary, summarise
from llmasos_evals.tasks.taskfile import read_taskfile

#: What a folder holds when it is given as a task.
FOLDER_FILES = (bigbench.FILE, hub_eval.FILE)
HUB_SCHEME = "hf://"


def task_suffixes() -> tuple[str, ...]:
    """Endings of files that may give tasks."""
    return (".yaml", ".json", ".jsonl")


def summaries_of(path: str, reader: Reader) -> tuple[Sequence[Summary], Sequence[str]]:
    """The names a file gives, and the files it includes. Raises InputError for a file that is broken."""
    reader.tried = []
    if path.endswith(".json"):
        return bigbench.summaries(path), ()
    if path.endswith(".jsonl"):
        return jsonl_header.summaries(path), ()
    fields, parts = reader.fields(path)
    if hub_eval.is_one(fields):
        return hub_eval.summaries(path), parts
    summary = summarise(fields)
    return ([] if summary is None else [summary]), parts


def hub_member(address: str, hub: HubAPI) -> Member:
    """The task behind ``hf://datasets/org/name[@revision][/TASK]``: the ``eval.yaml`` of that data set, fetched.

    Raises UsageError for an address of another form, NotFound and what else fetching raises.
    """
    from llmasos_evals.datasets.repository import ADDRESS, Repository

    found = ADDRESS.fullmatch(address)
    if found is None:
        raise UsageError(
            f"{address!r} is not the address of a data set",
            hint="hf://datasets/org/name or hf://datasets/org/name/TASK",
        )
    repository = Repository(found["repo"], found["revision"], hub, address)
    if hub_eval.FILE not in repository.listing.names:
        raise InputError(
            f"the data set {found['repo']} has no {hub_eval.FILE}, which would say how it is evaluated"
        )
    (path,) = repository.fetch([hub_eval.FILE])
    return Member(path, found["path"], (found["repo"], repository.listing.commit))


def read_fields(path: Path, name: str | None = None, data: Data | None = None) -> dict[str, Any]:
    """The fields of a task or group: ``name`` of those a file gives, or the one the file is about. ``data`` is the data set
    that an ``eval.yaml`` belongs to.

    A folder stands for its ``task.json`` or ``eval.yaml``. Raises InputError for a file that is missing or broken.
    """
    if path.is_dir():
        inside = [path / file for file in FOLDER_FILES if (path / file).is_file()]
        if not inside:
            if (path / "run.json").is_file() or (path / "record.json").is_file():
                raise InputError(
                    f"{path} is the folder of a run and no task", hint=f"`llmasos eval show {path}` shows it"
                )
            raise InputError(
                f"the folder {path} is no task: it has no {' or '.join(FOLDER_FILES)}",
                hint=f"`llmasos eval ls --include {path}` lists the task files in it; name one, with --include {path}",
            )
        path = inside[0]
    if path.suffix == ".json" and path.is_file():
        return bigbench.fields(path, name)
    if path.suffix == ".jsonl" and path.is_file():
        return jsonl_header.fields(path)
    value = read_taskfile(path)
    return hub_eval.fields(path, name, data) if hub_eval.is_one(value) else value
