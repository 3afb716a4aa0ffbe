"""BLEU, chrF, TER and ROUGE with their bootstrap intervals, ours beside sacrebleu's and rouge-score's: values and time.

    python benchmarks/metrics.py --data ../shared/data [--documents N] [--json]

Values and intervals must be equal to the last digit; the exit code is 1 when one is not. Then: the bootstrap aggregator that
TruthfulQA's code makes for each reference, and how many programs a second the sandbox runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sacrebleu.metrics
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.scoring import BootstrapAggregator

from llmasos.api import GenerationOutcome
from llmasos_evals.metrics.corpus import Bleu, Chrf, ChrfPlusPlus, Ter
from llmasos_evals.metrics.rouge import FastBootstrapAggregator, Rouge1, Rouge2, RougeL, RougeLsum
from llmasos_evals.metrics.sandbox import run_program

CORPUS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "bleu": (Bleu, "BLEU", {}),
    "chrf": (Chrf, "CHRF", {}),
    "chrf++": (ChrfPlusPlus, "CHRF", {"word_order": 2}),
    "ter": (Ter, "TER", {}),
}
SYSTEMS = ("JDExploreAcademy", "OpenNMT", "PROMT")


def timed(act: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.perf_counter()
    return act(), time.perf_counter() - begin


def lines(data: Path, pattern: str, count: int | None) -> list[str]:
    (path,) = sorted((data / "wmt22").glob(pattern))
    return path.read_text(encoding="utf-8").split("\n")[:-1][:count]


def corpus_rows(data: Path, count: int | None) -> list[dict[str, Any]]:
    reference = lines(data, "*ref.A*", count)
    found = []
    for system in SYSTEMS:
        said = lines(data, f"*{system}*", count)
        for name, (make, kind, options) in CORPUS.items():
            metric = make()
            items = [
                metric.item(GenerationOutcome(text, (right,)))
                for text, right in zip(said, reference, strict=True)
            ]
            value = metric.aggregate(items)
            ours, seconds = timed(lambda m=metric, i=items: m.aggregation.interval(i))
            library = getattr(sacrebleu.metrics, kind)(**options)
            theirs, theirs_seconds = timed(
                lambda s=library, t=said: s.corpus_score(t, [reference], n_bootstrap=1000)
            )
            equal = (value, ours.mean, ours.half_width) == (
                theirs.score,
                float(theirs._mean),
                float(theirs._ci),
            )
            found.append(
                row(f"{name} {system}", value, ours.mean, ours.half_width, equal, seconds, theirs_seconds)
            )
    return found


def rouge_rows(data: Path, count: int | None) -> list[dict[str, Any]]:
    found = []
    for name in ("xsum", "common_gen", "e2e_nlg"):
        text = (data / "gem" / f"{name}.jsonl").read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines()[:count]]
        pairs = [(".\n".join(r["input"].split(". ")[:2]), r["references"]) for r in rows]
        for make in (Rouge1, Rouge2, RougeL, RougeLsum):
            metric = make()
            items = [metric.item(GenerationOutcome(said, tuple(refs))) for said, refs in pairs]
            ours, seconds = timed(lambda m=metric, i=items: m.interval(i))
            scorer = RougeScorer([metric.name])
            scores = [scorer.score_multi(refs, said) for said, refs in pairs]
            np.random.seed(1234)

            def library(scores: list[Any] = scores, kind: str = metric.name) -> Any:
                aggregator = BootstrapAggregator()
                for score in scores:
                    aggregator.add_scores(score)
                return aggregator.aggregate()[kind]

            theirs, theirs_seconds = timed(library)
            equal = (ours.low, ours.mean, ours.high) == (
                float(theirs.low.fmeasure),
                float(theirs.mid.fmeasure),
                float(theirs.high.fmeasure),
            ) and items == [score[metric.name].fmeasure for score in scores]
            value = metric.aggregate(items)
            found.append(
                row(
                    f"{metric.name} {name}", value, ours.mean, ours.half_width, equal, seconds, theirs_seconds
                )
            )
    return found


def row(
    what: str, value: float, mean: float, half: float, equal: bool, ours: float, theirs: float
) -> dict[str, Any]:
    return {
        "what": what,
        "value": value,
        "interval_mean": mean,
        "interval_half": half,
        "equal": equal,
        "interval_seconds": round(ours, 3),
        "library_seconds": round(theirs, 3),
    }


def truthfulqa_ratio() -> dict[str, float]:
    """Time of an aggregator of one score, the library's over ours."""
    score = RougeScorer(["rouge1", "rouge2", "rougeLsum"]).score("a cat sat here", "the cat sat")
    seconds = {}
    for name, make in (("library", BootstrapAggregator), ("ours", FastBootstrapAggregator)):

        def aggregate(make: Any = make) -> None:
            aggregator = make()
            aggregator.add_scores(score)
            aggregator.aggregate()

        seconds[name] = min(timed(aggregate)[1] for _ in range(5))
    return {"library_ms": 1000 * seconds["library"], "ours_ms": 1000 * seconds["ours"]}


def sandbox_rate(programs: int = 20) -> dict[str, Any]:
    ended, seconds = timed(lambda: [run_program("assert sum(range(10)) == 45") for _ in range(programs)])
    return {
        "isolation": ended[0].isolation,
        "passed": sum(end.passed for end in ended),
        "programs_per_second": round(programs / seconds, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=None)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = corpus_rows(args.data, args.documents) + rouge_rows(args.data, args.documents)
    extra = {"one_score_aggregator": truthfulqa_ratio(), "sandbox": sandbox_rate()}
    if args.json:
        print(json.dumps({"rows": rows, **extra}, indent=1))
    else:
        print(
            f"{'metric and data':28} {'value':>10} {'interval':>20} {'equal':>6} {'ours s':>8} {'library s':>10}"
        )
        for r in rows:
            interval = f"{r['interval_mean']:.4f} +- {r['interval_half']:.4f}"
            print(
                f"{r['what']:28} {r['value']:10.4f} {interval:>20} {'yes' if r['equal'] else 'NO':>6} "
                f"{r['interval_seconds']:8.3f} {r['library_seconds']:10.3f}"
            )
        print(json.dumps(extra))
    return 0 if all(r["equal"] for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
