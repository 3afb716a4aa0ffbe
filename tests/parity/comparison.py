"""Two runs of one task, document by document: lm-evaluation-harness (or its golden values) and ours."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Metrics that are a function of sums of log-probabilities: equal to this relative difference. All others are equal.
PERPLEXITIES = frozenset({"perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte"})
RELATIVE = 1e-3
#: Largest difference of a log-likelihood in nats for each scored token, both sides computing in float32.
NATS_PER_TOKEN = 1e-4


@dataclass
class Comparison:
    """What was compared and everything that was not as it must be."""

    task: str
    documents: int
    rows: list[tuple[str, float, float]] = field(default_factory=list)
    largest_nats: float = 0.0
    problems: list[str] = field(default_factory=list)

    def require(self, condition: bool, problem: str) -> None:
        """Note ``problem`` unless the condition holds."""
        if not condition:
            self.problems.append(problem)


def read_samples(folder: Path, task: str) -> list[dict[str, Any]]:
    """Our samples of a task in document order."""
    lines = (folder / f"samples_{task}.jsonl").read_text(encoding="utf-8").splitlines()
    return sorted((json.loads(line) for line in lines), key=lambda sample: sample["index"])


def golden_task(report: Mapping[str, Any]) -> dict[str, Any]:
    """The part of lm-eval's report that the golden file keeps: digests instead of texts."""
    documents = []
    for document in report["documents"]:
        entry: dict[str, Any] = {"ids": [digest[:16] for digest in document["ids_sha256"]]}
        answers = [answers[0] for answers in document["responses"]]
        if isinstance(answers[0], str):
            entry["text"] = [_text_digest(text) for text in answers]
        elif isinstance(answers[0], list):
            entry["logprob"] = [round(logprob, 6) for logprob, _ in answers]
            entry["greedy"] = [int(greedy) for _, greedy in answers]
        else:
            entry["logprob"] = [round(logprob, 6) for logprob in answers]
        entry["metrics"] = document["metrics"]
        documents.append(entry)
    return {"results": report["results"], "stderr": report["stderr"], "documents": documents}


def _text_digest(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()[:16]


def compare(
    task: str,
    golden: Mapping[str, Any],
    samples: Sequence[Mapping[str, Any]],
    scores: Sequence[Mapping[str, Any]],
) -> Comparison:
    """Compare our first documents with the golden ones; the metric values only when all documents were run."""
    result = Comparison(task, len(samples))
    result.require(0 < len(samples) <= len(golden["documents"]), f"{len(samples)} documents")
    for sample, document in zip(samples, golden["documents"], strict=False):
        _compare_document(result, sample, document)
    if len(samples) == len(golden["documents"]):
        ours = {f"{score['metric']},{score['filter']}": score for score in scores}
        result.require(
            ours.keys() == golden["results"].keys(), f"metrics {sorted(ours)} and {sorted(golden['results'])}"
        )
        for name in sorted(ours.keys() & golden["results"].keys()):
            _compare_score(result, name, ours[name], golden)
    return result


def _compare_document(result: Comparison, sample: Mapping[str, Any], document: Mapping[str, Any]) -> None:
    where = f"document {sample['index']}"
    responses = sample["responses"]
    if len(responses) != len(document["ids"]):
        result.problems.append(f"{where}: {len(responses)} requests, lm-eval makes {len(document['ids'])}")
        return
    for number, response in enumerate(responses):
        at = f"{where}, request {number}"
        result.require(response["ids_digest"].startswith(document["ids"][number]), f"{at}: other token ids")
        if "text" in document:
            result.require(_text_digest(response["text"]) == document["text"][number], f"{at}: other text")
            continue
        difference = abs(response["logprob"] - document["logprob"][number])
        result.largest_nats = max(result.largest_nats, difference)
        result.require(
            difference <= NATS_PER_TOKEN * max(1, response["tokens"]),
            f"{at}: differs by {difference:.2e} nats",
        )
        if "greedy" in document:
            result.require(response["is_greedy"] == bool(document["greedy"][number]), f"{at}: greedy flag")
    items = {f"{metric},{filter_name}": value for metric, filter_name, value in sample["items"]}
    result.require(
        items.keys() == document["metrics"].keys(),
        f"{where}: items {sorted(items)} and {sorted(document['metrics'])}",
    )
    for name, value in items.items():
        if name.split(",")[0] not in PERPLEXITIES:
            result.require(value == document["metrics"].get(name), f"{where}: {name} is {value}")


def _compare_score(result: Comparison, name: str, ours: Mapping[str, Any], golden: Mapping[str, Any]) -> None:
    theirs = golden["results"][name]
    result.rows.append((name, theirs, ours["value"]))
    if name.split(",")[0] in PERPLEXITIES:
        result.require(
            math.isclose(ours["value"], theirs, rel_tol=RELATIVE), f"{name}: {ours['value']} and {theirs}"
        )
    else:
        result.require(ours["value"] == theirs, f"{name}: {ours['value']} and {theirs}")
    metric, filter_name = name.split(",")
    stderr = golden["stderr"].get(f"{metric}_stderr,{filter_name}")
    if isinstance(stderr, float):
        result.require(
            ours["stderr"] is not None and math.isclose(ours["stderr"], stderr, rel_tol=RELATIVE),
            f"stderr of {name}: {ours['stderr']} and {stderr}",
        )
