"""A task's rules with their functions resolved, and what its first document says about all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmasos_evals.datasets.rows import Rows
from llmasos_evals.tasks.config import TaskConfig
from llmasos_evals.tasks.functions import TaskCode
from llmasos_evals.tasks.templates import Fields


@dataclass(frozen=True, slots=True)
class Rules:
    """How a document becomes prompt, answer and choices: templates, column names, values or callables."""

    text: Any
    target: Any
    choice: Any
    process_docs: Any


@dataclass(frozen=True, slots=True)
class TaskRules:
    """The rules of a task for questions and for few-shot examples."""

    question: Rules
    example: Rules
    description: Any
    process_results: Any
    #: Rows, or a function that gives them.
    samples: Any
    #: A function that gives the splits, or None.
    custom_dataset: Any = None


@dataclass(frozen=True, slots=True)
class Shape:
    """Decided by a task's first document for all of them, as in lm-evaluation-harness."""

    fields: Fields
    #: The choices are in the prompt and the continuation is shared.
    choices_in_prompt: bool
    #: Several right answers a document.
    multiple: bool


def resolve_rules(config: TaskConfig, code: TaskCode) -> TaskRules:
    """The rules of a file. Raises what ``TaskCode.resolve`` raises, and InputError for a malformed template."""

    def rules(source: Any) -> Rules:
        return Rules(
            text=code.resolve(source.doc_to_text),
            target=code.resolve(source.doc_to_target),
            choice=code.resolve(source.doc_to_choice),
            process_docs=code.resolve(source.process_docs),
        )

    made = TaskRules(
        question=rules(config),
        example=rules(config.fewshot),
        description=code.resolve(config.description),
        process_results=code.resolve(config.process_results),
        samples=code.resolve(config.fewshot.samples),
        custom_dataset=code.resolve(config.custom_dataset),
    )
    fields = Fields(config.task, config.source, (), choices=False)
    for prefix, checked in (("", made.question), ("fewshot_config.", made.example)):
        for name, rule in (
            ("doc_to_text", checked.text),
            ("doc_to_target", checked.target),
            ("doc_to_choice", checked.choice),
        ):
            fields.check(rule, prefix + name)
    fields.check(made.description, "description")
    fields.check(config.gen_prefix, "gen_prefix")
    fields.check(config.fewshot.gen_prefix, "fewshot_config.gen_prefix")
    return made


def shape_of(config: TaskConfig, rules: TaskRules, rows: Rows) -> Shape:
    """Look at the first row. ``rows`` is not empty."""
    fields = Fields(config.task, config.source, rows.column_names, choices=config.doc_to_choice is not None)
    question = fields.text(rules.question.text, rows[0])
    target = fields.target(rules.question.target, rows[0])
    choices_in_prompt = config.doc_to_choice is not None and isinstance(question, int)
    return Shape(fields, choices_in_prompt, isinstance(target, list))
