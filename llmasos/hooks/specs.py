"""All hook specifications, in the order a run calls them.

Four policies (``llmasos.hooks.calls`` implements them):

collect
    Every enabled plugin that promises the kind is asked; a failure is attributed to its plugin and the others go on.
first
    Plugins are asked in the order of their ids, the kernel's own default last; the first answer that is not None wins.
notify
    Every plugin is told; return values are ignored and failures are one warning line.
wrap
    Like first, and other plugins may wrap the call (``hookimpl(wrapper=True)``).

Process scope: *driver* hooks run in the process the user started, *worker* hooks in every process that does the work,
*both* in either. Nothing here is called per token or per sample: hooks choose objects, objects do the work.

Rules for implementations: take any subset of the arguments by name; no default values (pluggy 1.6 and 1.7 treat them
differently); do no work at import.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from llmasos.contracts.data import DataSourceDef, ProcessorDef
from llmasos.contracts.evaluation import (
    EvalEvent,
    EvalRequest,
    EvalResult,
    EvaluatorDef,
    MetricDef,
    Progress,
    TaskDef,
)
from llmasos.contracts.hub import HubAPI
from llmasos.contracts.model import ModelArchitecture, ResolvedModel, WeightLoader
from llmasos.contracts.runtime import BackendDef, BackendRequest, KernelOp
from llmasos.contracts.signing import SignerDef
from llmasos.contracts.task_source import TaskSourceDef
from llmasos.contracts.tokenizer import TokenizerDef
from llmasos.hooks.commands import CommandDef
from llmasos.hooks.markers import hookspec

Policy = Literal["collect", "first", "notify", "wrap"]
Scope = Literal["driver", "worker", "both"]


class HookInfo(NamedTuple):
    """How a hook is called. ``kind`` is the contribution kind of a collect hook."""

    policy: Policy
    scope: Scope
    kind: str | None = None


#: Policy, scope and contribution kind of every hook, without the ``llmasos_`` prefix. The reference page is made from this.
HOOKS: dict[str, HookInfo] = {
    "commands": HookInfo("collect", "driver", "command"),
    "resolve_model": HookInfo("first", "driver"),
    "model_architectures": HookInfo("collect", "both", "model_architecture"),
    "weight_loaders": HookInfo("collect", "both", "weight_loader"),
    "tokenizers": HookInfo("collect", "both", "tokenizer"),
    "backends": HookInfo("collect", "both", "backend"),
    "select_backend": HookInfo("first", "both"),
    "kernel_ops": HookInfo("collect", "worker", "kernel_op"),
    "data_sources": HookInfo("collect", "both", "data_source"),
    "processors": HookInfo("collect", "worker", "processor"),
    "tasks": HookInfo("collect", "driver", "task"),
    "task_sources": HookInfo("collect", "driver", "task_source"),
    "metrics": HookInfo("collect", "driver", "metric"),
    "evaluators": HookInfo("collect", "driver", "evaluator"),
    "eval_started": HookInfo("notify", "driver"),
    "run_evaluation": HookInfo("wrap", "driver"),
    "eval_finished": HookInfo("notify", "driver"),
    "eval_failed": HookInfo("notify", "driver"),
    "signers": HookInfo("collect", "driver", "signer"),
}


# ---- start: what the command line can do --------------------------------------------------------------------------


@hookspec
def llmasos_commands() -> Iterable[CommandDef]:
    """Commands to add to the ``llmasos`` command line.

    When: the user names a command that the core does not have, or asks for ``--help`` (which reads the manifest only).
    Returns: descriptors; ``factory`` names a click command.
    Since: API 1.0. Implemented by: llmasos-tokenizers (``tokenize``).

    ::

        @hookimpl
        def llmasos_commands():
            yield CommandDef(name="hello", factory="acme_hello.cli:hello")
    """


# ---- a model: reference, files, architecture, tokenizer -------------------------------------------------------------


@hookspec(firstresult=True)
def llmasos_resolve_model(ref: str, hub: HubAPI) -> ResolvedModel | None:
    """Find the files a model reference names, fetching them when allowed.

    When: first step of every command that takes a model.
    Params: ``ref`` as the user wrote it; ``hub`` for ``cache_dir`` and ``offline``.
    Returns: None for a reference of another form. For its own form, raise ModelNotFound when it leads nowhere.
    Since: API 1.0. Implemented by: llmasos-refs (paths, ``hf://``, ``pypi:``), llmasos-registry (``registry://``).

    ::

        @hookimpl
        def llmasos_resolve_model(ref, hub):
            if ref.startswith("acme://"):
                return ResolvedModel(ref=ref, path=fetch(ref, hub.cache_dir), source="acme")
    """


@hookspec
def llmasos_weight_loaders() -> Iterable[WeightLoader]:
    """Weight file formats.

    When: after the reference is resolved; the manifest's ``matches.files`` patterns choose which plugins are asked.
    Returns: descriptors; ``factory`` names a WeightFormat.
    Since: API 1.0. Implemented by: llmasos-transformer (safetensors, gguf, pickle).

    ::

        @hookimpl
        def llmasos_weight_loaders():
            yield WeightLoader(name="npz", factory="acme_npz:NpzFormat")
    """


@hookspec
def llmasos_model_architectures() -> Iterable[ModelArchitecture]:
    """Model families.

    When: after the checkpoint is open; the manifest's ``matches.model_type`` and ``matches.architectures`` choose.
    Returns: descriptors; ``factory`` names an Architecture.
    Since: API 1.0. Implemented by: llmasos-transformer (llama, gpt2, bert).

    ::

        @hookimpl
        def llmasos_model_architectures():
            yield ModelArchitecture(name="rwkv", factory="acme_rwkv.model:Rwkv")
    """


@hookspec
def llmasos_tokenizers() -> Iterable[TokenizerDef]:
    """Tokenizer formats.

    When: after the reference is resolved; formats whose ``accepts`` says yes are tried by ``priority``.
    Returns: descriptors; ``factory`` names a TokenizerFormat.
    Since: API 1.0. Implemented by: llmasos-tokenizers.

    ::

        @hookimpl
        def llmasos_tokenizers():
            yield TokenizerDef(name="tiktoken", factory="acme_tiktoken:TiktokenFormat", priority=5)
    """


# ---- a back end -------------------------------------------------------------------------------------------------------


@hookspec
def llmasos_backends() -> Iterable[BackendDef]:
    """Back ends: which devices they drive.

    When: before a model is built. Returns: descriptors; ``factory`` names a Backend.
    Since: API 1.0. Implemented by: llmasos-transformer (``reference``: plain torch).

    ::

        @hookimpl
        def llmasos_backends():
            yield BackendDef(name="npu", factory="acme_npu:NpuBackend", priority=20)
    """


@hookspec(firstresult=True)
def llmasos_select_backend(request: BackendRequest, candidates: tuple[str, ...]) -> str | None:
    """Choose among back ends that can serve a request.

    When: more than one candidate is left. Params: ``candidates`` are full names, best priority first.
    Returns: one of them, or None to pass; the kernel's default takes the first.
    Since: API 1.0. Implemented by: the kernel's default.

    ::

        @hookimpl
        def llmasos_select_backend(request, candidates):
            return "acme-npu/npu" if request.dtype == "bfloat16" and "acme-npu/npu" in candidates else None
    """


@hookspec
def llmasos_kernel_ops() -> Iterable[KernelOp]:
    """Ops of a back end.

    When: the chosen back end's ops are bound to a model, once. An op that differs from the reference is refused.
    Returns: descriptors; ``factory`` names the callable.
    Since: API 1.0. Implemented by: llmasos-transformer (all ops of ``reference``).

    ::

        @hookimpl
        def llmasos_kernel_ops():
            yield KernelOp(name="npu.linear", op="linear", backend="npu", factory="acme_npu.ops:linear")
    """


# ---- data -------------------------------------------------------------------------------------------------------------


@hookspec
def llmasos_data_sources() -> Iterable[DataSourceDef]:
    """Readers of documents.

    When: ``llmasos data process`` reads its pipeline. Returns: descriptors; ``factory`` names a DataSource class.
    Since: API 1.0. Implemented by: llmasos-data (text, jsonl, warc).

    ::

        @hookimpl
        def llmasos_data_sources():
            yield DataSourceDef(name="mbox", factory="acme_mail:MboxSource")
    """


@hookspec
def llmasos_processors() -> Iterable[ProcessorDef]:
    """Steps of a data pipeline.

    When: ``llmasos data process`` builds its stages. Returns: descriptors; ``factory`` names a Processor or
    GlobalProcessor class. Since: API 1.0. Implemented by: llmasos-data.

    ::

        @hookimpl
        def llmasos_processors():
            yield ProcessorDef(name="shout", factory="acme_shout:Shout")
    """


# ---- evaluation -------------------------------------------------------------------------------------------------------


@hookspec
def llmasos_tasks() -> Iterable[TaskDef]:
    """Tasks and suites that ship inside a plugin.

    When: ``llmasos eval`` looks up a task name. Returns: descriptors; ``factory`` is ``package:path/inside.yaml``.
    Since: API 1.0. Implemented by: llmasos-evals (``quickstart`` and its tasks).

    ::

        @hookimpl
        def llmasos_tasks():
            yield TaskDef(name="acme_qa", factory="acme_qa:tasks/acme_qa.yaml")
    """


@hookspec
def llmasos_task_sources() -> Iterable[TaskSourceDef]:
    """Tasks of another installed package: its folders of task files, and its tasks that are Python classes.

    When: ``llmasos eval`` looks up a name that neither ``--include`` nor a plugin's tasks have, or meets a task file with
    ``class``. Returns: descriptors; ``factory`` names a TaskSource. Since: API 1.0. Implemented by: llmasos-lmeval.

    ::

        @hookimpl
        def llmasos_task_sources():
            yield TaskSourceDef(name="acme-bench", factory="acme_bench:InstalledTasks")
    """


@hookspec
def llmasos_metrics() -> Iterable[MetricDef]:
    """Metrics.

    When: a task's ``metric_list`` names one. Returns: descriptors; ``factory`` names a Metric.
    Since: API 1.0. Implemented by: llmasos-evals.

    ::

        @hookimpl
        def llmasos_metrics():
            yield MetricDef(name="wer", factory="acme_asr:WordErrorRate", higher_is_better=False, range=(0.0, None))
    """


@hookspec
def llmasos_evaluators() -> Iterable[EvaluatorDef]:
    """Evaluators: what runs tasks on a model.

    When: ``run_evaluation`` picks one. Returns: descriptors; ``factory`` names an Evaluator.
    Since: API 1.0. Implemented by: llmasos-evals (``harness``: lm-evaluation-harness task files).

    ::

        @hookimpl
        def llmasos_evaluators():
            yield EvaluatorDef(name="agents", factory="acme_agents:AgentEvaluator")
    """


@hookspec
def llmasos_eval_started(event: EvalEvent) -> None:
    """An evaluation begins.

    When: after the request is checked, before the model is loaded. Since: API 1.0.
    Implemented by: llmasos-evals (marks the output folder as running).
    """


@hookspec(firstresult=True)
def llmasos_run_evaluation(request: EvalRequest, hub: HubAPI, progress: Progress) -> EvalResult | None:
    """Run an evaluation. Wrappers may time, cache, forbid or annotate it.

    When: between eval_started and eval_finished or eval_failed.
    Returns: the result, or None to leave it to another plugin. Errors are errors of the run.
    Since: API 1.0. Implemented by: llmasos-evals.

    ::

        @hookimpl(wrapper=True)
        def llmasos_run_evaluation(request, hub, progress):
            result = yield
            upload(result.record)
            return result
    """


@hookspec
def llmasos_eval_finished(event: EvalEvent) -> None:
    """An evaluation succeeded; ``event.result`` has the record. Since: API 1.0. Implemented by: llmasos-evals."""


@hookspec
def llmasos_eval_failed(event: EvalEvent) -> None:
    """An evaluation failed or was interrupted; ``event.error`` says why. Since: API 1.0. Implemented by: llmasos-evals."""


# ---- afterwards: who stands behind a number ------------------------------------------------------------------------


@hookspec
def llmasos_signers() -> Iterable[SignerDef]:
    """Signers: what signs records and attestations, and verifies such signatures.

    When: a record is signed or verified. Returns: descriptors; ``factory`` names a Signer.
    Since: API 1.0. Implemented by: llmasos-registry (``publisher``: the key of `llmasos registry key new`).

    ::

        @hookimpl
        def llmasos_signers():
            yield SignerDef(name="token", factory="acme_hsm:TokenSigner")
    """
