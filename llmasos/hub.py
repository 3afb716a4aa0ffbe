"""The Hub: the one object that the command line, tests and Python users hold.

::

    import llmasos

    hub = llmasos.Hub()
    loaded = hub.load_model("./SmolLM2-135M-Instruct")
    result = hub.evaluate(model="./SmolLM2-135M-Instruct", tasks=("quickstart",), limit=10)

The kernel part (plugins, names, hooks) is ``KernelHub``; the methods here call the pipelines, which are imported when used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmasos.kernel.hub import KernelHub

if TYPE_CHECKING:
    from llmasos.contracts.evaluation import EvalResult, LoadedModel, PreparedModel, Progress
    from llmasos.contracts.model import GenerationChunk, ResolvedModel, SamplingParams
    from llmasos.contracts.stage import Stage, StageResult
    from llmasos.contracts.tokenizer import Tokenizer
    from llmasos.pipelines.process import ProcessResult


class Hub(KernelHub):
    """Load, describe, generate, evaluate and process with the plugins of this environment."""

    def resolve_model(self, ref: str, *, fetch: bool = True) -> ResolvedModel:
        """Where a model reference leads; without ``fetch`` only what is here already is looked at. Raises ModelNotFound, and
        PluginRequired when the model needs plugins that are not there and nobody consented to installing them."""
        from llmasos.pipelines.requirements import resolve_model

        return resolve_model(self, ref, fetch=fetch)

    def load_model(
        self, ref: str, *, device: str = "auto", dtype: str = "exact", allow_pickle: bool = False
    ) -> LoadedModel:
        """Resolve, open and build a causal language model with its tokenizer."""
        from llmasos.pipelines.load import load_model

        return load_model(self, ref, device=device, dtype=dtype, allow_pickle=allow_pickle)

    def prepare_model(
        self, ref: str, *, device: str = "auto", dtype: str = "exact", allow_pickle: bool = False
    ) -> PreparedModel:
        """What ``load_model`` finds out, without reading the weights; its ``load`` reads them."""
        from llmasos.pipelines.load import prepare_model

        return prepare_model(self, ref, device=device, dtype=dtype, allow_pickle=allow_pickle)

    def load_tokenizer(self, ref: str) -> Tokenizer:
        """The tokenizer of a model reference, without its weights."""
        from llmasos.pipelines.load import load_tokenizer

        return load_tokenizer(self, ref)

    def generate(
        self,
        loaded: LoadedModel,
        prompts: Sequence[str | Sequence[int]],
        params: SamplingParams,
        *,
        batch_size: int = 8,
        share_prefixes: bool = True,
        speculate: Literal["lookup"] | LoadedModel | None = None,
    ) -> Iterator[GenerationChunk]:
        """Complete prompts (text, or token ids as they are given to the model) together, streaming."""
        from llmasos.pipelines.generate import generate

        return generate(
            loaded,
            prompts,
            params,
            batch_size=batch_size,
            share_prefixes=share_prefixes,
            speculate=speculate,
        )

    def describe(self, ref: str, *, allow_pickle: bool = False) -> dict[str, Any]:
        """Everything about a model that can be known without loading its weights."""
        from llmasos.pipelines.describe import describe_model

        return describe_model(self, ref, allow_pickle=allow_pickle)

    def evaluate(
        self, model: str, tasks: Sequence[str], *, progress: Progress | None = None, **settings: Any
    ) -> EvalResult:
        """Score a model on tasks or suites. ``settings`` are the fields of ``EvalRequest``, for example ``limit=10``."""
        from llmasos.contracts.evaluation import EvalRequest
        from llmasos.pipelines.evaluate import evaluate

        return evaluate(self, EvalRequest(model=model, tasks=tuple(tasks), **settings), progress)

    def process(
        self,
        pipeline: Path | str,
        *,
        output: Path | str | None = None,
        workers: int = 1,
        sample: int | None = None,
        progress: Progress | None = None,
    ) -> ProcessResult:
        """Run a data pipeline file. Finished work in ``output`` is reused; the result does not depend on ``workers``."""
        from llmasos.pipelines.evaluate import Silence
        from llmasos.pipelines.process import process

        folder = None if output is None else Path(output)
        return process(
            Path(pipeline), self, progress or Silence(), output=folder, workers=workers, sample=sample
        )

    def run_stage(
        self,
        stage: Stage,
        shards: Sequence[Any],
        *,
        folder: Path,
        workers: int = 1,
        cluster: str | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> Iterator[StageResult]:
        """A result for each shard, in order of completion; what is finished in ``folder`` is not done again."""
        from llmasos.kernel.stage_run import run_alone

        return run_alone(
            self,
            stage,
            shards,
            folder=folder,
            workers=workers,
            cluster=cluster,
            threads=threads,
            progress=progress,
        )

    def provenance(self, plugins: Sequence[str] | None = None) -> dict[str, Any]:
        """For a record: ``environment`` (machine, libraries) and ``plugins`` with their code digests.

        Those used so far, or those of the ids named, as far as they are installed.
        """
        from llmasos.provenance import environment, plugin_lock

        used = self.plugins_used() if plugins is None else self.plugins_here(plugins)
        return {"environment": environment(), "plugins": plugin_lock(used)}
