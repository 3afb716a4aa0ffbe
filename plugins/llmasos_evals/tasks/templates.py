"""Templates: turning a document into text, target and choices.

Jinja in a sandbox that counts what a template does, compiled once a template: rendering is then a hundred times cheaper than
compiling, which is what a runner that compiles for every document spends its time on.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from llmasos.api import EvaluationError, InputError
from llmasos_evals.patience import Patience
from llmasos_evals.tasks.metering import MeteredEnvironment, MeteredTemplate, TemplateTooCostly

#: Longer ones are in no task anybody published.
MAX_TEMPLATE = 1 << 18


def _regex_replace(string: str, pattern: str, repl: str, count: int = 0) -> str:
    with Patience("regex_replace"):
        return re.sub(pattern, repl, string, count=count)


@lru_cache(maxsize=1)
def _environment() -> MeteredEnvironment:
    env = MeteredEnvironment()
    env.filters["regex_replace"] = _regex_replace
    env.meter_filters()
    return env


@lru_cache(maxsize=4096)
def compiled(template: str) -> MeteredTemplate:
    """The template, compiled once a process. Raises jinja2.TemplateError."""
    if len(template) > MAX_TEMPLATE:
        raise TemplateTooCostly(f"it is {len(template)} characters long, more than {MAX_TEMPLATE}")
    return _environment().compile_metered(template)


class Fields:
    """The ``doc_to_*`` rules of one task.

    ``columns`` are the columns of the data that is scored: a field that is exactly a column's name gives the raw value,
    anything else is a template. ``choices`` says whether the task has ``doc_to_choice``, which makes rendered digits
    numbers. Rules as in lm-evaluation-harness 0.4.13, ``api/task.py``.
    """

    def __init__(self, task: str, source: Path, columns: Collection[str], *, choices: bool) -> None:
        self.task = task
        self.source = source
        self.columns = frozenset(columns)
        self.choices = choices

    def text(self, rule: Any, doc: Mapping[str, Any], field: str = "doc_to_text") -> Any:
        """The prompt of a document; a number when the task puts its choices into the prompt (winogrande); None for no rule."""
        if rule is None or isinstance(rule, int):
            return rule
        if callable(rule):
            return rule(doc)
        if rule in self.columns:
            return doc[rule]
        rendered = self.render(rule, doc, field)
        if self.choices and rendered.isdigit():
            return self._literal(rendered, field)
        return rendered

    def target(self, rule: Any, doc: Mapping[str, Any], field: str = "doc_to_target") -> Any:
        """The right answer: text, the number of a choice, a list of either when any will do; None for no rule."""
        if rule is None or isinstance(rule, int | list):
            return rule
        if callable(rule):
            return rule(doc)
        if rule in self.columns:
            return doc[rule]
        rendered = self.render(rule, doc, field)
        if self.choices and rendered.isdigit():
            return self._literal(rendered, field)
        if len(rendered) >= 2 and rendered[0] == "[" and rendered[-1] == "]":
            try:
                return ast.literal_eval(rendered)
            except (SyntaxError, ValueError):
                return rendered
        return rendered

    def choice(self, rule: Any, doc: Mapping[str, Any], field: str = "doc_to_choice") -> list[Any]:
        """The choices of a document."""
        if callable(rule):
            value = rule(doc)
        elif isinstance(rule, list):
            value = rule
        elif isinstance(rule, Mapping):
            value = list(rule.values())
        elif rule in self.columns:
            value = doc[rule]
        else:
            value = self._literal(self.render(rule, doc, field), field)
        if not isinstance(value, list | tuple) or not value:
            raise InputError(
                f"{self.source}: task {self.task}: `{field}` must give a list of choices, not {value!r}"
            )
        return list(value)

    def prefix(self, rule: str | None, doc: Mapping[str, Any], field: str = "gen_prefix") -> str | None:
        """The start of the answer that the prompt already contains."""
        if rule is None:
            return None
        return doc[rule] if rule in self.columns else self.render(rule, doc, field)

    def column_or_template(self, rule: Any, doc: Mapping[str, Any], field: str) -> str | None:
        """As ``prefix``, but looks for the column in the document itself; None for an empty rule."""
        if not rule:
            return None
        value = rule(doc) if callable(rule) else doc[rule] if rule in doc else self.render(rule, doc, field)
        return None if value is None else str(value)

    def check(self, rule: Any, field: str) -> None:
        """Compile a template so that a syntax error is found before the run. Raises InputError."""
        if isinstance(rule, str):
            try:
                compiled(rule)
            except TemplateError as error:
                raise InputError(f"{self.source}: `{field}` is not a valid template: {error}") from error

    def render(self, template: str, doc: Mapping[str, Any], field: str) -> str:
        """The template over the document's columns. Raises InputError naming file, field and cause."""
        try:
            return compiled(template).render(doc)
        except EvaluationError as error:
            raise EvaluationError(
                f"{self.source}: task {self.task}: `{field}`: {error.message}", hint=error.hint
            ) from error
        except TemplateTooCostly as error:
            raise InputError(
                f"{self.source}: task {self.task}: `{field}` is refused: {error}",
                hint="a template puts the columns of a document together; long work belongs into `process_docs`",
            ) from error
        except Exception as error:  # templates may raise anything Python can
            raise InputError(
                f"{self.source}: task {self.task}: `{field}` cannot be rendered: {type(error).__name__}: {error}",
                hint="the document has the columns " + ", ".join(sorted(map(str, doc))),
            ) from error

    def _literal(self, rendered: str, field: str) -> Any:
        try:
            return ast.literal_eval(rendered)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise InputError(
                f"{self.source}: task {self.task}: `{field}` should render to a Python literal, it gave {rendered[:80]!r}"
            ) from error
