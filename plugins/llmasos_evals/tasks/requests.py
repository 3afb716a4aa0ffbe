"""From one document to the requests that a scorer answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmasos.api import InputError, Request
from llmasos_evals.datasets.rows import copied
from llmasos_evals.tasks.chat import PLAIN, ChatSettings
from llmasos_evals.tasks.config import TaskConfig
from llmasos_evals.tasks.prompts import Turn, example_turns, joined, question_turns
from llmasos_evals.tasks.rules import Shape, TaskRules

Doc = Mapping[str, Any]


class RequestBuilder:
    """Builds the requests of one task's documents; rendered examples are kept, since many questions share them.

    ``unconditional`` asks for every choice once more without context. ``generation`` replaces the task's settings.
    """

    def __init__(
        self,
        config: TaskConfig,
        rules: TaskRules,
        shape: Shape,
        pool: Sequence[Doc] = (),
        *,
        unconditional: bool = False,
        chat: ChatSettings = PLAIN,
        generation: Mapping[str, Any] | None = None,
    ) -> None:
        self.config, self.rules, self.shape, self.pool = config, rules, shape, pool
        self.unconditional = unconditional
        self.chat = chat
        self.generation = config.generation_kwargs if generation is None else generation
        #: Documents with an example that asks the very same question.
        self.repeated = 0
        self._examples: dict[int, list[Turn]] = {}

    def build(self, index: int, doc: Doc, target: Any, positions: Sequence[int]) -> tuple[Request, ...]:
        """The requests of document ``index`` with the examples at ``positions`` of the pool before it.

        Raises InputError naming the field that gives no text, or an empty continuation.
        """
        config, task = self.config, self.config.task
        if config.output_type == "loglikelihood_rolling":
            return (Request("loglikelihood_rolling", (task, index, 0), self._text(target, "doc_to_target")),)
        fields = self.shape.fields
        description = fields.column_or_template(self.rules.description, doc, "description")
        system = joined(self.chat.system_instruction, description or "", config.fewshot_delimiter)
        before = [Turn("system", system)] if system else []
        for position in positions:
            before += self.example(position)
        prefix = fields.prefix(config.gen_prefix, doc)
        if config.output_type == "multiple_choice":
            return self._likelihoods(index, self._choices(doc, target, before, prefix, positions))
        question = self._text(fields.text(self.rules.question.text, doc), "doc_to_text")
        self._note_repetition(question, positions)
        context = self._context(before, question, config.target_delimiter, prefix)
        if config.output_type == "loglikelihood":
            return self._likelihoods(index, [(context, self._text(target, "doc_to_target"))])
        return tuple(
            Request("generate_until", (task, index, number), context, options=dict(self.generation))
            for number in range(config.repeats)
        )

    def example(self, position: int) -> list[Turn]:
        """The solved example at ``position`` of the pool."""
        if position not in self._examples:
            doc, fields, rules = copied(self.pool[position]), self.shape.fields, self.rules.example
            shot = self.config.fewshot
            question = fields.text(rules.text, doc, "fewshot_config.doc_to_text")
            choices = None
            if rules.choice is not None:
                choices = fields.choice(rules.choice, doc, "fewshot_config.doc_to_choice")
            answer = fields.target(rules.target, doc, "fewshot_config.doc_to_target")
            if self.shape.choices_in_prompt and choices:
                question, choices = choices[question], None
            self._examples[position] = example_turns(
                question,
                answer,
                choices,
                target_delimiter=shot.target_delimiter,
                fewshot_delimiter=shot.fewshot_delimiter,
                prefix=fields.column_or_template(shot.gen_prefix, doc, "gen_prefix"),
            )
        return self._examples[position]

    def _context(self, before: Sequence[Turn], question: str, delimiter: str, prefix: str | None) -> str:
        turns = [*before, *question_turns(question, target_delimiter=delimiter, prefix=prefix)]
        return self.chat.render(turns, open_answer=bool(prefix))

    def _choices(
        self, doc: Doc, target: Any, before: Sequence[Turn], prefix: str | None, positions: Sequence[int]
    ) -> list[tuple[str, str]]:
        """(context, continuation) of every choice."""
        config, fields, rules = self.config, self.shape.fields, self.rules.question
        delimiter = config.target_delimiter
        if self.chat.applied and (not config.gen_prefix or config.gen_prefix[-1].isspace()):
            delimiter = ""  # the template ends where the answer begins
        choices = fields.choice(rules.choice, doc)
        if self.shape.choices_in_prompt:
            # Each choice completes the prompt, and what is scored is the text that follows them all (winogrande).
            texts = [self._text(choice, "doc_to_choice") for choice in choices]
            pairs = [(self._context(before, text, "", prefix), f"{delimiter}{target}") for text in texts]
        else:
            question = self._text(fields.text(rules.text, doc), "doc_to_text")
            self._note_repetition(question, positions)
            context = self._context(before, question, config.target_delimiter, prefix)
            pairs = [(context, f"{delimiter}{choice}") for choice in choices]
        if self.unconditional:
            pairs += [("", f"{delimiter}{choice}") for choice in choices]
        return pairs

    def _note_repetition(self, question: str, positions: Sequence[int]) -> None:
        asked = [self._examples[position][0].content for position in positions]
        # Some tasks ask every document the same: then equal questions say nothing.
        if question in asked and any(other != question for other in asked):
            self.repeated += 1

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

    def _text(self, value: Any, field: str) -> str:
        if not isinstance(value, str):
            raise InputError(
                f"{self.config.source}: task {self.config.task}: `{field}` gives {type(value).__name__}, not text"
            )
        return value
