"""``evaluate.load``: the metric scripts of the Hugging Face hub that the code of stock tasks loads, by name.

A script from the hub is code from elsewhere; these are the same definitions through the libraries that the scripts wrap.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmasos.api import MissingDependency
from llmasos_evals.tasks.standins import Context, scores
from llmasos_evals.tasks.standins.answers import compute_exact, compute_f1


class Script:
    """A loaded metric: ``compute(predictions=..., references=...)`` gives a dict, pairs may be added before."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self._function = function
        self._predictions: list[Any] = []
        self._references: list[Any] = []

    def add(self, *, prediction: Any, reference: Any) -> None:
        self.add_batch(predictions=[prediction], references=[reference])

    def add_batch(self, *, predictions: Sequence[Any], references: Sequence[Any]) -> None:
        self._predictions += list(predictions)
        self._references += list(references)

    def compute(
        self,
        *,
        predictions: Sequence[Any] | None = None,
        references: Sequence[Any] | None = None,
        **options: Any,
    ) -> Any:
        if predictions is not None and references is not None:
            self.add_batch(predictions=predictions, references=references)
        given = self._predictions, self._references
        self._predictions, self._references = [], []
        return self._function(*given, **options)


def _rouge(
    predictions: Sequence[str],
    references: Sequence[Any],
    *,
    rouge_types: Sequence[str] = ("rouge1", "rouge2", "rougeL", "rougeLsum"),
    use_aggregator: bool = True,
    use_stemmer: bool = False,
    tokenizer: Any = None,
) -> dict[str, Any]:
    """F-measures: with ``use_aggregator`` the middle of 1,000 resampled means, as the package aggregates."""
    from rouge_score.rouge_scorer import RougeScorer

    from llmasos_evals.metrics.rouge import FastBootstrapAggregator
    from llmasos_evals.tasks.functions import repeatable_randomness

    scorer = RougeScorer(list(rouge_types), use_stemmer=use_stemmer, tokenizer=tokenizer)
    found = [
        scorer.score_multi(reference, prediction)
        if isinstance(reference, list | tuple)
        else scorer.score(reference, prediction)
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    if not use_aggregator:
        return {kind: [float(score[kind].fmeasure) for score in found] for kind in rouge_types}
    if len(found) == 1:  # resampling one score gives that score
        return {kind: float(found[0][kind].fmeasure) for kind in rouge_types}
    with repeatable_randomness():
        aggregator = FastBootstrapAggregator()
        for score in found:
            aggregator.add_scores(score)
        return {kind: float(value.mid.fmeasure) for kind, value in aggregator.aggregate().items()}


def _exact_match(predictions: Sequence[Any], references: Sequence[Any], **options: Any) -> dict[str, float]:
    from llmasos.api import GenerationOutcome
    from llmasos_evals.metrics.generation import ExactMatch

    metric = ExactMatch(**options)
    pairs = zip(predictions, references, strict=True)
    hits = [metric.item(GenerationOutcome(prediction, (str(right),))) for prediction, right in pairs]
    return {"exact_match": sum(hits) / len(hits)}


def _classified(name: str, function: Callable[..., Any], average: bool) -> Callable[..., dict[str, Any]]:
    def compute(predictions: Sequence[Any], references: Sequence[Any], **options: Any) -> dict[str, Any]:
        known = ("labels", "pos_label", "average", "zero_division") if average else ("normalize",)
        value = function(references, predictions, **{key: options[key] for key in known if key in options})
        return {name: value if getattr(value, "size", 1) > 1 else float(value)}

    return compute


def _squad(predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
    right = {entry["id"]: entry["answers"]["text"] for entry in references}
    pairs = [(entry["prediction_text"], right[entry["id"]]) for entry in predictions]
    count = max(len(references), 1)
    return {
        "exact_match": 100.0
        * sum(max(compute_exact(text, said) for text in texts) for said, texts in pairs)
        / count,
        "f1": 100.0 * sum(max(compute_f1(text, said) for text in texts) for said, texts in pairs) / count,
    }


def _code(context: Context) -> Callable[..., Any]:
    def compute(predictions: Sequence[Sequence[str]], references: Sequence[str], **options: Any) -> Any:
        """pass@k of candidate programs, each run with its test in the sandbox."""
        from llmasos_evals.metrics.code import CodeEval

        evaluator = CodeEval(permitted=context.execution, what=f"task {context.task}")
        return evaluator.compute(predictions=predictions, references=references, **options)

    return compute


#: Name on the hub -> what its ``compute`` does.
SCRIPTS: dict[str, Callable[..., Any]] = {
    "accuracy": _classified("accuracy", scores.accuracy_score, average=False),
    "exact_match": _exact_match,
    "f1": _classified("f1", scores.f1_score, average=True),
    "matthews_correlation": _classified("matthews_correlation", scores.matthews_corrcoef, average=False),
    "precision": _classified("precision", scores.precision_score, average=True),
    "recall": _classified("recall", scores.recall_score, average=True),
    "rouge": _rouge,
    "squad": _squad,
}


def loader(context: Context) -> Callable[..., Any]:
    """``evaluate.load`` for one task."""

    def load(path: str, *arguments: Any, **settings: Any) -> Any:
        if path == "code_eval":
            return Script(path, _code(context))
        if path in SCRIPTS:
            return Script(path, SCRIPTS[path])
        if importlib.util.find_spec("evaluate") is None:
            raise MissingDependency(
                f"task {context.task} loads the metric script {path!r} of the Hugging Face hub, which is code from elsewhere",
                hint="pip install evaluate; without it these are known: "
                + ", ".join(sorted([*SCRIPTS, "code_eval"])),
            )
        return importlib.import_module("evaluate").load(path, *arguments, **settings)

    return load


def offered(context: Context) -> Mapping[str, Any]:
    """``evaluate``"""
    return {"load": loader(context)}
