"""Scoring of one run: prompts in, documents with their answers out, whoever computes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmasos.api import EvalRequest, EvaluationError, HubAPI, PreparedModel, Progress
from llmasos_evals.scoring.encoding import PairEncoder
from llmasos_evals.scoring.plan import SHARD_TOKENS, PlanSettings, Shard, default_budget
from llmasos_evals.scoring.prompts import GenerationSettings, PromptShard
from llmasos_evals.scoring.response_cache import ResponseCache
from llmasos_evals.scoring.stage import DECIDING, ModelSource, ScoringStage
from llmasos_evals.scoring.suite import Finished, Suite, SuitePlan, SuiteSettings

if TYPE_CHECKING:
    from llmasos_evals.records.runs import TaskRun


class ScoringSession:
    """How one model answers the requests of one run. Its weights are read when something must be computed."""

    def __init__(self, request: EvalRequest, prepared: PreparedModel, hub: HubAPI) -> None:
        import torch

        self._request = request
        self._prepared = prepared
        self._hub = hub
        self._encoder = PairEncoder(prepared.tokenizer, prepared.max_length)
        #: Short name of the engine, for the record.
        self.name = request.engine
        #: Threads of each worker; None on an accelerator, where they decide nothing.
        self.threads: int | None = None
        if prepared.facts["device"] == "cpu":
            own = 1 if request.batch_invariant else max(1, torch.get_num_threads() // request.workers)
            self.threads = request.threads or own
        self._settings = SuiteSettings(
            plan=PlanSettings(
                mode="reference" if request.engine == "reference" else "tree",
                invariant=request.batch_invariant,
                budget=request.token_budget or default_budget(prepared.facts["device"]),
                shard_tokens=SHARD_TOKENS,
            ),
            generation=GenerationSettings(request.batch_size, alone=request.batch_invariant),
            stride=request.stride,
            seed=request.seed,
        )
        self._tally = _Tally()
        self._said: set[str] = set()

    @property
    def prefix(self) -> int | None:
        """The token in front of an empty context."""
        return self._encoder.prefix

    def plan(self) -> dict[str, Any]:
        """What decides the order of floating-point operations, for the record."""
        return {
            **self._settings.plan.as_json(),
            "max_length": self._encoder.max_length,
            "generation": self._settings.generation.as_json(),
            # A matrix product on the CPU is split over threads, which changes the last bits of its sums.
            "threads": self.threads,
        }

    def counts(self) -> dict[str, Any]:
        """What was done, for the section ``execution`` of the record."""
        return {"threads": self.threads, **self._tally.as_json()}

    def answer(
        self,
        runs: Sequence[TaskRun],
        finished: Mapping[str, Mapping[int, Any]],
        *,
        folder: Path,
        context: str,
        origin: Mapping[str, Any],
        progress: Progress,
    ) -> Iterator[Finished]:
        """Every document of ``runs`` that is not ``finished`` (task -> numbers), as its last answer arrives.

        ``folder`` keeps the shards of an interrupted run; ``context`` is the digest of what decides the numbers. Raises what
        the model's workers raise, EvaluationError and InputError for prompts that cannot be made.
        """
        if all(len(finished[run.task.name]) == len(run.planned) for run in runs):
            return
        suite = Suite(runs, self._encoder, self._settings, progress)
        for document in suite.complete():
            if document.planned.index not in finished[document.run.task.name]:
                yield document
        suite.keep(finished)
        with self._cache(origin) as cache:
            known = _Known(suite, cache)
            yield from known.answers(self._tally)
            progress.phase("planning")
            plan = suite.plan()
            self._tally.plan(suite, plan)
            for number in plan.empty:
                if (document := suite.score(number, (0.0, True))) is not None:
                    yield document
            yield from self._computed(suite, plan, known, folder, context, origin, progress)
            if cache is not None and cache.trouble:
                progress.warn(cache.trouble)
        if suite.unanswered() != ([], []):
            raise EvaluationError(
                "requests were left unanswered", hint="this is a fault of the program; report it"
            )

    def _computed(
        self,
        suite: Suite,
        plan: SuitePlan,
        known: _Known,
        folder: Path,
        context: str,
        origin: Mapping[str, Any],
        progress: Progress,
    ) -> Iterator[Finished]:
        """Have the shards done that documents wait for."""
        shards: list[Shard | PromptShard] = [
            shard
            for shard in plan.rows.shards
            if any(
                suite.waits(number)
                for row in range(shard.first, shard.first + len(shard))
                for number in plan.asking(row)
            )
        ]
        shards += [
            shard for shard in plan.prompts if any(suite.waits_for(prompt) for prompt in shard.prompts)
        ]
        if not shards:
            return
        facts = self._prepared.facts
        source = ModelSource(
            self._request.model,
            self._request.device,
            self._request.dtype,
            self._request.allow_pickle,
            {name: facts[name] for name in DECIDING},
            {
                "plugins": {plugin["id"]: plugin["digest"] for plugin in self._computing(origin)},
                "libraries": origin["environment"]["libraries"],
            },
            self._prepared,
        )
        stage = ScoringStage(source, self._settings.plan, context=context, threads=self.threads)
        progress.phase("scoring", sum(map(len, shards)))
        with _threads_restored():
            results = self._hub.run_stage(
                stage,
                shards,
                folder=folder,
                workers=self._request.workers,
                cluster=self._request.ray,
                threads=self.threads or 1,
                progress=progress,
            )
            for result in results:
                shard, answers = shards[result.index], result.facts["answers"]
                for note in set(result.facts["notes"]) - self._said:
                    self._said.add(note)
                    progress.warn(note)
                self._tally.shards_reused += result.reused
                if result.reused:
                    progress.advance(len(shard))
                if isinstance(shard, PromptShard):
                    yield from known.written(shard, answers)
                else:
                    yield from known.scored(plan, shard, answers)

    def _computing(self, origin: Mapping[str, Any]) -> list[Mapping[str, str]]:
        """The plugins that compute with the model, as a record names them."""
        facts = self._prepared.facts
        named = [facts["loader"], facts["architecture"], facts["backend"], facts["tokenizer"]["format"]]
        owners = {name.partition("/")[0] for name in [*named, *facts["ops"].values()]}
        return [plugin for plugin in origin["plugins"] if plugin["id"] in owners]

    @contextmanager
    def _cache(self, origin: Mapping[str, Any]) -> Iterator[ResponseCache | None]:
        if not self._request.cache:
            yield None
            return
        facts = self._prepared.facts
        own = [plugin for plugin in origin["plugins"] if plugin["id"] == "llmasos-evals"]
        context = {
            "model": {name: facts[name] for name in DECIDING},
            "plan": self.plan(),
            "plugins": [*self._computing(origin), *own],
            "libraries": origin["environment"]["libraries"],
            "machine": [origin["environment"][name] for name in ("processor", "accelerators")],
        }
        with ResponseCache(self._hub.cache_dir / "evals" / "responses", context) as cache:
            yield cache


class _Known:
    """Answers on their way to documents and, where there is one, into the response cache."""

    def __init__(self, suite: Suite, cache: ResponseCache | None) -> None:
        self._suite = suite
        self._cache = cache

    def answers(self, tally: _Tally) -> Iterator[Finished]:
        """Documents that are complete with what the cache knows."""
        if self._cache is None:
            return
        numbers, prompts = self._suite.unanswered()
        keys = {number: self._suite.key(number) for number in numbers}
        answers = self._cache.get(list(keys.values()))
        known = {number: answers[key] for number, key in keys.items() if _is(answers.get(key), float, bool)}
        for number, (logprob, greedy) in known.items():
            # What is left of a unit is computed as a whole or not at all: its rows share their arithmetic.
            if all(other in known or other not in keys for other in self._suite.unit(number)):
                tally.cached += 1
                if (document := self._suite.score(number, (logprob, greedy))) is not None:
                    yield document
        digests = [prompt.digest() for prompt in prompts]
        written = self._cache.get(digests)
        for prompt, digest in zip(prompts, digests, strict=True):
            answer = written.get(digest)
            if _is(answer, str, list):
                tally.cached += 1
                yield from self._suite.write(prompt, (answer[0], answer[1]))

    def scored(self, plan: SuitePlan, shard: Shard, answers: Sequence[Sequence[Any]]) -> Iterator[Finished]:
        """Documents that the answers to a shard of rows complete."""
        new: list[tuple[bytes, Any]] = []
        for row, (logprob, greedy) in enumerate(answers, start=shard.first):
            asking = plan.asking(row)
            if self._cache is not None:
                new.append((self._suite.key(asking[0]), [float(logprob), greedy]))
            for number in asking:
                if (document := self._suite.score(number, (logprob, greedy))) is not None:
                    yield document
        if self._cache is not None:
            self._cache.put(new)

    def written(self, shard: PromptShard, answers: Sequence[Sequence[Any]]) -> Iterator[Finished]:
        """Documents that the answers to a shard of prompts complete."""
        if self._cache is not None:
            self._cache.put(
                (prompt.digest(), answer) for prompt, answer in zip(shard.prompts, answers, strict=True)
            )
        for prompt, (text, tokens) in zip(shard.prompts, answers, strict=True):
            yield from self._suite.write(prompt, (text, tokens))


@dataclass(slots=True)
class _Tally:
    """Counts for the record; None where nothing had to be planned."""

    planned: dict[str, int] = field(default_factory=dict)
    shards_reused: int = 0
    cached: int = 0

    def plan(self, suite: Suite, plan: SuitePlan) -> None:
        """What a plan comes to."""
        counts = plan.rows.counts
        planned = {
            "requests": suite.requests,
            "unique_requests": counts.rows + sum(map(len, plan.prompts)),
            "tokens_computed": counts.tokens,
            "ideal_tokens": counts.ideal_tokens,
            "logit_rows": counts.logit_rows,
            "ideal_logit_rows": counts.ideal_logit_rows,
            "shards": len(plan.rows.shards) + len(plan.prompts),
        }
        # A run that samples documents plans twice.
        self.planned = {name: self.planned.get(name, 0) + number for name, number in planned.items()}

    def as_json(self) -> dict[str, int]:
        """Fields of ``ExecutionSection``."""
        if not self.planned:
            return {}
        return {**self.planned, "shards_reused": self.shards_reused, "cached_requests": self.cached}


def _is(answer: Any, *types: type) -> bool:
    """Whether what the cache holds is an answer."""
    return isinstance(answer, list) and [type(part) for part in answer] == list(types)


@contextmanager
def _threads_restored() -> Iterator[None]:
    """A worker in this process may change how many threads torch uses."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
