"""Tasks in one file: JSON lines below a header of ``#`` lines.

The header is the task file, each line after a ``#``; the lines below are the documents of its test split::

    # task: capitals
    # output_type: multiple_choice
    # doc_to_text: The capital of {{country}} is
    # doc_to_choice: cities
    # doc_to_target: right
    {"country": "France", "cities": ["Paris", "Lyon"], "right": 0}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmasos.api import InputError
from llmasos_evals.tasks.summary import Summary, summarise
from llmasos_evals.tasks.taskfile import parse_text

#: Longest header, in bytes.
MAX_HEADER = 256 * 2**10


def header(path: str) -> str | None:
    """The header as YAML, or None for a file that has none. Raises InputError for one that is too long."""
    lines = []
    length = 0
    try:
        with open(path, "rb") as handle:
            while (line := handle.readline(MAX_HEADER)).startswith(b"#"):
                length += len(line)
                if length >= MAX_HEADER:
                    raise InputError(f"{path}: the header is longer than {MAX_HEADER // 2**10} KiB")
                lines.append(line[1:].removeprefix(b" "))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    try:
        return b"".join(lines).decode("utf-8") if lines else None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: the header is not UTF-8: {error}") from error


def summaries(path: str) -> list[Summary]:
    """The task of a file, if it has a header that names one. Raises InputError for a header that is broken."""
    text = header(path)
    if text is None or "task:" not in text:  # any JSON lines with remarks on top
        return []
    summary = summarise({"dataset_path": "json", **parse_text(text.encode(), Path(path))})
    return [] if summary is None else [summary]


def fields(path: Path) -> dict[str, Any]:
    """The fields of the task. Raises InputError for a file without a header that is a task."""
    text = header(str(path))
    if text is None:
        raise InputError(
            f"{path} is no task: it does not begin with a header",
            hint="put the task above the documents: lines such as `# task: NAME`, `# doc_to_text: ...`",
        )
    own = parse_text(text.encode(), path)
    for key in ("include", "dataset_path", "dataset_kwargs", "group"):
        if key in own:
            raise InputError(f"{path}: a header cannot have `{key}`: the documents are those below it")
    split = own.get("test_split") or own.get("validation_split") or own.setdefault("test_split", "test")
    return {**own, "dataset_path": "json", "dataset_kwargs": {"data_files": {split: str(path)}}}
