"""All requests of a suite as a model gets them, and the way back from its answers to documents.

The order is that of tasks by name and of documents by number, whatever order they were asked for in, so that a plan is a
function of what is asked alone.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from llmasos.api import Request, Response
from llmasos_evals.scoring.encoding import PairEncoder, Scored
from llmasos_evals.scoring.plan import Plan, PlanSettings, plan_rows
from llmasos_evals.scoring.prompts import GenerationSettings, Prompt, PromptBook, PromptShard

if TYPE_CHECKING:
    from llmasos.api import Progress
    from llmasos_evals.records.runs import TaskRun
    from llmasos_evals.tasks.task import PlannedDocument

#: Documents whose texts go through the tokenizer together.
ENCODE_AHEAD = 256

#: The answer to a row: nats of its targets together, and whether each is the arg-max.
Scores = tuple[float, bool]
#: The answer to a prompt: the text up to the first stop string, and the ids of the tokens that were generated.
Text = tuple[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class SuiteSettings:
    """What decides the order of floating-point operations, besides the rows: see ``PlanSettings``, ``GenerationSettings``."""

    plan: PlanSettings
    generation: GenerationSettings
    stride: int | None
    seed: int


@dataclass(slots=True)
class _Document:
    """A document on its way: for each request the rows ``[first, end)``, or its prompt."""

    run: TaskRun
    planned: PlannedDocument
    spans: list[tuple[int, int]]
    prompts: list[tuple[Prompt, int]]
    missing: int


class Suite:
    """The rows and prompts of all documents of ``runs``, encoded for one model."""

    def __init__(
        self, runs: Sequence[TaskRun], encoder: PairEncoder, settings: SuiteSettings, progress: Progress
    ) -> None:
        self.settings = settings
        self._encoder = encoder
        self._book = PromptBook(encoder, settings.generation, seed=settings.seed)
        self._rows: list[Scored] = []
        self._units = array("i")
        self._owners = array("i")
        self._documents: list[_Document] = []
        self._users: dict[Prompt, list[int]] = {}
        #: Of each row: whether it is answered, nats, whether greedy.
        self._known, self._logprobs, self._greedy = bytearray(), array("d"), bytearray()
        self._texts: dict[Prompt, Text] = {}
        ordered = sorted(runs, key=lambda run: run.task.name)
        progress.phase("encoding prompts", sum(len(run.planned) for run in ordered))
        for run in ordered:
            documents = iter(run.planned)
            while batch := list(islice(documents, ENCODE_AHEAD)):
                self._encode(run, batch)
                progress.advance(len(batch))

    @property
    def requests(self) -> int:
        """Rows and prompts that are asked for, before equal ones are taken together."""
        return len(self._rows) + sum(map(len, self._users.values()))

    # ---- encoding ------------------------------------------------------------------------------------------------------

    def _encode(self, run: TaskRun, batch: Sequence[PlannedDocument]) -> None:
        requests = [request for planned in batch for request in planned.requests]
        pairs = iter(self._encoder.pairs([r for r in requests if r.kind == "loglikelihood"]))
        prompts = self._book.add([r for r in requests if r.kind == "generate_until"])
        for planned in batch:
            number = len(self._documents)
            document = _Document(run, planned, [], [], 0)
            unit = self._units[-1] + 1 if self._units else 0
            for request in planned.requests:
                first = len(self._rows)
                if request.kind == "loglikelihood":
                    self._add(next(pairs), unit, number)
                elif request.kind == "loglikelihood_rolling":
                    ids = self._encoder.text(request.context)
                    for window in self._encoder.windows(ids, stride=self.settings.stride):
                        # No window depends on another: each is a unit of its own.
                        self._add(window, self._units[-1] + 1 if self._units else 0, number)
                else:
                    prompt = next(prompts)
                    document.prompts.append(prompt)
                    self._users.setdefault(prompt[0], []).append(number)
                document.spans.append((first, len(self._rows)))
            document.missing = len(self._rows) - document.spans[0][0] if document.spans else 0
            document.missing += len(document.prompts)
            self._documents.append(document)

    def _add(self, row: Scored, unit: int, number: int) -> None:
        # An array takes a tenth of the memory of a tuple of numbers.
        self._rows.append(replace(row, ids=array("i", row.ids)))
        self._units.append(unit)
        self._owners.append(number)
        self._known.append(False)
        self._logprobs.append(0.0)
        self._greedy.append(False)

    # ---- planning ------------------------------------------------------------------------------------------------------

    def unanswered(self) -> tuple[list[int], list[Prompt]]:
        """Numbers of rows, and prompts, that documents still wait for."""
        rows = [
            number
            for number, owner in enumerate(self._owners)
            if self._documents[owner].missing and not self._known[number]
        ]
        prompts = [
            prompt
            for prompt, users in self._users.items()
            if prompt not in self._texts and any(self._documents[user].missing for user in users)
        ]
        return rows, prompts

    def key(self, number: int) -> bytes:
        """sha256 over what decides the answer to a row: its ids, and how many of them are scored.

        With ``batch_invariant`` the other rows of its unit too, since the bits of the answer may depend on them.
        """
        if not self.settings.plan.invariant:
            return self._digest(number)
        unit = self.unit(number)
        together = sorted({self._digest(other) for other in unit if self._rows[other].targets})
        return hashlib.sha256(b"".join([*together, self._digest(number)])).digest()

    def unit(self, number: int) -> range:
        """The rows that belong together with a row."""
        unit = self._units[number]
        return range(bisect_left(self._units, unit), bisect_right(self._units, unit))

    def _digest(self, number: int) -> bytes:
        row = self._rows[number]
        return hashlib.sha256(row.targets.to_bytes(4, "little") + array("i", row.ids).tobytes()).digest()

    def plan(self) -> SuitePlan:
        """What to compute: everything that is not answered from elsewhere, whether or not its document is finished."""
        numbers = [number for number, known in enumerate(self._known) if not known]
        plan = plan_rows(
            [self._rows[number] for number in numbers],
            units=[self._units[number] for number in numbers],
            settings=self.settings.plan,
        )
        return SuitePlan(plan, self._book.shards(list(self._texts)), numbers)

    # ---- answers -------------------------------------------------------------------------------------------------------

    def keep(self, finished: Mapping[str, Mapping[int, Any]]) -> None:
        """Documents (task -> numbers) that are finished already: nothing waits for them."""
        for document in self._documents:
            if document.planned.index in finished[document.run.task.name]:
                document.missing = 0

    def complete(self) -> Iterator[Finished]:
        """Documents that wait for nothing from the start: they ask nothing, or of an empty text."""
        for document in self._documents:
            if not document.missing:
                yield Finished(document.run, document.planned, self._responses(document))

    def score(self, number: int, scores: Scores) -> Finished | None:
        """Take the answer to a row; returns the document that it completes."""
        self._known[number] = True
        self._logprobs[number], self._greedy[number] = scores
        document = self._documents[self._owners[number]]
        return self._completed(document)

    def write(self, prompt: Prompt, text: Text) -> Iterator[Finished]:
        """Take the answer to a prompt; yields the documents that it completes."""
        self._texts[prompt] = text
        for user in self._users[prompt]:
            found = self._completed(self._documents[user])
            if found is not None:
                yield found

    def waits(self, number: int) -> bool:
        """Whether an unfinished document waits for a row."""
        return self._documents[self._owners[number]].missing > 0

    def waits_for(self, prompt: Prompt) -> bool:
        """Whether an unfinished document waits for a prompt."""
        return any(self._documents[user].missing for user in self._users[prompt])

    def _completed(self, document: _Document) -> Finished | None:
        if not document.missing:
            return None  # finished before the run was interrupted
        document.missing -= 1
        return (
            Finished(document.run, document.planned, self._responses(document))
            if not document.missing
            else None
        )

    def _responses(self, document: _Document) -> list[Response]:
        prompts = iter(document.prompts)
        return [
            self._written(request, *next(prompts))
            if request.kind == "generate_until"
            else self._scored(request, *span)
            for request, span in zip(document.planned.requests, document.spans, strict=True)
        ]

    def _written(self, request: Request, prompt: Prompt, truncated: int) -> Response:
        text, tokens = self._texts[prompt]
        return Response(
            request.key,
            text=text,
            tokens=len(tokens),
            truncated=truncated,
            token_ids=prompt.tokens(),
            output_ids=tuple(tokens),
        )

    def _scored(self, request: Request, first: int, end: int) -> Response:
        rows = self._rows[first:end]
        if request.kind == "loglikelihood":
            (row,) = rows
            return Response(
                request.key,
                logprob=self._logprobs[first],
                is_greedy=bool(self._greedy[first]),
                tokens=row.targets,
                truncated=row.truncated,
                unscored=row.unscored,
                token_ids=tuple(row.ids),
            )
        # Every token of the text is the target of one window, in order.
        ids = [token for row in rows for token in row.ids[len(row.ids) - row.targets :]]
        return Response(
            request.key,
            logprob=math.fsum(self._logprobs[first:end]),
            tokens=len(ids),
            token_ids=(self._encoder.require_prefix(), *ids),
        )


@dataclass(frozen=True, slots=True)
class Finished:
    """A document with the answers to all its requests."""

    run: TaskRun
    planned: PlannedDocument
    responses: list[Response]


class SuitePlan:
    """Shards of rows and of prompts; ``numbers`` are the rows of the suite that the plan is about."""

    def __init__(self, plan: Plan, prompts: Sequence[PromptShard], numbers: Sequence[int]) -> None:
        self.rows = plan
        self.prompts = prompts
        asked = np.flatnonzero(plan.row_of >= 0)
        order = asked[np.argsort(plan.row_of[asked], kind="stable")]
        #: Rows of the suite in the order of the rows of the plan, and where those of each row of the plan begin.
        self._members = np.asarray(numbers, dtype=np.int64)[order]
        self._begins = np.searchsorted(plan.row_of[order], np.arange(plan.counts.rows + 1))
        #: Rows of the suite that ask nothing of the model: certain, and greedy.
        self.empty = [numbers[i] for i in np.flatnonzero(plan.row_of < 0).tolist()]

    def asking(self, row: int) -> list[int]:
        """The rows of the suite that row ``row`` of the plan answers."""
        found: list[int] = self._members[self._begins[row] : self._begins[row + 1]].tolist()
        return found
