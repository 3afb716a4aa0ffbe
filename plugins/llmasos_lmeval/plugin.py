"""Hook implementations: descriptors only. Imports nothing but the API, and never lm-eval."""

from __future__ import annotations

from collections.abc import Iterator

from llmasos.api import EvaluatorDef, TaskSourceDef, hookimpl


@hookimpl
def llmasos_task_sources() -> Iterator[TaskSourceDef]:
    yield TaskSourceDef(name="lm-eval", factory="llmasos_lmeval.source:InstalledTasks")


@hookimpl
def llmasos_evaluators() -> Iterator[EvaluatorDef]:
    yield EvaluatorDef(name="lm-eval", factory="llmasos_lmeval.evaluator:LmEvalEvaluator")
