"""One stock task on made-up rows: what our engine asks, in a form that lm-evaluation-harness's side gives too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sketches import Sketch, value
from synthetic import SpyRows, invent

from llmasos.api import HubAPI, LlmasosError
from llmasos_evals.datasets.rows import Rows
from llmasos_evals.digests import plain
from llmasos_evals.tasks.chat import ChatSettings, chat_settings
from llmasos_evals.tasks.config import TaskConfig
from llmasos_evals.tasks.documents import Documents
from llmasos_evals.tasks.task import Task

#: Rows that are scored, and rows beyond those that examples need.
SCORED, SPARE = 3, 3
SYSTEM = "You are careful."
#: Name -> (few-shot examples beyond the file's own, chat template, examples as turns).
VARIANTS: dict[str, tuple[int | None, bool, bool]] = {
    "as_is": (None, False, False),
    "two_shots": (2, False, False),
    "chat_turns": (2, True, True),
    "chat_one_message": (2, True, False),
}


class Speaker:
    """A tokenizer whose chat template is spelled out on both sides: tags around each message."""

    chat_template = "tags"
    chat_templates: Mapping[str, str] = {}

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True
    ) -> str:
        text = "".join(f"<{message['role']}>{message['content']}</{message['role']}>" for message in messages)
        return text + ("<assistant>" if add_generation_prompt else "")


def with_rows(config: TaskConfig, splits: Mapping[str, Any]) -> TaskConfig:
    """The task with these rows instead of its own data."""
    return replace(
        config, custom_dataset=lambda **_: splits, dataset_kwargs=None, metadata=dict(config.metadata)
    )


def build(config: TaskConfig, hub: HubAPI, splits: Mapping[str, Any]) -> Task:
    return Task(with_rows(config, splits), hub, allow_task_code=True, allow_code_execution=True)


def splits_of(config: TaskConfig) -> list[str]:
    named = (config.training_split, config.validation_split, config.test_split, config.fewshot.split)
    return list(dict.fromkeys(name for name in named if name is not None))


def templates_of(config: TaskConfig) -> list[str]:
    shot = config.fewshot
    given = (
        config.doc_to_text,
        config.doc_to_target,
        config.doc_to_choice,
        config.description,
        config.gen_prefix,
        shot.doc_to_text,
        shot.doc_to_target,
        shot.doc_to_choice,
        shot.gen_prefix,
    )
    return list(dict.fromkeys(text for text in given if isinstance(text, str)))


def row_count(config: TaskConfig) -> int:
    return max(SCORED, config.num_fewshot or 0, 2) + SPARE


def sketch_for(
    config: TaskConfig, hub: HubAPI, similar: Sequence[Sketch] = ()
) -> tuple[Sketch | None, Exception | None]:
    """A sketch of rows that the task can digest, or the last error; ``similar`` are those of tasks beside it."""
    last: list[Exception] = []
    held: dict[str, Any] = {}
    try:
        task = build(config, hub, held)  # its code is loaded once for all attempts
    except LlmasosError as error:
        return None, error

    def attempt(row: Callable[[int], Any]) -> None:
        rows = SpyRows([row(number) for number in range(row_count(config))])
        held.update(dict.fromkeys(splits_of(config), rows))
        task._documents = Documents(task.config, task._rules, hub)
        task.__dict__.pop("_shape", None)
        try:
            for shots in (None, 1):
                list(task.plan(limit=2, num_fewshot=shots, seed=1, compat="lm-eval"))
        except Exception as error:
            last.append(error)
            raise

    found = None
    for start in (*similar, None):
        found = invent(
            templates_of(config),
            attempt,
            start=start,
            budget=250 if start is None else 60,
            seconds=10.0 if start is None else 3.0,
        )
        if found is not None:
            break
    return found, last[-1] if last else None


def rows_for(config: TaskConfig, sketch: Sketch) -> dict[str, list[dict[str, Any]]]:
    """Plain rows for every split; splits differ unless they are one."""
    made: dict[str, list[dict[str, Any]]] = {}
    for number, split in enumerate(splits_of(config)):
        scored = split == config.eval_split
        count = row_count(config) if split == _pool(config) or not scored else SCORED
        made[split] = json.loads(
            json.dumps([value(sketch, 100 * number + n) for n in range(count)], default=str)
        )
    return made


def _pool(config: TaskConfig) -> str | None:
    return config.fewshot.split or config.training_split or config.validation_split or config.test_split


def rendered(
    config: TaskConfig, hub: HubAPI, splits: Mapping[str, Sequence[Mapping[str, Any]]], variant: str
) -> list[list[Any]]:
    """[kind, context, continuation or generation settings] of every request; then [``target``, value] of each document."""
    task = build(config, hub, {name: Rows.from_list(rows) for name, rows in splits.items()})
    shots, chat, turns = VARIANTS[variant]
    own = config.num_fewshot or 0
    wanted = None if shots is None or own else shots
    return list(_asked(task, wanted, _chat(turns) if chat else ChatSettings()))


def _chat(turns: bool) -> ChatSettings:
    speaker: Any = Speaker()
    return chat_settings(
        speaker, apply_chat_template=True, system_instruction=SYSTEM, fewshot_as_multiturn=turns
    )


def _asked(task: Task, shots: int | None, chat: ChatSettings) -> Iterator[list[Any]]:
    for planned in task.plan(limit=SCORED, num_fewshot=shots, seed=1234, compat="lm-eval", chat=chat):
        for request in planned.requests:
            if request.kind == "generate_until":
                yield [request.kind, request.context, dict(sorted(request.options.items()))]
            elif request.kind == "loglikelihood":
                yield [request.kind, request.context, request.continuation]
            else:
                yield [request.kind, request.context]
        yield ["target", plain(planned.target)]


def digest_of(asked: Sequence[Any]) -> str:
    """SHA-256 of what was asked."""
    return hashlib.sha256(json.dumps(asked, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Job:
    """What lm-evaluation-harness's side is told: a file, its rows, and how to ask."""

    path: Path
    rows: Mapping[str, Sequence[Mapping[str, Any]]]

    def line(self, root: Path) -> str:
        inside = self.path.relative_to(root).as_posix()
        return json.dumps({"task": inside, "rows": self.rows, "scored": SCORED, "system": SYSTEM})
