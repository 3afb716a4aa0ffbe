"""Every Eval Ever 0.3.0 (https://github.com/evaleval/every_eval_ever): an aggregate JSON file and one line a document and score.

Files lie where that data set keeps them: ``data/BENCHMARK/DEVELOPER/MODEL/UUID.json`` and ``UUID_samples.jsonl``. The UUID is made
from the digest of the record, so that exporting a run again writes the same files.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from llmasos_evals.records.exporters.source import Source, numeric
from llmasos_evals.records.replay import asked, responses_of
from llmasos_evals.records.samples import read_items, unpack
from llmasos_evals.records.store import write_json, write_lines

SCHEMA_VERSION = "0.3.0"
#: Metrics under the names that the format recommends.
_KINDS = {
    "acc": "accuracy",
    "acc_norm": "accuracy",
    "acc_bytes": "accuracy",
    "acc_mutual_info": "accuracy",
    "exact_match": "exact_match",
    "f1": "f1",
    "mcc": "mcc",
    "bleu": "bleu",
    "chrf": "chrf",
    "ter": "ter",
}


def export(source: Source, output: Path) -> Sequence[Path]:
    """Write the aggregate and, when the samples are here, the instances. Returns the files."""
    record = source.run.record
    name = str(uuid.UUID(bytes=bytes.fromhex(record["digest"])[:16], version=4))
    developer, _, model = source.model.rpartition("/")
    place = Path("data", _safe(_benchmark(record)), _safe(developer or "local"), _safe(model))
    folder = output / place
    folder.mkdir(parents=True, exist_ok=True)
    identity = f"{_benchmark(record)}/{source.model}/{_epoch(record)}"
    written = []
    aggregate = _aggregate(source, identity)
    if all(source.run.has_samples(task) for task in source.run.tasks):
        path = folder / f"{name}_samples.jsonl"
        rows = _Counter(_instances(source, identity))
        write_lines(path, rows)
        aggregate["detailed_evaluation_results"] = {
            "format": "jsonl",
            "file_path": (place / path.name).as_posix(),
            "hash_algorithm": "sha256",
            "checksum": hashlib.sha256(path.read_bytes()).hexdigest(),
            "total_rows": rows.count,
        }
        written.append(path)
    write_json(folder / f"{name}.json", aggregate)
    return [folder / f"{name}.json", *written]


class _Counter:
    """Counts what passes."""

    def __init__(self, rows: Iterator[dict[str, Any]]) -> None:
        self.rows, self.count = rows, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self.rows:
            self.count += 1
            yield row


# ---- aggregate ------------------------------------------------------------------------------------------------------


def _aggregate(source: Source, identity: str) -> dict[str, Any]:
    record = source.run.record
    model = record["model"]
    version = next((p["version"] for p in record["plugins"] if p["id"] == "llmasos-evals"), "unknown")
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": identity,
        "evaluation_timestamp": record["timings"]["started"],
        "retrieved_timestamp": _epoch(record),
        "source_metadata": {
            "source_name": "llmasos record",
            "source_type": "evaluation_run",
            "source_organization_name": "unknown",
            "evaluator_relationship": "other",
            "additional_details": _strings(
                {"record_digest": record["digest"], "record_schema": record["schema"]}
            ),
        },
        "eval_library": {
            "name": "llmasos",
            "version": version,
            "additional_details": _strings(
                {
                    "scorer": record["scorer"]["name"],
                    "plan_digest": record["scorer"]["plan_digest"],
                    "compat": record["settings"]["compat"],
                    "seed": record["settings"]["seed"],
                }
            ),
        },
        "model_info": {
            "name": source.model.rpartition("/")[2],
            "id": source.model,
            "inference_engine": {"name": f"llmasos {record['scorer']['name']}", "version": version},
            "additional_details": _strings(
                {
                    "deployment_type": "self_deployed",
                    "model_availability": "open_weights",
                    "weights_digest": model["digest"],
                    "revision": model["revision"],
                    "dtype": model["dtype"],
                    "device": model["device"],
                    "architecture": model["architecture"],
                    "parameters": model["parameters"],
                }
            ),
        },
        "evaluation_results": [
            _result(source, task, score)
            for task in record["tasks"]
            for score in task["scores"]
            if _finite(score["value"]) is not None
        ],
    }


def _result(source: Source, task: Mapping[str, Any], score: Mapping[str, Any]) -> dict[str, Any]:
    low, high = score["range"]
    metric: dict[str, Any] = {
        "evaluation_description": f"{task['alias']}, {task['num_fewshot']} examples",
        "metric_id": _KINDS.get(score["metric"], f"llmasos.{score['metric']}"),
        "metric_name": score["metric"],
        "metric_kind": _KINDS.get(score["metric"], score["metric"]),
        "metric_parameters": {"filter": score["filter"]},
        "lower_is_better": not score["higher_is_better"],
        "score_type": "continuous",
        "min_score": "-Infinity" if low is None else low,
        "max_score": "Infinity" if high is None else high,
        "additional_details": {"signature": score["signature"]},
    }
    if score["unit"]:
        metric["metric_unit"] = score["unit"]
    elif (low, high) == (0.0, 1.0):
        metric["metric_unit"] = "proportion"
    found = {
        "evaluation_result_id": _result_id(task["name"], score["metric"], score["filter"]),
        "evaluation_name": task["name"],
        "source_data": _data(source, task),
        "metric_config": metric,
        "score_details": {
            "score": numeric(score["value"]),
            "details": _strings({"n": score["n"], "documents": task["documents"]}),
            "uncertainty": _uncertainty(score),
        },
        "generation_config": _generation(task),
    }
    return found


def _uncertainty(score: Mapping[str, Any]) -> dict[str, Any]:
    method = str(score["stderr_method"] or "").partition("|")
    found: dict[str, Any] = {"num_samples": score["n"]}
    stderr, low, high = (_finite(score[name]) for name in ("stderr", "ci_low", "ci_high"))
    if stderr is not None:
        found["standard_error"] = {"value": stderr, **({"method": method[0]} if method[0] else {})}
    if low is not None and high is not None:
        found["confidence_interval"] = {
            "lower": low,
            "upper": high,
            "confidence_level": 0.95,
            **({"method": method[2]} if method[2] else {}),
        }
    drawn = re.match(r"bootstrap:(\d+)", method[0])
    if drawn:
        found["num_bootstrap_samples"] = int(drawn.group(1))
    return found


def _data(source: Source, task: Mapping[str, Any]) -> dict[str, Any]:
    data = task["data"]
    details = _strings(
        {
            "data_digest": task["data_digest"],
            "task_digest": task["digest"],
            "task_version": task["version"],
            "prompt_digest": task["prompt_digest"],
            "revision": data["revision"],
            "config": data["config"],
        }
    )
    if data["kind"] == "hub" and data["name"]:
        return {
            "dataset_name": task["name"],
            "source_type": "hf_dataset",
            "hf_repo": data["name"],
            "hf_split": data["split"] or "",
            "samples_number": task["documents"],
            "additional_details": details,
        }
    return {
        "dataset_name": data["name"] or task["name"],
        "source_type": "other",
        "additional_details": details,
    }


def _generation(task: Mapping[str, Any]) -> dict[str, Any]:
    settings = task["generation"]
    if settings is None:
        return {"generation_args": {}, "additional_details": {"scoring": "log-likelihood"}}
    return {
        "generation_args": {
            "temperature": settings["temperature"],
            "top_p": settings["top_p"],
            "top_k": settings["top_k"],
            "max_tokens": settings["max_tokens"],
        },
        "additional_details": _strings({"until": settings["until"]}),
    }


# ---- instances ------------------------------------------------------------------------------------------------------


def _instances(source: Source, identity: str) -> Iterator[dict[str, Any]]:
    """A line for each document and score to which it contributes a number."""
    for name in source.run.tasks:
        # Where more is better, 1 is a right answer; where less is, 0: a document without a rude word, and not one with three.
        better = {
            (score["metric"], score["filter"]): score["higher_is_better"] is not False
            for score in source.run.task(name)["scores"]
            if _finite(score["value"]) is not None
        }
        for sample in source.run.samples(name):
            for (metric, pipeline), value in read_items(sample).items():
                if (metric, pipeline) in better and _finite(value) is not None:
                    right = value >= 1.0 if better[metric, pipeline] else value <= 0.0
                    yield _instance(source, identity, name, sample, metric, pipeline, float(value), right)


def _instance(
    source: Source,
    identity: str,
    task: str,
    sample: Mapping[str, Any],
    metric: str,
    pipeline: str,
    value: float,
    right: bool,
) -> dict[str, Any]:
    questions = asked(sample)
    raw = questions[0]["prompt"] if questions else ""
    choices = [question["continuation"] for question in questions if question["kind"] == "loglikelihood"]
    target = unpack(sample["target"])
    references = [str(item) for item in target] if isinstance(target, list) else [str(target)]
    if isinstance(target, int) and 0 <= target < len(choices):
        references = [choices[target].strip()]
    answers, extracted, method = _answers(source, task, sample, pipeline, choices)
    tokens = sum(response["tokens"] for response in sample["responses"])
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": identity,
        "model_id": source.model,
        "evaluation_name": task,
        "evaluation_result_id": _result_id(task, metric, pipeline),
        "sample_id": str(sample["index"]),
        "sample_hash": hashlib.sha256(
            (raw + "".join(references)).encode("utf-8", "surrogatepass")
        ).hexdigest(),
        "interaction_type": "single_turn",
        "input": {"raw": raw, "reference": references, **({"choices": choices} if len(choices) > 1 else {})},
        "output": {"raw": answers},
        "answer_attribution": [
            {
                "turn_idx": 0,
                "source": "output.raw",
                "extracted_value": extracted,
                "extraction_method": method,
                "is_terminal": True,
            }
        ],
        "evaluation": {"score": value, "is_correct": right},
        "metadata": _strings(
            {
                "metric": metric,
                "filter": pipeline,
                "document_digest": sample["doc_digest"],
                "prompt_digest": sample["prompt_digest"],
                "scored_tokens": tokens,
            }
        ),
    }


def _answers(
    source: Source, task: str, sample: Mapping[str, Any], pipeline: str, choices: Sequence[str]
) -> tuple[list[str], str, str]:
    """(raw answers, the answer that counted, how it was found)."""
    responses = sample["responses"]
    texts = [response["text"] for response in responses if response["text"] is not None]
    if texts:
        planned = source.documents.get((task, sample["index"]))
        if planned is None:
            return texts, texts[0], pipeline
        value = source.tasks[task].filtered(planned, responses_of(planned, sample))[pipeline][0]
        return texts, str(value), pipeline
    nats = [unpack(response["logprob"]) for response in responses]
    raw = [
        f"{choice} {value}".strip() for choice, value in zip(choices or [""] * len(nats), nats, strict=False)
    ]
    if len(choices) > 1:
        best = max(range(len(choices)), key=lambda number: nats[number])
        return raw, choices[best].strip(), "most likely choice"
    return raw, str(nats[0]) if nats else "", "log-likelihood"


# ---- names ----------------------------------------------------------------------------------------------------------


def _benchmark(record: Mapping[str, Any]) -> str:
    names = [group["name"] for group in record["groups"]] or [task["name"] for task in record["tasks"]]
    return names[-1] if record["groups"] or len(names) == 1 else f"{names[0]}-and-{len(names) - 1}-more"


def _result_id(task: str, metric: str, pipeline: str) -> str:
    return f"{task}:{metric}:{pipeline}"


def _epoch(record: Mapping[str, Any]) -> str:
    return str(datetime.fromisoformat(record["timings"]["started"]).timestamp())


def _finite(value: Any) -> float | None:
    """A number that the format can hold, None for any other value."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or value != value
        or abs(value) == float("inf")
    ):
        return None
    return float(value)


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text).strip(".") or "unnamed"


def _strings(values: Mapping[str, Any]) -> dict[str, str]:
    """The values that there are, as text: the format holds nothing else there."""
    return {name: str(value) for name, value in values.items() if value is not None}
