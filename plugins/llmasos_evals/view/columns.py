"""What the table of a task needs of every document, a column a fact: small enough to hold when the samples are not.

A column is a list with one entry a document, in the order of the document numbers; short facts are one string with a
character a document.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmasos_evals.records.reading import Run
from llmasos_evals.records.samples import unpack

#: Characters of ``verdict``: right, wrong, neither.
RIGHT, WRONG, OPEN = "1", "0", "-"
#: Characters of a document's digest that tell whether two runs scored the same document.
DIGEST_LENGTH = 8
#: Significant digits of numbers in columns; the sample itself has them all.
DIGITS = 6
#: Changes with the columns.
FORMAT = 2
#: A file of columns that unpacks to more is not read.
MOST_BYTES = 2**28
#: Bins of the reliability diagram.
BINS = 10


def task_columns(run: Run, task: str, advance: Callable[[int], None] | None = None) -> dict[str, Any]:
    """The columns of one task; reads each sample once. ``advance`` is told how many more were read.

    ``index``: document numbers. ``digest``: the beginnings of the document digests, joined. ``items``: ``metric,filter`` ->
    numbers (None where a document contributes no single number). ``verdict``: by the first metric that only takes 0 and 1 and
    of which more is better: a rude word, or a preference for a stereotype, is not a right answer.
    ``confidence``: probability of the most likely choice among the choices, None for other kinds of task. ``flags``: one
    hexadecimal digit a document: 1 truncated on the left, 2 continuation cut, 4 tie, 8 label out of range.
    Raises InputError for a damaged sample.
    """
    scores = run.task(task)["scores"]
    names = [f"{metric},{pipeline}" for metric, pipeline in run.metrics(task)]
    # An imported score may not say which way is better; it is then taken as one of which more is.
    losses = {
        f"{score['metric']},{score['filter']}" for score in scores if score["higher_is_better"] is False
    }
    items: dict[str, list[float | None]] = {name: [] for name in names}
    index: list[int] = []
    digests: list[str] = []
    confidence: list[float | None] = []
    flags: list[str] = []
    choices = run.task(task)["output_type"] == "multiple_choice"
    for sample in run.samples(task):
        found = {f"{metric},{pipeline}": unpack(value) for metric, pipeline, value in sample["items"]}
        for name in names:
            items[name].append(_number(found.get(name)))
        index.append(sample["index"])
        digests.append(sample["doc_digest"][:DIGEST_LENGTH].ljust(DIGEST_LENGTH))
        confidence.append(_confidence(sample) if choices else None)
        flags.append(f"{_flags(sample):x}")
        if advance is not None:
            advance(1)
    return {
        "index": index,
        "digest": "".join(digests),
        "items": items,
        "verdict": _verdict((items[name] for name in names if name not in losses), len(index)),
        "confidence": confidence if choices else None,
        "flags": "".join(flags),
    }


def columns_of(run: Run, task: str, advance: Callable[[int], None] | None = None) -> dict[str, Any]:
    """The columns of a task with the bins of its reliability diagram, kept beside the samples for the next time."""
    path = run.samples_path(task)
    status = path.stat()
    stamp = [FORMAT, status.st_size, status.st_mtime_ns]
    kept = path.with_name(f"{path.name}.columns")
    found = _load(kept, stamp)
    if found is not None:
        if advance is not None:
            advance(run.count(task))
        return found
    columns = task_columns(run, task, advance)
    columns["reliability"] = reliability_bins(columns)
    _keep(kept, {"stamp": stamp, "columns": columns})
    return columns


def reliability_bins(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The occupied bins of the task's reliability diagram; empty when it has no choices or no right and wrong."""
    if columns["confidence"] is None:
        return []
    from llmasos_evals.metrics.calibration import reliability

    items = [
        (confidence, verdict == RIGHT)
        for confidence, verdict in zip(columns["confidence"], columns["verdict"], strict=True)
        if confidence is not None and verdict != OPEN
    ]
    found = reliability(items, bins=BINS) if items else []
    return [asdict(one) for one in found if one.count]


def _load(path: Path, stamp: list[int]) -> dict[str, Any] | None:
    """The columns of a file with this stamp, None for any other."""
    try:
        if path.is_symlink():
            return None
        with gzip.open(path) as file:
            found = json.loads(file.read(MOST_BYTES))
        return found["columns"] if found["stamp"] == stamp else None
    except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error):
        return None


def _keep(path: Path, value: Mapping[str, Any]) -> None:
    """Write the columns; a folder that cannot be written costs time at the next look, nothing else."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(gzip.compress(json.dumps(value, separators=(",", ":")).encode(), 1, mtime=0))
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()


def _number(value: Any) -> float | None:
    if isinstance(value, bool | int):
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.{DIGITS}g}")
    return None


def _verdict(columns: Iterable[Sequence[float | None]], documents: int) -> str:
    for column in columns:
        if documents and all(value in (0, 1) for value in column):
            return "".join(RIGHT if value == 1 else WRONG for value in column)
    return OPEN * documents


def _confidence(sample: Mapping[str, Any]) -> float | None:
    """Softmax of the log-likelihoods of the choices; requests without context (mutual information) are not choices."""
    values = [
        unpack(response.get("logprob"))
        for request, response in zip(sample["requests"], sample["responses"], strict=False)
        if sample["prompts"][request["prompt"]] != "" or len(sample["prompts"]) == 1
    ]
    if not values or any(not isinstance(value, int | float) or math.isnan(value) for value in values):
        return None
    top = max(values)
    if math.isinf(top):
        return None
    return float(f"{1.0 / math.fsum(math.exp(value - top) for value in values):.{DIGITS}g}")


def _flags(sample: Mapping[str, Any]) -> int:
    observed = sample["observed"]
    return (
        1 * any(response.get("truncated") for response in sample["responses"])
        + 2 * any(response.get("unscored") for response in sample["responses"])
        + 4 * bool(observed.get("ties"))
        + 8 * bool(observed.get("labels_out_of_range"))
    )
