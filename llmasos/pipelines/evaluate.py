"""``llmasos eval``: check what was asked, tell the plugins, let one of them run it.

What an evaluation is belongs to the plugin that implements ``run_evaluation``; other plugins may wrap it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos.contracts.evaluation import EvalEvent, EvalRequest, EvalResult, Progress
from llmasos.errors import PluginCallError, UnknownName, UsageError
from llmasos.pipelines.binding import dtype_name

if TYPE_CHECKING:
    from llmasos.kernel.hub import KernelHub


class Silence:
    """A Progress that nobody watches."""

    def phase(self, name: str, total: int | None = None) -> None:
        """Nothing."""

    def advance(self, amount: int = 1) -> None:
        """Nothing."""

    def warn(self, message: str) -> None:
        """Nothing."""


def check_request(request: EvalRequest) -> None:
    """Refuse what can be refused without reading anything. Raises UsageError saying what and what would do."""
    if not request.tasks:
        raise UsageError("no task was named", hint="try `llmasos eval MODEL quickstart`")
    dtype_name(request.dtype)
    if isinstance(request.limit, str) and request.limit != "auto":
        raise UsageError(f"limit is {request.limit!r}", hint="limit must be a number or auto")
    for name, value, least in (
        ("limit", None if isinstance(request.limit, str) else request.limit, 1),
        ("num_fewshot", request.num_fewshot, 0),
        ("batch_size", request.batch_size, 1),
        ("bootstrap", request.bootstrap, 0),
        ("token_budget", request.token_budget, 1),
        ("workers", request.workers, 1),
        ("threads", request.threads, 1),
        ("stride", request.stride, 1),
    ):
        if value is not None and value < least:
            raise UsageError(f"{name} is {value}", hint=f"{name} must be at least {least}")
    for name, choice, choices in (
        ("compat", request.compat, ("native", "lm-eval")),
        ("engine", request.engine, ("tree", "reference", "lm-eval")),
    ):
        if choice not in choices:
            raise UsageError(f"{name} is {choice!r}", hint=f"{name} must be one of {', '.join(choices)}")
    _check_together(request)
    for folder in request.include:
        if not folder.exists():
            raise UsageError(f"--include {folder}: no such folder", hint="give a folder with task files")
    if request.output is not None and request.output.exists() and not request.output.is_dir():
        raise UsageError(f"--output {request.output} is a file", hint="give a folder")


def _check_together(request: EvalRequest) -> None:
    """Refuse settings that exclude each other, and those that say nothing without another."""
    if request.interval is not None and not 0 < request.interval < float("inf"):
        raise UsageError(f"interval is {request.interval}", hint="interval must be above 0")
    if (request.limit == "auto") != (request.interval is not None):
        raise UsageError(
            "limit auto and interval need each other",
            hint="--limit auto --interval 0.01 scores documents until the 95 % interval is 0.01 on either side",
        )
    if request.batch_invariant and request.threads not in (None, 1):
        raise UsageError(
            f"threads is {request.threads} with batch_invariant",
            hint="sums over several threads depend on how many there are: leave out threads, or use more workers",
        )
    if request.batch_invariant and request.engine == "lm-eval":
        raise UsageError("the engine lm-eval is not batch-invariant", hint="leave out one of the two")
    if request.fewshot_as_multiturn and not request.apply_chat_template:
        raise UsageError(
            "fewshot_as_multiturn needs a chat template", hint="add --apply-chat-template, or leave it out"
        )


def evaluate(hub: KernelHub, request: EvalRequest, progress: Progress | None = None) -> EvalResult:
    """Score a model on tasks. Returns the record and the folder with the samples.

    Raises UsageError for a request that makes no sense, UnknownName when no enabled plugin runs evaluations, and whatever
    the plugin raises. ``eval_started`` is told first, then ``eval_finished`` or, for any error and for an interruption,
    ``eval_failed``.
    """
    check_request(request)
    hub.notify("eval_started", event=EvalEvent(request))
    try:
        result = hub.wrap("run_evaluation", request=request, hub=hub, progress=progress or Silence())
        if result is None:
            raise UnknownName(
                "no enabled plugin runs evaluations",
                hint="enable llmasos-evals; `llmasos plugin list` shows why a plugin is not used",
            )
        if not isinstance(result, EvalResult):
            raise PluginCallError(
                f"hook llmasos_run_evaluation answered with {type(result).__name__}, which is not an EvalResult",
                hint="a wrapper must return what it was given; `llmasos --trace-plugins eval ...` names the plugins that were asked",
            )
    except BaseException as error:
        hub.notify("eval_failed", event=EvalEvent(request, error=error))
        raise
    hub.notify("eval_finished", event=EvalEvent(request, result=result))
    return result
