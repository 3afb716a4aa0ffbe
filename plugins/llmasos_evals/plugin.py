"""Hook implementations of llmasos-evals. Importing this module imports no metric, model or data code."""

from __future__ import annotations

from collections.abc import Iterator

from llmasos.api import (
    CommandDef,
    EvalEvent,
    EvalRequest,
    EvalResult,
    EvaluatorDef,
    HubAPI,
    MetricDef,
    Progress,
    TaskDef,
    hookimpl,
)

_SUITES = "llmasos_evals:suites"

#: Suites and tasks that ship with the plugin, and their files under ``suites/``.
TASKS = {
    "quickstart": "quickstart/quickstart.yaml",
    "quickstart_blimp": "quickstart/blimp.yaml",
    "quickstart_gsm8k": "quickstart/gsm8k.yaml",
    "quickstart_prose": "quickstart/prose.yaml",
    "quickstart_rewrite": "quickstart/rewrite.yaml",
    "quickstart_everyday": "quickstart/everyday.yaml",
}

#: Commands, and their modules under ``commands/``.
COMMANDS = {
    "eval.verify": "verify",
    "eval.sign": "sign",
    "eval.rescore": "rescore",
    "eval.ls": "ls",
}


@hookimpl
def llmasos_commands() -> Iterator[CommandDef]:
    for name, module in COMMANDS.items():
        yield CommandDef(name=name, factory=f"llmasos_evals.commands.{module}:command")


@hookimpl
def llmasos_tasks() -> Iterator[TaskDef]:
    for name, path in TASKS.items():
        yield TaskDef(name=name, factory=f"{_SUITES}/{path}")


@hookimpl
def llmasos_metrics() -> Iterator[MetricDef]:
    likelihood, generation, corpus, rouge = (
        f"llmasos_evals.metrics.{name}" for name in ("likelihood", "generation", "corpus", "rouge")
    )
    share, percent = (0.0, 1.0), (0.0, 100.0)

    for name, attribute in (
        ("acc", "Accuracy"),
        ("acc_norm", "AccuracyPerCharacter"),
        ("acc_bytes", "AccuracyPerByte"),
    ):
        yield MetricDef(
            name=name,
            factory=f"{likelihood}:{attribute}",
            higher_is_better=True,
            range=share,
            scores=("multiple_choice", "loglikelihood") if name == "acc" else ("multiple_choice",),
        )
    for name, attribute, better, limits in (
        ("acc_mutual_info", "AccuracyMutualInformation", True, share),
        ("brier_score", "BrierScore", False, (0.0, 2.0)),
        ("f1", "F1Score", True, share),
        ("mcc", "Matthews", True, (-1.0, 1.0)),
    ):
        yield MetricDef(
            name=name,
            factory=f"{likelihood}:{attribute}",
            higher_is_better=better,
            range=limits,
            scores=("multiple_choice",),
        )
    yield MetricDef(
        name="perplexity",
        factory=f"{likelihood}:DocumentPerplexity",
        higher_is_better=False,
        unit="a document",
        range=(1.0, None),
        scores=("loglikelihood",),
    )
    for name, attribute, unit, low in (
        ("word_perplexity", "WordPerplexity", "a word", 1.0),
        ("byte_perplexity", "BytePerplexity", "a byte", 1.0),
        ("bits_per_byte", "BitsPerByteMetric", "bits a byte", 0.0),
    ):
        yield MetricDef(
            name=name,
            factory=f"{likelihood}:{attribute}",
            higher_is_better=False,
            unit=unit,
            range=(low, None),
            scores=("loglikelihood_rolling",),
        )
    yield MetricDef(
        name="exact_match",
        factory=f"{generation}:ExactMatch",
        higher_is_better=True,
        range=share,
        scores=("generate_until", "multiple_choice"),
    )
    for name, attribute in (
        ("rouge1", "Rouge1"),
        ("rouge2", "Rouge2"),
        ("rougeL", "RougeL"),
        ("rougeLsum", "RougeLsum"),
    ):
        yield MetricDef(name=name, factory=f"{rouge}:{attribute}", higher_is_better=True, range=share)
    for name, attribute in (("bleu", "Bleu"), ("chrf", "Chrf"), ("chrf++", "ChrfPlusPlus")):
        yield MetricDef(
            name=name, factory=f"{corpus}:{attribute}", higher_is_better=True, unit="%", range=percent
        )
    yield MetricDef(name="ter", factory=f"{corpus}:Ter", higher_is_better=False, unit="%", range=(0.0, None))


@hookimpl
def llmasos_evaluators() -> Iterator[EvaluatorDef]:
    yield EvaluatorDef(name="harness", factory="llmasos_evals.evaluator:HarnessEvaluator")


@hookimpl
def llmasos_run_evaluation(request: EvalRequest, hub: HubAPI, progress: Progress) -> EvalResult:
    result: EvalResult = hub.get("evaluator", "llmasos-evals/harness")().evaluate(request, hub, progress)
    return result


@hookimpl
def llmasos_eval_started(event: EvalEvent) -> None:
    from llmasos_evals.records.status import mark_started

    mark_started(event)


@hookimpl
def llmasos_eval_finished(event: EvalEvent) -> None:
    from llmasos_evals.records.status import mark_finished

    mark_finished(event)


@hookimpl
def llmasos_eval_failed(event: EvalEvent) -> None:
    from llmasos_evals.records.status import mark_failed

    mark_failed(event)
