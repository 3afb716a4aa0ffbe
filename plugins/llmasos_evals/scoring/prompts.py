"""Prompts that are to be continued: equal ones once, in shards that the plan fixes."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llmasos.api import EvaluationError, Request
from llmasos_evals.scoring.encoding import PairEncoder
from llmasos_evals.scoring.generation import GenerationPlan, generation_plan

#: A shard has this many batches of prompts: a row that is finished makes room for the next one.
ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as ids and what to do with it. ``seed`` None where the text is a function of the prompt alone."""

    ids: bytes
    plan: GenerationPlan
    seed: int | None

    def tokens(self) -> tuple[int, ...]:
        """The ids."""
        return tuple(array("i", self.ids))

    def digest(self) -> bytes:
        """sha256 over everything that decides the text, save the model."""
        settings = json.dumps([self.plan.as_json(), self.seed], sort_keys=True)
        return hashlib.sha256(settings.encode() + b"\0" + self.ids).digest()


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """``batch`` greedy prompts are continued together. ``alone``: no prompt shares its arithmetic with another."""

    batch: int
    alone: bool = False

    def as_json(self) -> dict[str, Any]:
        """For the record and for digests."""
        return {"batch": 1 if self.alone else self.batch, "rounds": None if self.alone else ROUNDS}


@dataclass(frozen=True, slots=True)
class PromptShard:
    """Prompts with one plan, which one worker continues."""

    prompts: tuple[Prompt, ...]
    settings: GenerationSettings
    digest: str

    def __len__(self) -> int:
        return len(self.prompts)


class PromptBook:
    """Collects the prompts of a suite."""

    def __init__(self, encoder: PairEncoder, settings: GenerationSettings, *, seed: int) -> None:
        self._encoder = encoder
        self._settings = settings
        self._seed = seed
        self._prompts: set[Prompt] = set()

    def add(self, requests: Sequence[Request]) -> Iterator[tuple[Prompt, int]]:
        """(prompt, ids that did not fit and were left out on the left) of each request.

        Raises InputError for settings that make no sense, EvaluationError when they leave no room for a prompt.
        """
        for request, whole in zip(
            requests, self._encoder.encode([request.context for request in requests]), strict=True
        ):
            task = request.key[0]
            plan = generation_plan(request.options, where=f"task {task}")
            room = self._encoder.max_length - plan.max_tokens
            if room < 1:
                raise EvaluationError(
                    f"task {task} generates up to {plan.max_tokens} tokens, which leaves no room for a prompt: "
                    f"the model's context is {self._encoder.max_length} tokens",
                    hint="lower max_gen_toks in the task's generation_kwargs, or choose a model with a longer context",
                )
            ids = whole[-room:] or [self._encoder.require_prefix()]
            seed = None if plan.greedy else self._request_seed(request.key)
            prompt = Prompt(array("i", ids).tobytes(), plan, seed)
            self._prompts.add(prompt)
            yield prompt, max(0, len(whole) - room)

    def shards(self, known: Iterable[Prompt] = ()) -> list[PromptShard]:
        """Prompts with equal settings, those that begin alike next to each other, without those that are ``known``."""
        plans: dict[GenerationPlan, list[Prompt]] = {}
        for prompt in self._prompts.difference(known):
            plans.setdefault(prompt.plan, []).append(prompt)
        shards: list[PromptShard] = []
        for plan in sorted(plans, key=lambda plan: json.dumps(plan.as_json(), sort_keys=True)):
            group = sorted(plans[plan], key=lambda prompt: (prompt.ids, prompt.seed or 0))
            size = self._settings.batch * ROUNDS
            for start in range(0, len(group), size):
                prompts = tuple(group[start : start + size])
                shards.append(PromptShard(prompts, self._settings, self._digest(prompts)))
        return shards

    def _digest(self, prompts: Sequence[Prompt]) -> str:
        found = hashlib.sha256(json.dumps(self._settings.as_json(), sort_keys=True).encode())
        for prompt in prompts:
            found.update(prompt.digest())
        return found.hexdigest()

    def _request_seed(self, key: tuple[str, int, int]) -> int:
        """A seed for one sampled generation: a function of the run's seed and the request, never of what ran before."""
        text = f"{self._seed}\x1f{key[0]}\x1f{key[1]}\x1f{key[2]}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
