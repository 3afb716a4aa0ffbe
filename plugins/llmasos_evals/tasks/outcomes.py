"""From the responses to one document's requests to what it came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmasos.api import (
    ChoiceOutcome,
    EvaluationError,
    GenerationOutcome,
    LikelihoodOutcome,
    Outcome,
    Request,
    Response,
    RollingOutcome,
)
from llmasos_evals.tasks.rules import Rules, Shape

#: What a label that names no choice counts as; it scores 0, as in lm-evaluation-harness.
NO_CHOICE = -100


def plain_answers(requests: Sequence[Request], responses: Sequence[Response]) -> list[Any]:
    """Answers in the order of the requests: text, nats, or (nats, is_greedy).

    Raises EvaluationError for a request without an answer, or an answer without its value.
    """
    by_key = {response.key: response for response in responses}
    answers: list[Any] = []
    for request in requests:
        response = by_key.get(request.key)
        if response is None:
            raise EvaluationError(f"task {request.key[0]}: no answer to request {request.key}")
        if request.kind == "generate_until":
            value: Any = response.text
        elif request.kind == "loglikelihood_rolling":
            value = response.logprob
        else:
            both = (response.logprob, response.is_greedy)
            value = None if None in both else both
        if value is None:
            raise EvaluationError(
                f"task {request.key[0]}: the answer to request {request.key} lacks its value"
            )
        answers.append(value)
    return answers


def outcome_of(
    output_type: str,
    rules: Rules,
    shape: Shape,
    doc: Mapping[str, Any],
    target: Any,
    answers: Sequence[Any],
    tokens: int = 0,
) -> Outcome:
    """What a document came to. ``answers`` are filtered: one a request, for generations one in all.

    ``tokens`` counts what was scored of the document.

    Raises EvaluationError for a document without a right choice.
    """
    if output_type == "loglikelihood":
        return LikelihoodOutcome(*answers[0], tokens=tokens)
    if output_type == "loglikelihood_rolling":
        return RollingOutcome(answers[0], str(target), tokens)
    if output_type == "multiple_choice":
        return _choice(rules, shape, doc, target, answers)
    if rules.choice is not None:
        target = shape.fields.choice(rules.choice, doc)[target]
    references = target if isinstance(target, list) else [target]
    return GenerationOutcome(
        answers[0], tuple(str(reference) for reference in references), shape.multiple, doc
    )


def _choice(
    rules: Rules, shape: Shape, doc: Mapping[str, Any], target: Any, answers: Sequence[Any]
) -> ChoiceOutcome:
    choices = shape.fields.choice(rules.choice, doc)
    gold = shape.fields.text(rules.text, doc) if shape.choices_in_prompt else target
    golds = gold if isinstance(gold, list) else [gold]
    logprobs = tuple(float(nats) for nats, _ in answers)
    return ChoiceOutcome(
        logprobs=logprobs[: len(choices)],
        greedy=tuple(bool(greedy) for _, greedy in answers[: len(choices)]),
        choices=tuple(choices),
        gold=tuple(_number(value, choices, shape.fields.task) for value in golds),
        multiple=shape.multiple,
        unconditional=logprobs[len(choices) :],
        doc=doc,
    )


def _number(gold: Any, choices: Sequence[str], task: str) -> int:
    """The number of the choice that a label names."""
    if isinstance(gold, str):
        return choices.index(gold) if gold in choices else NO_CHOICE
    if isinstance(gold, int) or (isinstance(gold, float) and gold.is_integer()):
        return int(gold) if gold < len(choices) else NO_CHOICE
    raise EvaluationError(
        f"task {task}: a document has no right choice: its target is {gold!r}",
        hint="`doc_to_target` gives the number or the text of a choice",
    )
