"""Runs made of numbers: folders with a record and samples, as an evaluation leaves them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from test_record import a_record

from llmasos import Hub
from llmasos.api import canonical_json
from llmasos_evals.records.reading import Run, open_run
from llmasos_evals.records.record import number, sealed
from llmasos_evals.records.samples import pack
from llmasos_evals.records.store import samples_name, write_json
from llmasos_evals.statistics.intervals import interval
from llmasos_evals.statistics.signatures import aggregation_for

SHARE = [0.0, 1.0]
#: metric -> (signature, higher is better, range)
METRICS: dict[str, tuple[str, bool, list[Any]]] = {
    "acc": ("acc|norm:none|tie:first|agg:mean|v:1", True, SHARE),
    "rouge": ("rouge|agg:mean|v:1", True, SHARE),
    "loss": ("loss|agg:mean|v:1", False, [0.0, None]),
    "word_perplexity": ("word_perplexity|agg:weighted_perplexity|v:1", False, [1.0, None]),
    "f1": ("f1|positive:1|tie:first|agg:f1|v:1", True, SHARE),
    "bleu": ("bleu|case:mixed|eff:no|tok:13a|smooth:exp|sacrebleu:2|agg:bleu|v:1", True, [0.0, 100.0]),
    "chrf": (
        "chrf|case:mixed|eff:yes|nc:6|nw:0|beta:2|space:no|sacrebleu:2|agg:chrf|v:1",
        True,
        [0.0, 100.0],
    ),
    "ter": ("ter|case:lc|norm:no|punct:yes|asian:no|sacrebleu:2|agg:ter|v:1", False, [0.0, None]),
    "own": ("own|from:task-code|agg:function:total|v:1", True, [None, None]),
}

#: Fields that are not those of a task.
ELSEWHERE = {
    "settings": {"seed", "compat", "stride", "cluster_column", "fewshot_as_multiturn"},
    "tokenizer": {"chat_template_applied", "system_instruction"},
}


def digest(text: object) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()


def write_run(
    folder: Path,
    tasks: Mapping[str, Mapping[str, Sequence[Any]]],
    *,
    documents: Mapping[str, Sequence[object]] | None = None,
    clusters: Mapping[str, Sequence[str]] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    model: str = "m",
    **changes: Any,
) -> Run:
    """A run of ``tasks``: task -> metric -> items. ``changes`` are made to every task's section, or to that of their name.

    ``documents`` says which document an item is of (its number, unless given).
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = a_record()
    record["model"]["ref"] = model
    for section, names in ELSEWHERE.items():
        record[section] |= {name: changes.pop(name) for name in names & changes.keys()}
    (template,) = record["tasks"]
    record["tasks"] = []
    for task, columns in tasks.items():
        size = len(next(iter(columns.values())))
        named = (documents or {}).get(task, range(size))
        lines = []
        for index in range(size):
            line = {
                "index": index,
                "doc_digest": digest(f"{task} {named[index]}"),
                "prompt_digest": digest(""),
                "prompts": [],
                "requests": [],
                "responses": [],
                "target": None,
                "items": [[metric, "none", pack(items[index])] for metric, items in columns.items()],
                "observed": {},
            }
            if clusters and task in clusters:
                line["cluster"] = clusters[task][index]
            lines.append(canonical_json(line) + b"\n")
        (folder / samples_name(task)).write_bytes(b"".join(lines))
        scores = [score(metric, items) for metric, items in columns.items()]
        digests = {"digest": digest(task), "data_digest": digest(task)}
        record["tasks"].append(
            {
                **template,
                "name": task,
                "alias": task,
                "documents": size,
                **digests,
                "scores": scores,
                **changes,
            }
        )
    record["groups"] = [
        {
            **record["groups"][0],
            "name": name,
            "alias": name,
            "members": list(members),
            "scores": mean(record, members),
        }
        for name, members in (groups or {}).items()
    ]
    write_json(folder / "record.json", sealed(record))
    return open_run(folder)


def score(metric: str, items: Sequence[Any]) -> dict[str, Any]:
    signature, better, limits = METRICS[metric]
    aggregation = aggregation_for(signature, Hub())
    uncertainty: dict[str, Any] = {}
    if aggregation is not None:
        measure = SimpleNamespace(aggregation=aggregation, range=tuple(limits), aggregate=aggregation.value)
        found = interval(measure, items, bootstrap=1000)
        uncertainty = {
            "stderr": number(found.stderr),
            "ci_low": number(found.low),
            "ci_high": number(found.high),
            "stderr_method": found.method,
        }
    return {
        **a_record()["tasks"][0]["scores"][0],
        "metric": metric,
        "value": number(float(len(items)) if aggregation is None else float(aggregation.value(items))),
        "n": len(items),
        "higher_is_better": better,
        "range": limits,
        "signature": signature,
        **uncertainty,
    }


def mean(record: Mapping[str, Any], members: Sequence[str]) -> list[dict[str, Any]]:
    parts = [task["scores"][0] for task in record["tasks"] if task["name"] in members]
    if not parts:
        return []
    size = sum(part["n"] for part in parts)
    value = sum(part["value"] * part["n"] for part in parts) / size
    return [
        {**parts[0], "value": value, "n": size, "signature": f"mean|weight:size|of:{parts[0]['signature']}"}
    ]
