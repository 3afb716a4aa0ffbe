"""A task on its way through a run, and what is known of the run before its first number: what decides every number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmasos.api import EvalRequest, LoadedModel, canonical_digest
from llmasos_evals.records.record import SCHEMA
from llmasos_evals.scoring.generation import generation_plan
from llmasos_evals.scoring.reference import ReferenceScorer
from llmasos_evals.tasks.task import PlannedDocument, Task


@dataclass(slots=True)
class TaskRun:
    """One task on its way: its plan, then its finished samples by document number."""

    task: Task
    planned: tuple[PlannedDocument, ...]
    samples: dict[int, dict[str, Any]] = field(default_factory=dict)
    resumed: int = 0

    @property
    def ordered(self) -> list[dict[str, Any]]:
        """Samples in the order of the plan, whatever order they finished in."""
        return [self.samples[document.index] for document in self.planned]

    @property
    def generates(self) -> bool:
        """Whether the model writes text, which it does for several documents at a time."""
        return self.task.output_type == "generate_until"


def describe(
    request: EvalRequest,
    loaded: LoadedModel,
    scorer: ReferenceScorer,
    runs: Sequence[TaskRun],
    origin: Mapping[str, Any],
) -> dict[str, Any]:
    """The sections of the record that are known before scoring: what decides every number."""
    facts = dict(loaded.facts)
    tokenizer = loaded.tokenizer
    template = tokenizer.chat_template
    plan = scorer.plan()
    return {
        "schema": SCHEMA,
        "model": {
            **{key: facts[key] for key in ("ref", "source", "revision", "license", "format", "loader")},
            "provenance": {str(key): str(value) for key, value in facts["provenance"].items()},
            **{key: facts[key] for key in ("architecture", "parameters", "dtype", "device", "backend")},
            "max_length": loaded.model.max_length,
            "vocab_size": loaded.model.vocab_size,
            "files": dict(facts["files"]),
            "digest": canonical_digest(facts["files"]),
            "ops": dict(facts["ops"]),
            "ops_refused": dict(facts["ops_refused"]),
        },
        "tokenizer": {
            "format": facts["tokenizer"]["format"],
            "digest": tokenizer.digest(),
            "vocab_size": tokenizer.vocab_size,
            "adds_bos": tokenizer.adds_bos,
            "prefix_token": scorer.prefix,
            "chat_template": None if template is None else canonical_digest(template),
            "chat_template_applied": False,
        },
        "plugins": [dict(plugin) for plugin in origin["plugins"]],
        "settings": {
            "tasks": list(request.tasks),
            "limit": request.limit,
            "num_fewshot": request.num_fewshot,
            "seed": request.seed,
            "compat": request.compat,
            "bootstrap": request.bootstrap,
            "batch_size": request.batch_size,
        },
        "scorer": {"name": scorer.name, "plan": plan, "plan_digest": canonical_digest(plan)},
        "tasks": [task_section(run, request) for run in runs],
    }


def task_section(run: TaskRun, request: EvalRequest) -> dict[str, Any]:
    task = run.task
    generation = None
    if run.generates and run.planned[0].requests:
        generation = generation_plan(run.planned[0].requests[0].options, where=f"task {task.name}").as_json()
    return {
        "name": task.name,
        "alias": task.alias,
        "version": task.version,
        "output_type": task.output_type,
        "num_fewshot": task.shots(request.num_fewshot, request.compat),
        "documents": task.size(),
        "digest": task.digest,
        "data_digest": task.data_digest,
        "code": dict(task.code),
        "attribution": task.attribution or "",
        "generation": generation,
    }
