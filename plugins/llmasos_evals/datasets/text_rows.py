"""Plain text: a row a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmasos.api import InputError
from llmasos_evals.datasets.readers import check_options, text_of
from llmasos_evals.datasets.rows import Rows

_OPTIONS = ("encoding", "encoding_errors", "chunksize", "keep_linebreaks", "sample_by")


def read_text(paths: Sequence[Path], options: Mapping[str, Any], what: str) -> Rows:
    """Rows with the one column ``text``. ``sample_by``: line, paragraph or document. Raises InputError."""
    check_options(options, _OPTIONS, what)
    by = options.get("sample_by") or "line"
    rows: list[dict[str, Any]] = []
    for path in paths:
        text = text_of(path, what, options).replace("\r\n", "\n").replace("\r", "\n")
        if by == "document":
            parts = [text]
        elif by == "paragraph":
            parts = [part for part in text.split("\n\n") if part]
        elif by == "line":
            parts = text.split("\n")
            end = "\n" if options.get("keep_linebreaks") else ""
            last = parts.pop()
            parts = [part + end for part in parts] + ([last] if last else [])
        else:
            raise InputError(f"{what}: `sample_by` is line, paragraph or document, not {by!r}")
        rows += [{"text": part} for part in parts]
    return Rows(rows)
