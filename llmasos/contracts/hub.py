"""The part of the Hub that plugins see."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from llmasos.contracts.base import Contribution
from llmasos.contracts.evaluation import LoadedModel, PreparedModel, Progress
from llmasos.contracts.model import GenerationChunk, ResolvedModel, SamplingParams
from llmasos.contracts.stage import Stage, StageResult
from llmasos.contracts.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """A plugin as the record names it."""

    id: str
    version: str
    distribution: str
    path: Path


@dataclass(frozen=True, slots=True)
class Provided:
    """A contribution and who provides it, known from the manifest alone."""

    kind: str
    name: str
    full_name: str
    plugin: PluginInfo
    summary: str
    #: The manifest's ``matches`` table: what files, model types and so on this contribution is for.
    matches: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: The manifest's ``capabilities`` table, as written.
    capabilities: Mapping[str, Any] = field(default_factory=dict)


class HubAPI(Protocol):
    """What a hook or an evaluator may ask of the Hub it is given.

    A hub can be pickled; what arrives in a worker process is a hub that finds the same plugins with the same settings
    and has loaded none of them yet.
    """

    cache_dir: Path
    #: What the user put there to stay; nothing here is made anew when it is lost.
    data_dir: Path
    #: True when nothing may be fetched.
    offline: bool

    def names(self, kind: str) -> Sequence[Provided]:
        """Everything enabled plugins promise of one kind, sorted by full name. Imports nothing."""

    def matching(self, kind: str, **facts: str | Iterable[str]) -> Sequence[Provided]:
        """Of one kind, what declares in its manifest to match any of the facts, for example ``model_type="llama"`` or
        ``files=["model.gguf"]``. Imports nothing."""

    def contribution(self, kind: str, name: str) -> Contribution:
        """The descriptor behind a bare or full name; imports that plugin only.

        Raises UnknownName with near misses, AmbiguousName naming the providers, PluginLoadError.
        """

    def get(self, kind: str, name: str) -> Any:
        """The object behind a contribution: its factory path, imported."""

    def resolve_model(self, ref: str, *, fetch: bool = True) -> ResolvedModel:
        """Where a model reference leads; without ``fetch`` only what is here already is looked at. Raises ModelNotFound."""

    def load_model(
        self, ref: str, *, device: str = "auto", dtype: str = "exact", allow_pickle: bool = False
    ) -> LoadedModel:
        """Resolve, open and build a causal language model with its tokenizer."""

    def prepare_model(
        self, ref: str, *, device: str = "auto", dtype: str = "exact", allow_pickle: bool = False
    ) -> PreparedModel:
        """What ``load_model`` finds out, without reading the weights; its ``load`` reads them."""

    def load_tokenizer(self, ref: str) -> Tokenizer:
        """The tokenizer of a model reference, without its weights."""

    def plugin_settings(self, plugin_id: str) -> Mapping[str, Any]:
        """Values of the settings that a plugin's manifest declares under ``[settings]``."""

    def plugins_used(self) -> Sequence[PluginInfo]:
        """Plugins imported so far by this Hub, sorted by id."""

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
        """Complete prompts (text, or token ids as they are given to the model), ``batch_size`` together, streaming.

        ``speculate``: guess tokens from the text or with a smaller model; it changes the time, not what is said.
        """

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
        """A result for each shard, in order of completion; what is finished in ``folder`` is not done again.

        ``workers`` 1 is this process, more are processes with ``threads`` threads each (default 1); ``cluster`` is the
        address of a Ray cluster, or ``local``. ``progress`` is advanced by what the workers report. One run at a time uses a
        folder. Raises UsageError, what a worker raises, and RunError for a shard whose workers die again and again.
        """

    def provenance(self, plugins: Sequence[str] | None = None) -> Mapping[str, Any]:
        """For a record: ``environment`` (machine, libraries) and ``plugins`` with their code digests: those used so far, or
        those of the ids named, as far as they are installed."""
