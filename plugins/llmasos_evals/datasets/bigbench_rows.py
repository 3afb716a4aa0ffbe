"""The examples of a BIG-bench ``task.json`` as rows: prompts as that benchmark makes them, right answers by number.

Format: https://github.com/google/BIG-bench/blob/main/docs/doc.md (JSON schema).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmasos.api import InputError
from llmasos_evals.datasets.readers import check_options, text_of
from llmasos_evals.datasets.rows import Rows

#: Seed with which the benchmark orders the choices that it puts into a prompt.
_SEED = 42


def read_bigbench(paths: Sequence[Path], options: Mapping[str, Any], what: str) -> Rows:
    """Rows with ``input`` (the whole prompt), ``target`` (texts, any of which will do), ``task_prefix``, and with the option
    ``kind: choice`` also ``choices``, their ``scores``, ``right``: the numbers of those that score best, and ``answer``: the
    first of these.

    Equal examples come once, as in the benchmark. Raises InputError naming file and example.
    """
    check_options(options, ("kind",), what)
    rows = [row for path in paths for row in _rows(path, options.get("kind") == "choice", what)]
    return Rows(rows, typed=True)


def _rows(path: Path, choice: bool, what: str) -> list[dict[str, Any]]:
    try:
        task = json.loads(text_of(path, what, {}))
        examples = task["examples"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{what}: {path} is no BIG-bench task with examples: {error}") from error
    made: dict[str, dict[str, Any]] = {}
    for number, example in enumerate(examples, start=1):
        where = f"{what}: {path}, example {number}"
        if not isinstance(example, dict) or not isinstance(example.get("input"), str):
            raise InputError(f"{where} has no `input`")
        key = json.dumps(example)
        if key not in made:
            made[key] = _row(task, example, choice, where)
    return list(made.values())


def _row(task: Mapping[str, Any], example: Mapping[str, Any], choice: bool, where: str) -> dict[str, Any]:
    text, target = example["input"], example.get("target")
    scores = example.get("target_scores")
    if scores is not None and not (
        isinstance(scores, dict) and scores and all(_is_number(score) for score in scores.values())
    ):
        raise InputError(f"{where}: `target_scores` is not a mapping of choices to numbers")
    if scores is not None and task.get("append_choices_to_input", True):
        prefix = task.get("choice_prefix", "\n  choice: ")
        text += prefix + prefix.join(_shuffled(sorted(scores)))
    if target is None and scores is not None:
        best = max(scores.values())
        target = next(name for name, score in scores.items() if score == best)
    if target is None:
        raise InputError(f"{where} has neither `target` nor `target_scores`")
    row: dict[str, Any] = {
        "task_prefix": str(task.get("task_prefix", "")),
        "input": task.get("example_input_prefix", "\nQ: ")
        + text
        + task.get("example_output_prefix", "\nA: "),
        "target": [str(item) for item in target] if isinstance(target, list) else [str(target)],
    }
    if choice:
        if scores is None:
            raise InputError(f"{where} has no `target_scores`")
        best = max(scores.values())
        row |= {
            "choices": list(scores),
            "scores": [float(score) for score in scores.values()],
            "right": [number for number, score in enumerate(scores.values()) if score == best],
            "answer": next(number for number, score in enumerate(scores.values()) if score == best),
        }
    return row


def _shuffled(choices: Sequence[str]) -> list[str]:
    import numpy

    order = numpy.random.RandomState(_SEED).permutation(len(choices))
    return [choices[place] for place in order]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
