"""``model-index`` metadata for the card of a model, as ``huggingface_hub`` reads and writes it (``ModelCard``, ``EvalResult``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from llmasos_evals.records.exporters.source import Source, numeric
from llmasos_evals.records.store import write_bytes

#: Tasks as the Hub classifies them.
_KINDS = {
    "multiple_choice": ("multiple-choice", "Multiple Choice"),
    "generate_until": ("text-generation", "Text Generation"),
    "loglikelihood": ("text-generation", "Text Generation"),
    "loglikelihood_rolling": ("text-generation", "Text Generation"),
}


def export(source: Source, output: Path) -> Sequence[Path]:
    """Write ``model-index.yaml``: what goes between the ``---`` of a README.md. Returns the file."""
    output.mkdir(parents=True, exist_ok=True)
    path = output / "model-index.yaml"
    index = [
        {
            "name": source.model.rpartition("/")[2],
            "results": [_result(source, task) for task in source.run.record["tasks"] if task["scores"]],
        }
    ]
    write_bytes(path, yaml.safe_dump({"model-index": index}, sort_keys=False, allow_unicode=True).encode())
    return [path]


def _result(source: Source, task: Mapping[str, Any]) -> dict[str, Any]:
    kind, name = _KINDS.get(task["output_type"], ("text-generation", "Text Generation"))
    data = task["data"]
    named = source.datasets.get(task["name"], "").partition("#")[0]
    dataset: dict[str, Any] = {
        "name": task["alias"],
        "type": named or data["name"] or task["name"],
        "config": data["config"],
        "split": data["split"],
        "revision": data["revision"],
        "args": {"num_few_shot": task["num_fewshot"]},
    }
    return {
        "task": {"type": kind, "name": name},
        "dataset": {key: value for key, value in dataset.items() if value is not None},
        "metrics": [_metric(score, source.run.record["digest"]) for score in task["scores"]],
    }


def _metric(score: Mapping[str, Any], record: str) -> dict[str, Any]:
    args = {name: score[name] for name in ("filter", "stderr", "n", "signature")} | {"llmasos_record": record}
    return {
        "type": score["metric"],
        "name": score["metric"] if score["filter"] == "none" else f"{score['metric']} ({score['filter']})",
        "value": numeric(score["value"]),
        "args": args,
    }
