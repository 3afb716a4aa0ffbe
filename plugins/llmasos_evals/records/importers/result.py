"""What an importer gives: the sections of an imported record and the lines of its samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmasos.api import canonical_digest
from llmasos_evals.records.samples import pack


@dataclass
class Imported:
    """A run of another harness. ``samples`` has an iterator a task, read when the run is written; ``remarks`` are lines the
    user should see."""

    name: str
    record: dict[str, Any]
    samples: dict[str, Iterator[dict[str, Any]]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def line(
    index: int,
    document: Any,
    *,
    doc_digest: str | None = None,
    prompts: list[str],
    requests: list[dict[str, Any]],
    responses: list[dict[str, Any]],
    target: Any,
    items: list[list[Any]],
    **more: Any,
) -> dict[str, Any]:
    """A line of samples. What a run of ours would know of a response and nobody says is null."""
    unknown = {
        "logprob": None,
        "is_greedy": None,
        "text": None,
        "tokens": None,
        "truncated": None,
        "unscored": None,
        "ids_digest": None,
    }
    return {
        "index": index,
        "doc_digest": doc_digest or canonical_digest(pack(document)),
        "prompt_digest": None,
        "prompts": prompts,
        "requests": requests,
        "responses": [{**unknown, **response} for response in responses],
        "target": pack(target),
        "items": items,
        "observed": {},
        "doc": pack(document),
        **more,
    }


def score(metric: str, pipeline: str, value: Any, stderr: Any = None, **more: Any) -> dict[str, Any]:
    """A score of an imported record; values that are no numbers are null."""
    return {"metric": metric, "filter": pipeline, "value": number(value), "stderr": number(stderr), **more}


def number(value: Any) -> Any:
    """A number as a record writes it, null for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if math.isfinite(value):
        return float(value)
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def whole(value: Any) -> int | None:
    """An integer, None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def text(value: Any) -> str | None:
    """A text, None for anything else."""
    return value if isinstance(value, str) else None


def table(value: Any) -> Mapping[str, Any]:
    """A mapping, an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}
