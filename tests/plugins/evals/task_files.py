"""Small task files and answers for the tests of the task side."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmasos import Hub
from llmasos.api import Request, Response
from llmasos_evals.tasks.library import select
from llmasos_evals.tasks.task import PlannedDocument, Score, Task

QUESTIONS = [
    {"question": f"What is {i} + {i}?", "options": [str(i), str(2 * i)], "right": 1} for i in range(1, 21)
]
CHOICE = {
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "options",
    "doc_to_target": "right",
}
GENERATION = {
    "output_type": "generate_until",
    "test_split": "test",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{options[right]}}",
}


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_task(folder: Path, name: str = "sums", rows: Sequence[Any] | None = None, **fields: Any) -> Path:
    """A task file with its data; JSON is YAML, and ``!function`` values lose their quotes."""
    data = write_rows(folder / f"{name}.jsonl", QUESTIONS if rows is None else rows)
    config = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": data.name}},
        **fields,
    }
    text = json.dumps(config, indent=1)
    for value in _strings(config):
        if value.startswith("!function "):
            text = text.replace(json.dumps(value), value)
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _strings(item)]
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    return [value] if isinstance(value, str) else []


def load(path: Path, *, code: bool = False) -> Task:
    (task,) = select([str(path)], include=[], hub=Hub(), allow_task_code=code).tasks
    return task


def plans(
    task: Task,
    *,
    limit: int | None = None,
    shots: int | None = None,
    seed: int = 1234,
    compat: str = "native",
    **more: Any,
) -> list[PlannedDocument]:
    return list(task.plan(limit=limit, num_fewshot=shots, seed=seed, compat=compat, **more))


def run(
    task: Task, answer: Callable[[Request], Response], *, bootstrap: int = 100, **plan: Any
) -> list[Score]:
    items: dict[tuple[str, str], list[Any]] = {}
    for planned in plans(task, **plan):
        for key, item in task.items(planned, [answer(request) for request in planned.requests]).items():
            items.setdefault(key, []).append(item)
    return task.aggregate(items, bootstrap=bootstrap)


def saying(text: str) -> Callable[[Request], Response]:
    return lambda request: Response(request.key, text=text)


def nats(*by_number: float) -> Callable[[Request], Response]:
    """Log-likelihoods by request number; the largest one is greedy."""
    best = max(by_number)
    return lambda request: Response(
        request.key, logprob=by_number[request.key[2]], is_greedy=by_number[request.key[2]] == best
    )
