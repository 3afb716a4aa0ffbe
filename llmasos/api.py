"""The only module a plugin imports: the hook marker, the contracts, the digests of a record and the errors.

Anything that is not in ``__all__`` here is private and may change in any release. Importing this module imports
neither torch nor pydantic.
"""

from __future__ import annotations

from collections.abc import Callable as _Callable
from typing import Any as _Any
from typing import TypeVar as _TypeVar

from llmasos import API_VERSION
from llmasos.contracts.base import Contribution
from llmasos.contracts.data import (
    DataSource,
    DataSourceDef,
    Decision,
    Document,
    Exporter,
    FilePart,
    GlobalProcessor,
    InputShard,
    Processor,
    ProcessorDef,
)
from llmasos.contracts.evaluation import (
    ChoiceOutcome,
    EvalEvent,
    EvalRequest,
    EvalResult,
    Evaluator,
    EvaluatorDef,
    GenerationOutcome,
    LikelihoodOutcome,
    LoadedModel,
    Metric,
    MetricDef,
    Outcome,
    OutputType,
    PreparedModel,
    Progress,
    Request,
    Response,
    RollingOutcome,
    Scorer,
    TaskDef,
)
from llmasos.contracts.fingerprint import canonical_digest, canonical_json, merkle_root
from llmasos.contracts.hub import HubAPI, PluginInfo, Provided
from llmasos.contracts.model import (
    Architecture,
    ArchitectureSummary,
    CausalLM,
    Checkpoint,
    DTypeName,
    EncoderModel,
    Generation,
    GenerationChunk,
    KVCache,
    Model,
    ModelArchitecture,
    PackedBatch,
    ResolvedModel,
    SamplingParams,
    TensorInfo,
    WeightFormat,
    WeightLoader,
)
from llmasos.contracts.options import read_options
from llmasos.contracts.runtime import (
    OP_NAMES,
    AttentionLayout,
    Backend,
    BackendDef,
    BackendRequest,
    KernelOp,
    OpName,
    Ops,
)
from llmasos.contracts.signing import Signed, Signer, SignerDef
from llmasos.contracts.stage import Report, Stage, StageResult, Worker
from llmasos.contracts.tokenizer import Encoding, SpecialTokens, Tokenizer, TokenizerDef, TokenizerFormat
from llmasos.errors import (
    AmbiguousName,
    ConfigError,
    DeviceUnavailable,
    EnvironmentProblem,
    EvaluationError,
    ExitCode,
    IncompatiblePlugin,
    InputError,
    LlmasosError,
    ManifestError,
    MissingDependency,
    ModelNotFound,
    NotFound,
    PluginCallError,
    PluginError,
    PluginLoadError,
    PluginRequired,
    RunError,
    TokenizerError,
    UnknownName,
    UsageError,
    WeightsError,
)
from llmasos.hooks.commands import CommandDef
from llmasos.hooks.markers import hookimpl

_F = _TypeVar("_F", bound=_Callable[..., _Any])

__all__ = [
    "API_VERSION",
    "OP_NAMES",
    "AmbiguousName",
    "Architecture",
    "ArchitectureSummary",
    "AttentionLayout",
    "Backend",
    "BackendDef",
    "BackendRequest",
    "CausalLM",
    "Checkpoint",
    "ChoiceOutcome",
    "CommandDef",
    "ConfigError",
    "Contribution",
    "DTypeName",
    "DataSource",
    "DataSourceDef",
    "Decision",
    "DeviceUnavailable",
    "Document",
    "EncoderModel",
    "Encoding",
    "EnvironmentProblem",
    "EvalEvent",
    "EvalRequest",
    "EvalResult",
    "EvaluationError",
    "Evaluator",
    "EvaluatorDef",
    "ExitCode",
    "Exporter",
    "FilePart",
    "Generation",
    "GenerationChunk",
    "GenerationOutcome",
    "GlobalProcessor",
    "HubAPI",
    "IncompatiblePlugin",
    "InputError",
    "InputShard",
    "KVCache",
    "KernelOp",
    "LikelihoodOutcome",
    "LlmasosError",
    "LoadedModel",
    "ManifestError",
    "Metric",
    "MetricDef",
    "MissingDependency",
    "Model",
    "ModelArchitecture",
    "ModelNotFound",
    "NotFound",
    "OpName",
    "Ops",
    "Outcome",
    "OutputType",
    "PackedBatch",
    "PluginCallError",
    "PluginError",
    "PluginInfo",
    "PluginLoadError",
    "PluginRequired",
    "PreparedModel",
    "Processor",
    "ProcessorDef",
    "Progress",
    "Provided",
    "Report",
    "Request",
    "ResolvedModel",
    "Response",
    "RollingOutcome",
    "RunError",
    "SamplingParams",
    "Scorer",
    "Signed",
    "Signer",
    "SignerDef",
    "SpecialTokens",
    "Stage",
    "StageResult",
    "TaskDef",
    "TensorInfo",
    "Tokenizer",
    "TokenizerDef",
    "TokenizerError",
    "TokenizerFormat",
    "UnknownName",
    "UsageError",
    "WeightFormat",
    "WeightLoader",
    "WeightsError",
    "Worker",
    "canonical_digest",
    "canonical_json",
    "command_options",
    "hookimpl",
    "merkle_root",
    "read_options",
]


def command_options(command: _F) -> _F:
    """Decorator for a plugin's click command: ``--json`` and ``--quiet``; ``state.output`` then knows the mode."""
    from llmasos.cli.state import common_options

    return common_options(command)
