"""Tasks, requests, metrics, evaluators and the record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from llmasos.contracts.base import Contribution

if TYPE_CHECKING:
    from llmasos.contracts.model import CausalLM, ResolvedModel
    from llmasos.contracts.tokenizer import Tokenizer

RequestKind = Literal["loglikelihood", "loglikelihood_rolling", "generate_until"]
OutputType = Literal["multiple_choice", "loglikelihood", "loglikelihood_rolling", "generate_until"]


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a model. ``key`` = (task, document number, request number within the document).

    loglikelihood: ``continuation`` given ``context``. loglikelihood_rolling: ``context`` is the whole text, continuation
    empty. generate_until: ``context`` is the prompt and ``options`` the generation settings.
    """

    kind: RequestKind
    key: tuple[str, int, int]
    context: str
    continuation: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to a request.

    ``logprob`` in nats and ``is_greedy`` for likelihoods, ``text`` for generations. ``tokens`` counts the scored or
    generated tokens; ``truncated`` counts tokens of context that did not fit the model and were left out, ``unscored`` tokens
    of the continuation itself that did not fit and are missing from ``logprob``; ``token_ids`` are the ids given to the
    model, for the prompt digest; ``output_ids`` are those it generated, so that others can check them.
    """

    key: tuple[str, int, int]
    logprob: float | None = None
    is_greedy: bool | None = None
    text: str | None = None
    tokens: int = 0
    truncated: int = 0
    unscored: int = 0
    token_ids: tuple[int, ...] = ()
    output_ids: tuple[int, ...] = ()


class Scorer(Protocol):
    """Turns requests into responses. The seam for faster engines: the same requests give the same responses."""

    #: Short name for the record, for example ``reference``.
    name: str

    def score(self, requests: Sequence[Request]) -> Iterator[Response]:
        """Responses in any order, each as soon as it is known, exactly one a request."""


@dataclass(frozen=True, slots=True)
class LikelihoodOutcome:
    """What a ``loglikelihood`` document came to: nats of the whole continuation, and whether greedy decoding gives it.

    ``tokens`` counts those of the continuation that were scored.
    """

    logprob: float
    is_greedy: bool
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class RollingOutcome:
    """What a ``loglikelihood_rolling`` document came to: nats of ``text`` (nothing left out) and of how many tokens."""

    logprob: float
    text: str
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class ChoiceOutcome:
    """What a ``multiple_choice`` document came to; the sequences are parallel to ``choices``.

    ``gold`` has the indices of the right choices, -100 for a label that names no choice; ``multiple`` when the task has
    several right choices a document. ``unconditional`` (nats without the context) only when a metric asked for it. ``doc``
    is the document, for metrics that score its fields too.
    """

    logprobs: tuple[float, ...]
    greedy: tuple[bool, ...]
    choices: tuple[str, ...]
    gold: tuple[int, ...]
    multiple: bool = False
    unconditional: tuple[float, ...] = ()
    doc: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GenerationOutcome:
    """What a ``generate_until`` document came to after the filters: a string, or a list when the filters keep several.

    ``multiple`` when the task has several references a document, any of which will do. ``doc`` is the document, for metrics
    that score its fields too.
    """

    prediction: Any
    references: tuple[str, ...]
    multiple: bool = False
    doc: Mapping[str, Any] = field(default_factory=dict)


Outcome = LikelihoodOutcome | RollingOutcome | ChoiceOutcome | GenerationOutcome


class Metric(Protocol):
    """What the factory of a MetricDef makes; the options of a task's ``metric_list`` entry are its keyword arguments."""

    @property
    def signature(self) -> str:
        """Version string of what is computed, for example ``acc_norm|norm:chars|tie:first|v:1``."""

    def item(self, outcome: Outcome) -> Any:
        """What one document contributes: numbers, strings and lists of them, so that it survives a JSON file."""

    def aggregate(self, items: Sequence[Any]) -> float:
        """The value over all documents. Raises EvaluationError when there are none."""

    def stderr(self, items: Sequence[Any], *, bootstrap: int) -> float | None:
        """Standard error of ``aggregate``, or None where the metric has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDef(Contribution):
    """A task or a suite; ``factory`` is ``package:relative/path.yaml``, a data file inside the plugin."""

    kind: ClassVar[str] = "task"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricDef(Contribution):
    """A metric. ``range`` as (low, high), None where unbounded; ``scores`` are the output types it can score."""

    kind: ClassVar[str] = "metric"

    higher_is_better: bool
    unit: str = ""
    range: tuple[float | None, float | None] = (None, None)
    scores: tuple[OutputType, ...] = ("generate_until",)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatorDef(Contribution):
    """Something that runs tasks on a model."""

    kind: ClassVar[str] = "evaluator"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to use, with everything a record must say about it."""

    resolved: ResolvedModel
    model: CausalLM
    tokenizer: Tokenizer
    #: Facts for the record: architecture plugin, weight digests, dtype, device, op providers.
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """A model whose weights nobody has read yet: enough to make prompts and to say in a record what would be computed.

    ``facts``, ``max_length`` (longest input in tokens) and ``vocab_size`` are those of the model that ``load`` gives.
    """

    resolved: ResolvedModel
    tokenizer: Tokenizer
    facts: Mapping[str, Any]
    max_length: int
    vocab_size: int
    load: Callable[[], LoadedModel]


@dataclass(frozen=True, slots=True)
class EvalRequest:
    """What the user asked ``llmasos eval`` for."""

    model: str
    tasks: tuple[str, ...]
    #: Documents of each task; ``auto`` takes as many as make the 95 % interval ``interval`` wide on either side.
    limit: int | Literal["auto"] | None = None
    #: Task -> numbers of the documents to score, instead of all; tasks that are not named are scored whole.
    samples: Mapping[str, Sequence[int]] | None = None
    num_fewshot: int | None = None
    batch_size: int = 8
    seed: int = 1234
    device: str = "auto"
    dtype: str = "exact"
    output: Path | None = None
    #: Extra folders with task files.
    include: tuple[Path, ...] = ()
    #: ``lm-eval`` reproduces that harness's few-shot draws and quirks; ``native`` draws each document's shots as a
    #: function of seed, task and document only.
    compat: Literal["native", "lm-eval"] = "native"
    bootstrap: int = 100_000
    allow_pickle: bool = False
    resume: bool = True
    #: Let task files run the Python functions that lie beside them (``!function``); their digests go into the record.
    allow_task_code: bool = False
    #: Run code that the model writes, in the sandbox (pass@k).
    allow_code_execution: bool = False
    #: ``tree`` computes what prompts share once, ``reference`` one row a request; ``lm-eval`` is that harness itself.
    engine: Literal["tree", "reference", "lm-eval"] = "tree"
    #: Bit-identical numbers whatever the token budget, order, limit, number of workers and point of resumption.
    batch_invariant: bool = False
    #: Tokens in one forward pass; None: the engine's own.
    token_budget: int | None = None
    #: Processes that score, and threads of each; None: cores divided by workers.
    workers: int = 1
    threads: int | None = None
    #: Address of a Ray cluster, or ``local`` for one of this machine.
    ray: str | None = None
    #: Answer requests that any earlier run computed with the same weights, tokenizer, precision and token ids.
    cache: bool = False
    #: Tokens that the windows of running text move on by; None: lm-evaluation-harness's disjoint windows.
    stride: int | None = None
    #: True: the model's own chat template; a string: the one of that name.
    apply_chat_template: bool | str = False
    system_instruction: str | None = None
    #: Few-shot examples as turns of the conversation; None: as turns where there is a chat template.
    fewshot_as_multiturn: bool | None = None
    #: Generation settings that replace those of the tasks.
    gen_kwargs: Mapping[str, Any] = field(default_factory=dict)
    #: Half of the width that ``limit="auto"`` aims at, as a share of the metric's range (0.01 is one percentage point), of its
    #: value where it has no range.
    interval: float | None = None
    #: A column of the documents: those with the same value are not independent, standard errors take that in.
    cluster_column: str | None = None


class Progress(Protocol):
    """Where long work reports to. Calls are cheap and never raise."""

    def phase(self, name: str, total: int | None = None) -> None:
        """A new phase begins; ``total`` units are expected."""

    def advance(self, amount: int = 1) -> None:
        """``amount`` more units are done."""

    def warn(self, message: str) -> None:
        """One line the user should see."""


@dataclass(frozen=True, slots=True)
class EvalResult:
    """The record of one run (JSON, schema in docs/reference/record.md) and where its samples lie."""

    record: Mapping[str, Any]
    output: Path | None = None


@dataclass(frozen=True, slots=True)
class EvalEvent:
    """Given to eval_started, eval_finished and eval_failed. ``result`` only when finished, ``error`` only when failed."""

    request: EvalRequest
    result: EvalResult | None = None
    error: BaseException | None = None


class Evaluator(Protocol):
    """Factory object of an EvaluatorDef."""

    def evaluate(self, request: EvalRequest, hub: Any, progress: Progress) -> EvalResult:
        """Run the tasks and write the record. ``hub`` is a HubAPI."""
