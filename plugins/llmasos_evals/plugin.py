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
    "eval.import": "import_run",
    "eval.export": "export",
    "data.add": "data_add",
    "data.ls": "data_ls",
    "data.rm": "data_rm",
    "data.verify": "data_verify",
    "eval.compare": "compare",
    "eval.gate": "gate",
    "eval.power": "power",
    "eval.ls": "ls",
    "eval.rescore": "rescore",
    "eval.show": "show",
    "eval.sign": "sign",
    "eval.verify": "verify",
    "eval.view": "view",
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
    from llmasos_evals.metrics.catalogue import METRICS

    yield from METRICS


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
