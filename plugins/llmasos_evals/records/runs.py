"""A task on its way through a run, and what is known of the run before its first number: what decides every number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmasos.api import EvalRequest, PreparedModel, canonical_digest
from llmasos_evals.records.record import SCHEMA
from llmasos_evals.records.store import StoredSamples
from llmasos_evals.scoring.generation import generation_plan
from llmasos_evals.tasks.task import PlannedDocument, Task

if TYPE_CHECKING:
    from llmasos_evals.scoring.session import ScoringSession


@dataclass(slots=True)
class TaskRun:
    """One task on its way: its plan, then its finished samples by document number."""

    task: Task
    planned: tuple[PlannedDocument, ...]
    #: Documents with the same value in this column are not independent.
    cluster_column: str | None = None
    #: How the documents were chosen, for the record; None: as they come.
    sampling: Mapping[str, Any] | None = None
    samples: StoredSamples | dict[int, dict[str, Any]] = field(default_factory=dict)
    resumed: int = 0

    @property
    def ordered(self) -> Iterator[dict[str, Any]]:
        """Samples in the order of the plan, whatever order they finished in, one at a time."""
        indices = [document.index for document in self.planned]
        if isinstance(self.samples, StoredSamples):
            return self.samples.read(indices)
        return map(self.samples.__getitem__, indices)

    @property
    def generates(self) -> bool:
        """Whether the model writes text, which it does for several documents at a time."""
        return self.task.output_type == "generate_until"


def describe(
    request: EvalRequest,
    prepared: PreparedModel,
    scorer: ScoringSession,
    runs: Sequence[TaskRun],
    origin: Mapping[str, Any],
) -> dict[str, Any]:
    """The sections of the record that are known before scoring: what decides every number."""
    facts = dict(prepared.facts)
    tokenizer = prepared.tokenizer
    template = tokenizer.chat_template
    plan = scorer.plan()
    return {
        "schema": SCHEMA,
        "model": {
            **{key: facts[key] for key in ("ref", "source", "revision", "license", "format", "loader")},
            "provenance": {str(key): str(value) for key, value in facts["provenance"].items()},
            **{key: facts[key] for key in ("architecture", "parameters", "dtype", "device", "backend")},
            "max_length": prepared.max_length,
            "vocab_size": prepared.vocab_size,
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
            "chat_template_applied": bool(request.apply_chat_template),
            "chat_template_name": request.apply_chat_template
            if isinstance(request.apply_chat_template, str)
            else None,
            "system_instruction": None
            if request.system_instruction is None
            else canonical_digest(request.system_instruction),
        },
        "plugins": [dict(plugin) for plugin in origin["plugins"]],
        "rescored_from": None,
        "rescored_by": [],
        "settings": settings_section(request),
        "scorer": {"name": scorer.name, "plan": plan, "plan_digest": canonical_digest(plan)},
        "tasks": [task_section(run, request) for run in runs],
    }


def settings_section(request: EvalRequest) -> dict[str, Any]:
    """What was asked for that can change a number."""
    samples = request.samples
    return {
        "tasks": sorted(set(request.tasks)),  # their order decides nothing
        "limit": request.limit,
        "interval": request.interval,
        "samples": None
        if samples is None
        else {task: sorted(set(samples[task])) for task in sorted(samples)},
        "num_fewshot": request.num_fewshot,
        "seed": request.seed,
        "compat": request.compat,
        "bootstrap": request.bootstrap,
        "cluster_column": request.cluster_column,
        "dtype": request.dtype,
        "engine": request.engine,
        "batch_invariant": request.batch_invariant,
        "stride": request.stride,
        "apply_chat_template": request.apply_chat_template,
        "system_instruction": request.system_instruction,
        "fewshot_as_multiturn": request.fewshot_as_multiturn,
        "gen_kwargs": dict(request.gen_kwargs),
    }


def execution_section(request: EvalRequest, counts: Mapping[str, int] | None = None) -> dict[str, Any]:
    """How the work was done. ``counts`` are the fields of ``ExecutionSection`` that the engine knows."""
    counted = dict.fromkeys(
        (
            "requests",
            "unique_requests",
            "tokens_computed",
            "ideal_tokens",
            "logit_rows",
            "ideal_logit_rows",
            "shards",
            "shards_reused",
            "cached_requests",
        )
    )
    return {
        "workers": request.workers,
        "threads": request.threads,
        "cluster": request.ray is not None,
        "batch_size": request.batch_size,
        "token_budget": request.token_budget,
        "cache": request.cache,
        **counted,
        **(counts or {}),
    }


def task_section(run: TaskRun, request: EvalRequest) -> dict[str, Any]:
    task = run.task
    generation = None
    if run.generates and run.planned[0].requests:
        generation = generation_plan(run.planned[0].requests[0].options, where=f"task {task.name}").as_json()
    shots = task.shots(request.num_fewshot, request.compat)
    return {
        "name": task.name,
        "alias": task.alias,
        "version": task.version,
        "output_type": task.output_type,
        "num_fewshot": shots,
        "documents": task.size(),
        "digest": task.digest,
        "data_digest": task.data_digest(shots),
        "data": dict(task.data_origin(shots)),
        "code": dict(task.code),
        "attribution": task.attribution or "",
        "generation": generation,
    }
