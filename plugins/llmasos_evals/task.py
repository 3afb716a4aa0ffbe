"""A task: its documents, the requests each becomes, and what the answers are worth.

``plan`` -> requests -> (a scorer) -> responses -> ``items`` -> ``aggregate``. Everything a task does is a function of
its file, its data, the seed and the arguments; ``digest``, ``data_digest`` and ``code`` say which ones those were.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from llmasos.api import (
    ChoiceOutcome,
    EvaluationError,
    GenerationOutcome,
    HubAPI,
    InputError,
    LikelihoodOutcome,
    Outcome,
    Request,
    Response,
    RollingOutcome,
)
from llmasos_evals.config import TaskConfig, digest_input
from llmasos_evals.datasets import Rows, open_data
from llmasos_evals.digests import digest, digest_rows, plain
from llmasos_evals.fewshot import Draw, HarnessDraw, NativeDraw, no_draw
from llmasos_evals.filters import build_pipeline
from llmasos_evals.functions import TaskCode, repeatable_randomness
from llmasos_evals.measures import FunctionMetric, Measure, TaskMetric, bind
from llmasos_evals.metrics.likelihood import ties
from llmasos_evals.prompts import Turn, as_text, example_turns, question_turns
from llmasos_evals.templates import Fields


@dataclass(frozen=True, slots=True)
class PlannedDocument:
    """One document and the requests it becomes; ``doc_digest`` is the SHA-256 of the document's canonical JSON."""

    index: int
    doc: Mapping[str, Any]
    target: Any
    requests: tuple[Request, ...]
    doc_digest: str


@dataclass(frozen=True, slots=True)
class Score:
    """A value of a task or group. ``n`` documents went into it; ``signature`` says exactly what was computed."""

    metric: str
    filter: str
    value: float
    stderr: float | None
    n: int
    higher_is_better: bool
    signature: str


class Task:
    """A task file brought to life. Reads no data before it is asked for some.

    Raises at construction what can be known from the file alone: InputError, UsageError (task code not allowed),
    UnknownName (metric), MissingDependency (a metric's library).
    """

    def __init__(self, config: TaskConfig, hub: HubAPI, *, allow_task_code: bool = False) -> None:
        self.config = config
        self.name = config.task
        self.alias = config.task_alias or config.task
        self.version = str(config.metadata.get("version", "unversioned"))
        self.output_type = config.output_type
        self.num_fewshot = config.num_fewshot or 0
        note = config.metadata.get("attribution")
        self.attribution: str | None = None if note is None else str(note)

        code = TaskCode(self.name, allowed=allow_task_code)
        self._rules = {
            name: code.resolve(getattr(config, name))
            for name in (
                "process_docs",
                "doc_to_text",
                "doc_to_target",
                "doc_to_choice",
                "process_results",
                "description",
            )
        }
        shot = config.fewshot
        self._shot_rules = {
            name: code.resolve(getattr(shot, name))
            for name in ("process_docs", "samples", "doc_to_text", "doc_to_target", "doc_to_choice")
        }
        self._pipelines = [
            build_pipeline(
                type(spec)(spec.name, tuple((step, code.resolve(dict(o))) for step, o in spec.steps)),
                config.source,
            )
            for spec in config.filter_list
        ]
        self._measures, remarks = bind(config, code, hub)
        #: Lines the user should see, for example metric options without effect.
        self.remarks: tuple[str, ...] = tuple(remarks)
        #: File -> SHA-256 of the Python files whose functions the task uses.
        self.code: Mapping[str, str] = dict(code.digests)
        #: SHA-256 of everything in the file that can change a number, and of the code.
        self.digest = digest(digest_input(config, self.code))

        self._data = open_data(self.name, config.dataset_path, config.dataset_kwargs, config.source)
        self._processed: dict[tuple[str, bool], Rows] = {}
        self._pool_rows: Sequence[Mapping[str, Any]] | None = None
        self._data_digest: str | None = None
        self._shape: _Shape | None = None
        self._check_templates()

    # ---- data ---------------------------------------------------------------------------------------------------

    def size(self) -> int:
        """Documents that would be scored without a limit."""
        return len(self._documents())

    @property
    def data_digest(self) -> str:
        """SHA-256 over the canonical rows of the scored split and of the few-shot pool, as they lie in the files."""
        if self._data_digest is None:
            parts: dict[str, Any] = {"eval": self._data.split(self.config.eval_split)}
            split, samples = self._pool_source()
            if samples is not None:
                parts["fewshot"] = samples
            elif self._data.has(split):
                parts["fewshot"] = self._data.split(split)
            self._data_digest = digest_rows(parts)
        return self._data_digest

    def shots(self, num_fewshot: int | None, compat: str = "native") -> int:
        """Few-shot examples a prompt will get. The harness lets nobody override a 0 in the task file; we do."""
        if num_fewshot is None or (compat == "lm-eval" and self.config.num_fewshot == 0):
            return self.num_fewshot
        return num_fewshot

    def _documents(self) -> Rows:
        rows = self._split(self.config.eval_split, shots=False)
        if not len(rows):
            raise InputError(f"task {self.name}: split {self.config.eval_split!r} has no documents")
        return rows

    def _split(self, name: str, *, shots: bool) -> Rows:
        """A split after ``process_docs``, which few-shot examples may have another of."""
        key = (name, shots)
        if key not in self._processed:
            rows = self._data.split(name)
            process = (self._shot_rules if shots else self._rules)["process_docs"]
            if process is not None:
                with repeatable_randomness():
                    made = process(rows)
                rows = made if isinstance(made, Rows) else Rows(made)
            self._processed[key] = rows
        return self._processed[key]

    def _pool_source(self) -> tuple[str | None, Any]:
        """The split few-shot examples come from, or the rows themselves."""
        shot, config = self.config.fewshot, self.config
        if shot.split is not None:
            return shot.split, None
        samples = self._shot_rules["samples"]
        if samples is not None:
            return None, list(samples() if callable(samples) else samples)
        return config.training_split or config.validation_split or config.test_split, None

    def _pool(self) -> Sequence[Mapping[str, Any]]:
        if self._pool_rows is None:
            split, samples = self._pool_source()
            if samples is not None:
                self._pool_rows = samples
            else:
                own = self.config.fewshot.split is not None
                self._pool_rows = self._split(str(split), shots=own)
        return self._pool_rows

    # ---- plan ---------------------------------------------------------------------------------------------------

    def plan(
        self, *, limit: int | None, num_fewshot: int | None, seed: int, compat: str
    ) -> Iterator[PlannedDocument]:
        """Documents in file order with their requests; request numbers count from 0 within a document.

        multiple_choice: one ``loglikelihood`` a choice (and one more each without context for ``acc_mutual_info``);
        generate_until: ``repeats`` equal requests. Raises InputError naming file, field and document.
        """
        shape = self._shape_of()
        draw = self._draw(self.shots(num_fewshot, compat), seed, compat)
        examples: dict[int, str] = {}
        for index, doc in enumerate(islice(self._documents(), limit)):
            doc_digest = digest(doc)
            try:
                target = shape.fields.target(self._rules["doc_to_target"], doc)
                requests = self._requests(index, doc, target, draw(doc, doc_digest), examples, shape)
            except InputError as error:
                raise InputError(f"{error.message} (document {index})", hint=error.hint) from error
            except (TypeError, IndexError, KeyError) as error:
                raise InputError(
                    f"{self.config.source}: task {self.name}: document {index} makes no prompt: {error}"
                ) from error
            yield PlannedDocument(index, doc, plain(target), requests, doc_digest)

    def _requests(
        self,
        index: int,
        doc: Mapping[str, Any],
        target: Any,
        positions: Sequence[int],
        examples: dict[int, str],
        shape: _Shape,
    ) -> tuple[Request, ...]:
        config, fields = self.config, shape.fields
        if self.output_type == "loglikelihood_rolling":
            return (
                Request("loglikelihood_rolling", (self.name, index, 0), self._text(target, "doc_to_target")),
            )

        before = fields.column_or_template(self._rules["description"], doc, "description") or ""
        for position in positions:
            if position not in examples:
                examples[position] = as_text(self._example(self._pool()[position], shape))
            before += examples[position]
        prefix = fields.prefix(config.gen_prefix, doc)
        question = fields.text(self._rules["doc_to_text"], doc)

        if self.output_type == "multiple_choice":
            choices = [
                self._text(choice, "doc_to_choice")
                for choice in fields.choice(self._rules["doc_to_choice"], doc)
            ]
            if shape.choices_in_prompt:
                # winogrande: each choice completes the prompt, and what is scored is the text that follows them all
                contexts = [
                    as_text(question_turns(choice, target_delimiter="", prefix=prefix)) for choice in choices
                ]
                continuations = [config.target_delimiter + str(target)] * len(choices)
            else:
                text = self._text(question, "doc_to_text")
                turns = question_turns(text, target_delimiter=config.target_delimiter, prefix=prefix)
                contexts = [as_text(turns)] * len(choices)
                continuations = [config.target_delimiter + choice for choice in choices]
            pairs = [
                (before + context, continuation)
                for context, continuation in zip(contexts, continuations, strict=True)
            ]
            if "acc_mutual_info" in self._measures:
                pairs += [("", config.target_delimiter + choice) for choice in choices]
        else:
            turns = question_turns(
                self._text(question, "doc_to_text"), target_delimiter=config.target_delimiter, prefix=prefix
            )
            context = before + as_text(turns)
            if self.output_type == "generate_until":
                options = dict(config.generation_kwargs)
                return tuple(
                    Request("generate_until", (self.name, index, number), context, options=options)
                    for number in range(config.repeats)
                )
            pairs = [(context, self._text(target, "doc_to_target"))]
        for number, (_, continuation) in enumerate(pairs):
            if not continuation:
                raise InputError(
                    f"{config.source}: task {self.name}: continuation {number} is empty, there is nothing to score"
                )
        return tuple(
            Request("loglikelihood", (self.name, index, number), context, continuation)
            for number, (context, continuation) in enumerate(pairs)
        )

    def _example(self, doc: Mapping[str, Any], shape: _Shape) -> list[Turn]:
        rules, shot = self._shot_rules, self.config.fewshot
        question = shape.fields.text(rules["doc_to_text"], doc, "fewshot_config.doc_to_text")
        choices = None
        if rules["doc_to_choice"] is not None:
            choices = shape.fields.choice(rules["doc_to_choice"], doc, "fewshot_config.doc_to_choice")
        answer = shape.fields.target(rules["doc_to_target"], doc, "fewshot_config.doc_to_target")
        if shape.choices_in_prompt and choices:
            question, choices = choices[question], None
        return example_turns(
            question,
            answer,
            choices,
            target_delimiter=shot.target_delimiter,
            fewshot_delimiter=shot.fewshot_delimiter,
            prefix=shape.fields.column_or_template(shot.gen_prefix, doc, "gen_prefix"),
        )

    def _draw(self, shots: int, seed: int, compat: str) -> Draw:
        if shots == 0 or self.output_type == "loglikelihood_rolling":
            return no_draw
        pool, shot = self._pool(), self.config.fewshot
        if not len(pool):
            raise InputError(f"task {self.name}: the few-shot pool is empty")
        first = shot.sampler == "first_n"
        if compat == "lm-eval":
            leave_out = shot.split == self.config.test_split
            return HarnessDraw(self.name, pool, shots, seed, first=first, leave_out=leave_out)
        return NativeDraw(self.name, pool, shots, seed, first=first, indices=shot.fewshot_indices)

    def _shape_of(self) -> _Shape:
        """What the first document says about all of them, as in the harness."""
        if self._shape is None:
            rows = self._documents()
            fields = Fields(
                self.name,
                self.config.source,
                rows.column_names,
                choices=self.config.doc_to_choice is not None,
            )
            question = fields.text(self._rules["doc_to_text"], rows[0])
            target = fields.target(self._rules["doc_to_target"], rows[0])
            choices_in_prompt = self.config.doc_to_choice is not None and isinstance(question, int)
            self._shape = _Shape(fields, choices_in_prompt, isinstance(target, list))
        return self._shape

    def _text(self, value: Any, field: str) -> str:
        if not isinstance(value, str):
            raise InputError(
                f"{self.config.source}: task {self.name}: `{field}` gives {type(value).__name__}, not text"
            )
        return value

    def _check_templates(self) -> None:
        fields = Fields(self.name, self.config.source, (), choices=False)
        for name in ("doc_to_text", "doc_to_target", "doc_to_choice", "description"):
            fields.check(self._rules[name], name)
        for name in ("doc_to_text", "doc_to_target", "doc_to_choice"):
            fields.check(self._shot_rules[name], f"fewshot_config.{name}")
        fields.check(self.config.gen_prefix, "gen_prefix")

    # ---- score --------------------------------------------------------------------------------------------------

    def items(self, planned: PlannedDocument, responses: Sequence[Response]) -> dict[tuple[str, str], Any]:
        """What one document contributes to each (metric, filter). ``responses`` answer all its requests, in any order.

        The values are JSON values. Raises EvaluationError when a response lacks what its kind must have.
        """
        answers = self._answers(planned, responses)
        out: dict[tuple[str, str], Any] = {}
        for pipeline in self._pipelines:
            if self.output_type == "generate_until":
                results = [pipeline(answers, planned.doc)]
            else:
                results = [pipeline([answer], planned.doc) for answer in answers]
            for name, value in self._contributions(planned, results).items():
                out[name, pipeline.name] = plain(value)
        return out

    def aggregate(self, items: Mapping[tuple[str, str], Sequence[Any]], *, bootstrap: int) -> list[Score]:
        """Scores from the items of all documents, in the order of ``items``. ``bootstrap`` 0 leaves out standard errors."""
        scores = []
        for (name, pipeline), values in items.items():
            measure = self._measure(name)
            scores.append(
                Score(
                    metric=name,
                    filter=pipeline,
                    value=measure.aggregate(values),
                    stderr=measure.stderr(values, bootstrap),
                    n=len(values),
                    higher_is_better=measure.higher_is_better,
                    signature=measure.signature,
                )
            )
        return scores

    def observe(self, planned: PlannedDocument, responses: Sequence[Response]) -> dict[str, int]:
        """Things worth counting over a task: ``ties`` for the best choice, labels that name no choice."""
        if self.output_type != "multiple_choice":
            return {}
        outcome = self._outcome(planned, self._answers(planned, responses))
        if not isinstance(outcome, ChoiceOutcome):
            return {}
        outside = any(not 0 <= gold < len(outcome.choices) for gold in outcome.gold)
        return {"ties": int(ties(outcome)), "labels_out_of_range": int(outside)}

    def _measure(self, name: str) -> Measure:
        """The measure of a name; names that only the task's code knows are averaged, as in the harness."""
        if name in self._measures:
            return self._measures[name]
        for measure in self._measures.values():
            if isinstance(
                measure.metric, FunctionMetric
            ):  # it returned several values; they share its aggregation
                return Measure(
                    name,
                    TaskMetric(name, measure.metric.aggregation),
                    measure.higher_is_better,
                    measure.aggregation,
                )
        return Measure(name, TaskMetric(name), higher_is_better=True)

    def _contributions(self, planned: PlannedDocument, results: list[Any]) -> Mapping[str, Any]:
        process = self._rules["process_results"]
        if process is not None:
            made = process(dict(planned.doc), results)
            if not isinstance(made, Mapping):
                raise EvaluationError(f"task {self.name}: process_results must return a mapping of metrics")
            return made
        outcome = self._outcome(planned, results)
        out: dict[str, Any] = {}
        for name, measure in self._measures.items():
            value = measure.metric.item(outcome)
            out.update(value if isinstance(value, Mapping) else {name: value})
        return out

    def _answers(self, planned: PlannedDocument, responses: Sequence[Response]) -> list[Any]:
        """Plain answers in the order of the requests: text, nats, or (nats, is_greedy)."""
        by_key = {response.key: response for response in responses}
        answers: list[Any] = []
        for request in planned.requests:
            response = by_key.get(request.key)
            if response is None:
                raise EvaluationError(f"task {self.name}: no answer to request {request.key}")
            if request.kind == "generate_until":
                value: Any = response.text
            elif request.kind == "loglikelihood_rolling":
                value = response.logprob
            else:
                both = (response.logprob, response.is_greedy)
                value = None if None in both else both
            if value is None:
                raise EvaluationError(
                    f"task {self.name}: the answer to request {request.key} lacks its value"
                )
            answers.append(value)
        return answers

    def _outcome(self, planned: PlannedDocument, results: list[Any]) -> Outcome:
        if self.output_type == "loglikelihood":
            return LikelihoodOutcome(*results[0])
        if self.output_type == "loglikelihood_rolling":
            return RollingOutcome(results[0], str(planned.target))
        shape = self._shape_of()
        if self.output_type == "multiple_choice":
            return self._choice_outcome(planned, results, shape)
        gold, prediction = planned.target, results[0]
        if self._rules["doc_to_choice"] is not None:
            gold = shape.fields.choice(self._rules["doc_to_choice"], planned.doc)[gold]
        references = gold if isinstance(gold, list) else [gold]
        return GenerationOutcome(
            prediction, tuple(str(reference) for reference in references), shape.multiple
        )

    def _choice_outcome(self, planned: PlannedDocument, results: list[Any], shape: _Shape) -> ChoiceOutcome:
        choices = shape.fields.choice(self._rules["doc_to_choice"], planned.doc)
        gold = planned.target
        if shape.choices_in_prompt:
            gold = shape.fields.text(self._rules["doc_to_text"], planned.doc)
        golds = gold if isinstance(gold, list) else [gold]
        numbers = tuple(self._number(value, choices, planned.index) for value in golds)
        logprobs = tuple(float(nats) for nats, _ in results)
        return ChoiceOutcome(
            logprobs=logprobs[: len(choices)],
            greedy=tuple(bool(greedy) for _, greedy in results[: len(choices)]),
            choices=tuple(choices),
            gold=numbers,
            multiple=shape.multiple,
            unconditional=logprobs[len(choices) :],
        )

    def _number(self, gold: Any, choices: Sequence[str], index: int) -> int:
        """The number of the choice a label names, -100 when it names none (which scores 0, as in the harness)."""
        if isinstance(gold, str):
            return choices.index(gold) if gold in choices else -100
        if isinstance(gold, int) or (isinstance(gold, float) and gold.is_integer()):
            return int(gold) if gold < len(choices) else -100
        raise EvaluationError(
            f"task {self.name}: document {index} has no right choice: its target is {gold!r}",
            hint="`doc_to_target` gives the number or the text of a choice",
        )


@dataclass(frozen=True, slots=True)
class _Shape:
    """Decided by a task's first document."""

    fields: Fields
    #: The choices are in the prompt and the continuation is shared.
    choices_in_prompt: bool
    #: Several right answers a document.
    multiple: bool
