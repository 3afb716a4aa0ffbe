"""Scoring as a stage: shards of rows and of prompts, answered by whichever process has loaded the model."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmasos.api import EvaluationError, HubAPI, LoadedModel, PreparedModel, Report, canonical_digest
from llmasos_evals.scoring.budgets import BudgetMemory
from llmasos_evals.scoring.plan import PlanSettings, Shard
from llmasos_evals.scoring.prompts import PromptShard

#: Progress is reported at most this often (seconds).
REPORT_INTERVAL = 0.2
#: Facts of a loaded model that decide its numbers.
DECIDING = ("files", "tokenizer", "architecture", "backend", "device", "dtype", "ops")


@dataclass(frozen=True)
class ModelSource:
    """How a worker comes by the model. ``facts`` are those that the model must have, ``around`` the digests of plugins and the
    versions of libraries that compute; ``prepared`` stays in its process."""

    ref: str
    device: str
    dtype: str
    allow_pickle: bool
    facts: Mapping[str, Any]
    around: Mapping[str, Mapping[str, str]]
    prepared: PreparedModel | None = None

    def load(self, hub: HubAPI) -> LoadedModel:
        """The model. Raises EvaluationError when what is here is another one than where the run began."""
        if self.prepared is not None:
            return self.prepared.load()
        loaded = hub.load_model(
            self.ref, device=self.device, dtype=self.dtype, allow_pickle=self.allow_pickle
        )
        self._check(loaded.facts, self.facts)
        origin = hub.provenance()
        plugins = {plugin["id"]: plugin["digest"] for plugin in origin["plugins"]}
        for kind, found in (("plugins", plugins), ("libraries", origin["environment"]["libraries"])):
            self._check(found, self.around[kind])
        return loaded

    def _check(self, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        for name, value in expected.items():
            if found.get(name) != value:
                raise EvaluationError(
                    f"a worker has another {name} for {self.ref} than the process that began the run",
                    hint="all machines need the same files, plugins and libraries",
                )


class ScoringStage:
    """Answers shards with one model. ``context`` is the digest of everything outside a shard that decides its answers."""

    name = "scoring"

    def __init__(
        self, source: ModelSource, settings: PlanSettings, *, context: str, threads: int | None
    ) -> None:
        self.gpus = 0 if source.facts["device"] == "cpu" else 1
        self._source = source
        self._settings = settings
        self._context = context
        self._threads = threads

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_source": replace(self._source, prepared=None)}

    def key(self, shard: Shard | PromptShard) -> str:
        """By content: the place of a shard in the plan does not count."""
        return canonical_digest([self._context, shard.digest])

    def open(self, hub: HubAPI, report: Report) -> ScoringWorker:
        """Load the model."""
        import torch

        if self._threads is not None and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        return ScoringWorker(self._source.load(hub), hub, self._settings, _Meter(report))


class ScoringWorker:
    """The model of one process."""

    def __init__(self, loaded: LoadedModel, hub: HubAPI, settings: PlanSettings, meter: _Meter) -> None:
        from llmasos_evals.scoring.engine import open_engine

        self._loaded = loaded
        self._hub = hub
        self._meter = meter
        #: What the user should know, once a run.
        self._notes: list[str] = []
        self._memory = None
        if loaded.facts["device"] != "cpu":
            self._memory = BudgetMemory(hub.cache_dir, loaded.facts)
        self._budget = None if self._memory is None else self._memory.known()
        self._engine = open_engine(loaded.model, settings, budget=self._budget, warn=self._notes.append)
        self._budget = getattr(self._engine, "budget", None)

    def run(self, shard: Shard | PromptShard, folder: Path) -> dict[str, Any]:
        """``answers`` in the order of the shard: [nats, whether greedy] of each row, or [text, token ids] of each prompt."""
        found = dict(self._written(shard) if isinstance(shard, PromptShard) else self._scored(shard))
        self._meter.flush()
        if len(found) != len(shard):
            raise EvaluationError(
                f"engine {self._engine.name} answered {len(found)} of {len(shard)} requests",
                hint="this is a fault of the program; --engine reference may do without it",
            )
        self._remember_budget()
        return {"answers": [found[place] for place in range(len(shard))], "notes": self._notes}

    def _remember_budget(self) -> None:
        """An engine that ran out of memory takes fewer tokens at a time from then on; so will the next run."""
        budget = getattr(self._engine, "budget", None)
        if self._memory is not None and budget is not None and budget != self._budget:
            self._memory.remember(budget)
            self._budget = budget

    def _scored(self, shard: Shard) -> Iterator[tuple[int, list[Any]]]:
        for answer in self._engine.run(shard):
            self._meter.count()
            yield answer.row - shard.first, [answer.logprob, answer.is_greedy]

    def _written(self, shard: PromptShard) -> Iterator[tuple[int, list[Any]]]:
        alone = shard.settings.alone or not shard.prompts[0].plan.greedy
        step = 1 if alone else len(shard)
        for start in range(0, len(shard), step):
            group = shard.prompts[start : start + step]
            plan = group[0].plan
            chunks = self._hub.generate(
                self._loaded,
                [prompt.tokens() for prompt in group],
                plan.sampling(seed=group[0].seed or 0),
                batch_size=1 if alone else shard.settings.batch,
                share_prefixes=not shard.settings.alone,
                # The same tokens in fewer passes: answers repeat much of their examples.
                speculate=None if alone or plan.num_beams > 1 else "lookup",
            )
            for chunk in chunks:
                if chunk.done is not None:
                    self._meter.count()
                    yield start + chunk.index, [plan.cut(chunk.done.text), list(chunk.done.tokens)]


class _Meter:
    """Counts answers and reports them now and then."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._unsaid = 0
        self._said = time.monotonic()

    def count(self) -> None:
        """One more."""
        self._unsaid += 1
        if time.monotonic() - self._said >= REPORT_INTERVAL:
            self.flush()

    def flush(self) -> None:
        """Say what was not said."""
        self._report(self._unsaid)
        self._unsaid, self._said = 0, time.monotonic()
