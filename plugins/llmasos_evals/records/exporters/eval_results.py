"""``.eval_results/*.yaml`` of a model repository on the Hugging Face Hub (https://huggingface.co/docs/hub/eval-results).

Results there belong to a benchmark data set on the Hub. A task whose documents came from the Hub names its own; others are
named with ``--dataset TASK=ORG/NAME#TASK_ID``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from llmasos.api import UsageError
from llmasos_evals.records.exporters.source import Source, numeric
from llmasos_evals.records.store import write_bytes


def export(source: Source, output: Path) -> Sequence[Path]:
    """Write a file for each data set into ``.eval_results`` of ``output``. Raises UsageError when no task has a data set."""
    files: dict[str, list[dict[str, Any]]] = {}
    for task in source.run.record["tasks"]:
        entry = _entry(source, task)
        if entry is None:
            source.progress.warn(
                f"task {task['name']} has no data set on the Hub and is left out: --dataset {task['name']}=ORG/NAME"
            )
        else:
            files.setdefault(entry["dataset"]["id"], []).append(entry)
    if not files:
        raise UsageError(
            "no task names a data set on the Hub, so there is nothing to say there",
            hint="name them: --dataset TASK=ORG/NAME#TASK_ID",
        )
    folder = output / ".eval_results"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for dataset, entries in files.items():
        path = folder / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', dataset.rpartition('/')[2]) or 'results'}.yaml"
        if path in written:
            path = folder / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', dataset)}.yaml"
        write_bytes(path, yaml.safe_dump(entries, sort_keys=False, allow_unicode=True).encode())
        written.append(path)
    return written


def _entry(source: Source, task: Mapping[str, Any]) -> dict[str, Any] | None:
    named = source.datasets.get(task["name"])
    data = task["data"]
    if named is None and data["kind"] == "hub" and data["name"]:
        named = data["name"]
    if named is None or not task["scores"]:
        return None
    identity, _, inside = named.partition("#")
    score = task["scores"][0]
    dataset: dict[str, Any] = {"id": identity, "task_id": inside or data["config"] or task["name"]}
    if data["kind"] == "hub" and data["revision"] and data["name"] == identity:
        dataset["revision"] = data["revision"]
    return {
        "dataset": dataset,
        "value": numeric(score["value"]),
        "date": source.run.record["timings"]["started"],
        "notes": _notes(source.run.record, task, score),
    }


def _notes(record: Mapping[str, Any], task: Mapping[str, Any], score: Mapping[str, Any]) -> str:
    """One line that says what exactly the number is."""
    parts = [f"{score['metric']} ({score['filter']})", f"{task['num_fewshot']}-shot", f"n={score['n']}"]
    if score["stderr"] is not None:
        parts.append(f"stderr={score['stderr']}")
    if record["tokenizer"]["chat_template_applied"]:
        parts.append("chat template")
    return ", ".join([*parts, f"llmasos record {record['digest']}"])
