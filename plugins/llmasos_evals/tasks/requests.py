"""From one document to the requests that a scorer answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmasos.api import InputError, Request
from llmasos_evals.tasks.config import TaskConfig
from llmasos_evals.tasks.prompts import as_text, example_turns, question_turns
from llmasos_evals.tasks.rules import Shape, TaskRules

Doc = Mapping[str, Any]


class RequestBuilder:
    """Builds the requests of one task's documents; rendered examples are kept, since many questions share them.

    ``unconditional`` asks for every choice once more without context.
    """

    def __init__(
        self,
        config: TaskConfig,
        rules: TaskRules,
        shape: Shape,
        pool: Sequence[Doc] = (),
        *,
        unconditional: bool = False,
    ) -> None:
        self.config, self.rules, self.shape, self.pool = config, rules, shape, pool
        self.unconditional = unconditional
        self._examples: dict[int, str] = {}

    def build(self, index: int, doc: Doc, target: Any, positions: Sequence[int]) -> tuple[Request, ...]:
        """The requests of document ``index`` with the examples at ``positions`` of the pool before it.

        Raises InputError naming the field that gives no text, or an empty continuation.
        """
        config, task = self.config, self.config.task
        if config.output_type == "loglikelihood_rolling":
            return (Request("loglikelihood_rolling", (task, index, 0), self._text(target, "doc_to_target")),)
        fields = self.shape.fields
        before = fields.column_or_template(self.rules.description, doc, "description") or ""
        before += "".join(self._example(position) for position in positions)
        prefix = fields.prefix(config.gen_prefix, doc)
        if config.output_type == "multiple_choice":
            return self._likelihoods(index, self._choices(doc, target, before, prefix))
        question = self._text(fields.text(self.rules.question.text, doc), "doc_to_text")
        turns = question_turns(question, target_delimiter=config.target_delimiter, prefix=prefix)
        context = before + as_text(turns)
        if config.output_type == "loglikelihood":
            return self._likelihoods(index, [(context, self._text(target, "doc_to_target"))])
        return tuple(
            Request("generate_until", (task, index, number), context, options=dict(config.generation_kwargs))
            for number in range(config.repeats)
        )

    def _choices(self, doc: Doc, target: Any, before: str, prefix: str | None) -> list[tuple[str, str]]:
        """(context, continuation) of every choice."""
        delimiter = self.config.target_delimiter
        fields, rules = self.shape.fields, self.rules.question
        choices = [self._text(choice, "doc_to_choice") for choice in fields.choice(rules.choice, doc)]
        if self.shape.choices_in_prompt:
            # Each choice completes the prompt, and what is scored is the text that follows them all (winogrande).
            pairs = [
                (
                    before + as_text(question_turns(choice, target_delimiter="", prefix=prefix)),
                    f"{delimiter}{target}",
                )
                for choice in choices
            ]
        else:
            question = self._text(fields.text(rules.text, doc), "doc_to_text")
            context = before + as_text(question_turns(question, target_delimiter=delimiter, prefix=prefix))
            pairs = [(context, delimiter + choice) for choice in choices]
        if self.unconditional:
            pairs += [("", delimiter + choice) for choice in choices]
        return pairs

    def _likelihoods(self, index: int, pairs: Sequence[tuple[str, str]]) -> tuple[Request, ...]:
        for number, (_, continuation) in enumerate(pairs):
            if not continuation:
                raise InputError(
                    f"{self.config.source}: task {self.config.task}: continuation {number} is empty, "
                    "there is nothing to score"
                )
        return tuple(
            Request("loglikelihood", (self.config.task, index, number), context, continuation)
            for number, (context, continuation) in enumerate(pairs)
        )

    def _example(self, position: int) -> str:
        """A solved example as text."""
        if position not in self._examples:
            doc, fields, rules = self.pool[position], self.shape.fields, self.rules.example
            shot = self.config.fewshot
            question = fields.text(rules.text, doc, "fewshot_config.doc_to_text")
            choices = None
            if rules.choice is not None:
                choices = fields.choice(rules.choice, doc, "fewshot_config.doc_to_choice")
            answer = fields.target(rules.target, doc, "fewshot_config.doc_to_target")
            if self.shape.choices_in_prompt and choices:
                question, choices = choices[question], None
            turns = example_turns(
                question,
                answer,
                choices,
                target_delimiter=shot.target_delimiter,
                fewshot_delimiter=shot.fewshot_delimiter,
                prefix=fields.column_or_template(shot.gen_prefix, doc, "gen_prefix"),
            )
            self._examples[position] = as_text(turns)
        return self._examples[position]

    def _text(self, value: Any, field: str) -> str:
        if not isinstance(value, str):
            raise InputError(
                f"{self.config.source}: task {self.config.task}: `{field}` gives {type(value).__name__}, not text"
            )
        return value
