"""From a task's documents to planned documents: prompts with their few-shot examples, in document order."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmasos.api import InputError, LlmasosError, Request
from llmasos_evals.datasets.rows import copied
from llmasos_evals.digests import digest, plain
from llmasos_evals.tasks.chat import ChatSettings
from llmasos_evals.tasks.config import TaskConfig
from llmasos_evals.tasks.documents import Documents
from llmasos_evals.tasks.fewshot import Draw, HarnessDraw, NativeDraw, no_draw
from llmasos_evals.tasks.functions import GlobalRandomness, repeatable_randomness
from llmasos_evals.tasks.parsing import generation_settings
from llmasos_evals.tasks.requests import RequestBuilder
from llmasos_evals.tasks.rules import Shape, TaskRules


@dataclass(frozen=True, slots=True)
class PlannedDocument:
    """One document and the requests it becomes; ``doc_digest`` is the SHA-256 of the document's canonical JSON."""

    index: int
    doc: Mapping[str, Any]
    target: Any
    requests: tuple[Request, ...]
    doc_digest: str


@dataclass(frozen=True, slots=True)
class Plan:
    """How the documents of a task are to be asked: everything that changes a prompt."""

    shots: int
    seed: int
    compat: str
    chat: ChatSettings
    #: Generation settings of the user, on top of the task's.
    generation: Mapping[str, Any]
    #: Ask for every choice without its context too.
    unconditional: bool


class Planner:
    """Plans the documents of one task. ``notes`` says afterwards what the user should know about the prompts."""

    def __init__(
        self, config: TaskConfig, rules: TaskRules, shape: Shape, source: Documents, *, runs_code: bool
    ) -> None:
        self.config, self.rules, self.shape, self.source = config, rules, shape, source
        self.runs_code = runs_code
        self.notes: list[str] = []

    def documents(
        self, plan: Plan, *, limit: int | None, wanted: Collection[int] | None
    ) -> Iterator[PlannedDocument]:
        """The first ``limit`` documents, or those with the numbers ``wanted``.

        Raises InputError naming file, field and document.
        """
        config, rows = self.config, self.source.scored
        builder = RequestBuilder(
            config,
            self.rules,
            self.shape,
            self.source.pool if plan.shots else (),
            unconditional=plan.unconditional,
            chat=plan.chat,
            generation=self._generation(plan.generation),
        )
        draw = self._draw(plan)
        around = self._randomness(plan)
        end = len(rows) if limit is None else min(limit, len(rows))
        if wanted is not None:
            _within(wanted, len(rows), config)
            end = min(end, max(wanted, default=-1) + 1)
        for index in range(end):
            row = rows[index]
            doc_digest = digest(row)
            # Harness draws are a stream: whoever asks for document 7 alone must still draw for those before it.
            positions = draw(index, row, doc_digest)
            if wanted is not None and index not in wanted:
                continue
            with around(doc_digest):
                planned = self._planned(builder, index, row, doc_digest, positions)
            yield planned
        if builder.repeated:
            self.notes.append(
                f"{builder.repeated} of {end} documents have an example with the very question that is asked"
            )

    def _planned(
        self, builder: RequestBuilder, index: int, row: Mapping[str, Any], doc_digest: str, positions: Any
    ) -> PlannedDocument:
        name = self.config.task
        doc = copied(row)  # task code may change what it is given
        try:
            target = self.shape.fields.target(self.rules.question.target, doc)
            requests = builder.build(index, doc, target, positions)
        except InputError as error:
            raise InputError(f"{error.message} (document {index})", hint=error.hint) from error
        except LlmasosError:
            raise
        except (TypeError, IndexError, KeyError) as error:
            raise InputError(
                f"{self.config.source}: task {name}: document {index} makes no prompt: {error}"
            ) from error
        for request in requests:
            self._check_text(request, index)
        return PlannedDocument(index, row, plain(target), requests, doc_digest)

    def _check_text(self, request: Request, index: int) -> None:
        """Raise InputError for text that has no UTF-8: no tokenizer could encode it, and would not know whose it is."""
        for text in (request.context, request.continuation or ""):
            if text.isascii():
                continue
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InputError(
                    f"{self.config.source}: task {self.config.task}: a prompt has the lone surrogate "
                    f"U+{ord(text[error.start]):04X} (document {index})",
                    hint="half of a character pair is no text: repair the row in the data",
                ) from None

    def _generation(self, own: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if not own or self.config.output_type != "generate_until":
            return None
        given = {**(self.config.given.get("generation_kwargs") or {}), **own}
        return generation_settings(given, self.config.fewshot_delimiter, self.config.source)

    def _draw(self, plan: Plan) -> Draw:
        if plan.shots == 0:
            return no_draw
        config, pool, shot = self.config, self.source.pool, self.config.fewshot
        first = shot.sampler == "first_n"
        if plan.compat == "lm-eval":
            leave_out = shot.split == config.test_split
            return HarnessDraw(config.task, pool, plan.shots, plan.seed, first=first, leave_out=leave_out)
        return NativeDraw(
            config.task,
            pool,
            plan.shots,
            plan.seed,
            first=first,
            indices=shot.fewshot_indices,
            same_rows=self.source.pool_is_scored,
        )

    def _randomness(self, plan: Plan) -> Callable[[str], contextlib.AbstractContextManager[None]]:
        """What is around the building of each document when the task has code, which may draw random numbers.

        Natively the numbers are a function of seed, task and document, too; the harness has one stream for all.
        """
        if not self.runs_code:
            return lambda doc_digest: contextlib.nullcontext()
        if plan.compat == "lm-eval":
            stream = GlobalRandomness()
            return lambda doc_digest: stream.used()

        def seeded(doc_digest: str) -> contextlib.AbstractContextManager[None]:
            key = hashlib.sha256(f"code\0{plan.seed}\0{self.config.task}\0{doc_digest}".encode()).digest()
            return repeatable_randomness(int.from_bytes(key[:8], "big"))

        return seeded


def _within(wanted: Collection[int], total: int, config: TaskConfig) -> None:
    for index in wanted:
        if not 0 <= index < total:
            raise InputError(
                f"task {config.task} has no document {index}", hint=f"its documents are 0 to {total - 1}"
            )
