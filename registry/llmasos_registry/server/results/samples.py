"""Samples that come with a record: they must be the ones it names, and say what each document contributed."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmasos.contracts.fingerprint import canonical_digest, merkle_root
from llmasos_registry.server.failures import Failure, too_large
from llmasos_registry.server.results.document import TaskPart, finite
from llmasos_registry.strict_json import loads

#: Bytes of the samples of a task when they are unpacked, and of one line of them.
MAX_UNPACKED = 8 << 30
MAX_LINE = 32 << 20
_PIECE = 1 << 20


def read_samples(path: Path, task: TaskPart) -> tuple[bytes, int]:
    """(items as JSON, documents) of a gzip file of JSON lines.

    Items: ``{"METRIC,FILTER": {"NUMBER:DIGEST" of the document: number}}`` for metrics to which each document contributes one number.
    Raises Failure 422 when these are not the samples that the record names.
    """
    leaves: list[tuple[int, str]] = []
    items: dict[str, dict[str, float]] = {f"{s.metric},{s.filter}": {} for s in task.scores}
    for number, line in enumerate(_lines(path), start=1):
        try:
            sample = loads(line)
            index, document = sample["index"], sample["doc_digest"]
            if type(index) is not int or not isinstance(document, str) or len(document) != 64:
                raise ValueError("no document")
            contributed = [(f"{metric},{pipeline}", value) for metric, pipeline, value in sample["items"]]
        except (ValueError, KeyError, TypeError):
            raise Failure(422, f"line {number} of the samples is no sample") from None
        leaves.append((index, canonical_digest(sample)))
        for name, value in contributed:
            if name in items and isinstance(value, int | float) and math.isfinite(value):
                items[name][f"{index}:{document}"] = float(value)
    leaves.sort()
    if merkle_root([leaf for _, leaf in leaves]) != task.samples_digest:
        raise Failure(
            422,
            f"these are not the samples of {task.name} that the record names",
            hint="publish the folder as `llmasos eval` wrote it",
        )
    whole = {name: values for name, values in items.items() if len(values) == len(leaves)}
    for score in task.scores:
        values = list(whole.get(f"{score.metric},{score.filter}", {}).values())
        claimed = finite(score.value)
        if values and claimed is not None and "|agg:mean|" in f"{score.signature}|":
            mean = math.fsum(values) / len(values)
            if not math.isclose(mean, claimed, rel_tol=1e-9, abs_tol=1e-12):
                raise Failure(
                    422,
                    f"the samples of {task.name} come to {score.metric} {mean:.6g}, the record says {claimed:.6g}",
                )
    return json.dumps(whole, separators=(",", ":")).encode(), len(leaves)


def _lines(path: Path) -> Iterator[bytes]:
    """Lines of a gzip file. Raises Failure for damage, and for what unpacks to more than anything honest."""
    unpack, rest, total = zlib.decompressobj(wbits=31), b"", 0
    try:
        with open(path, "rb") as file:
            while not unpack.eof:
                piece = unpack.unconsumed_tail or file.read(_PIECE)
                if not piece:
                    raise Failure(422, "the samples end in the middle")
                fresh = unpack.decompress(piece, _PIECE)
                total += len(fresh)
                if total > MAX_UNPACKED:
                    raise too_large("the samples", MAX_UNPACKED)
                *lines, rest = (rest + fresh).split(b"\n")
                if len(rest) > MAX_LINE:
                    raise too_large("a sample", MAX_LINE)
                yield from lines
    except zlib.error:
        raise Failure(422, "the samples are no gzip file") from None
    if rest:
        yield rest


def read_items(raw: bytes, name: str) -> dict[str, float]:
    """What each document contributed to a score; empty when it is not one number a document."""
    found: Any = json.loads(raw)
    return dict(found.get(name) or {})
