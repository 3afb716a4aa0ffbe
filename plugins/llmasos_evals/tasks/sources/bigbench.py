"""BIG-bench tasks: ``task.json``, alone or with subtasks in folders beside it.

A task becomes a choice task, a generation task, or both, by the metrics it names; the one that its ``preferred_score``
belongs to has the task's name, the other ``NAME:text`` or ``NAME:choice``. Metrics that need another model (bleurt) or
that nobody else uses are left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from llmasos.api import InputError
from llmasos_evals.tasks.sources.members import Member
from llmasos_evals.tasks.summary import Summary, one_line

FILE = "task.json"
#: Keys of the format; a JSON object with several of them near its beginning is a task.
_MARKS = (b'"canary"', b'"description"', b'"keywords"', b'"metrics"', b'"preferred_score"', b'"examples"')
_HEAD = 64 * 2**10
MAX_BYTES = 512 * 2**20
#: A task without examples of its own is a page of text.
_CONTAINER_BYTES = 2**20

Kind = Literal["choice", "text"]
_CHOICE: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "multiple_choice_grade": ({"metric": "multiple_choice_grade"}, {"metric": "acc"})
}
_TEXT: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "exact_str_match": ({"metric": "exact_match"},),
    "case_insensitive_str_match": ({"metric": "exact_match", "ignore_case": True},),
    "bleu": ({"metric": "bleu"},),
    "rouge": ({"metric": "rouge1"}, {"metric": "rouge2"}, {"metric": "rougeLsum"}),
}
#: What an answer is when a task says neither how it ends nor what it looks like.
_ANSWER = r"[^\.\?\!\;\n]+"
_LONGEST = 64


def summaries(path: str) -> list[Summary]:
    """The tasks and groups of a file; none when it is no BIG-bench task. Raises InputError for one that is broken."""
    if not _looks_like_one(path):
        return []
    task = _load(Path(path))
    if "examples" not in task:
        name = str(task["name"])
        return [Summary(name, "group", tags=(), description=one_line(str(task.get("description", ""))))]
    found = []
    for name, kind in _names(Path(path), task):
        found.append(
            Summary(
                name,
                "task",
                output_type="multiple_choice" if kind == "choice" else "generate_until",
                dataset_path="bigbench",
                num_fewshot=0,
                tags=_tags(task),
                description=one_line(str(task.get("description", ""))),
            )
        )
    return found


def fields(path: Path, name: str | None) -> dict[str, Any]:
    """The fields of a task or group. Raises InputError."""
    task = _load(path)
    if "examples" not in task:
        return _group(path, task)
    names = _names(path, task)
    kinds = dict(names)
    if name is not None and name not in kinds:
        raise InputError(f"{path} has no task {name!r}", hint=f"it has: {', '.join(kinds)}")
    name = name or names[0][0]
    return _task(path, task, name, kinds[name])


def _looks_like_one(path: str) -> bool:
    try:
        if os.path.getsize(path) > MAX_BYTES:
            return False
        with open(path, "rb") as handle:
            head = handle.read(_HEAD)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return head.lstrip()[:1] == b"{" and sum(mark in head for mark in _MARKS) >= 3


def _load(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: larger than {MAX_BYTES // 2**20} MiB")
        task = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a BIG-bench task: {error}") from error
    if not isinstance(task, dict) or not isinstance(task.get("name"), str) or not task["name"].strip():
        raise InputError(f"{path}: a BIG-bench task is an object with a `name`")
    if "examples" in task and not isinstance(task["examples"], list):
        raise InputError(f"{path}: `examples` must be a list")
    metrics = task.get("metrics", [])
    if not isinstance(metrics, list) or not all(isinstance(metric, str) for metric in metrics):
        raise InputError(f"{path}: `metrics` must be a list of names")
    for key in (
        "example_input_prefix",
        "example_output_prefix",
        "choice_prefix",
        "few_shot_example_separator",
    ):
        if not isinstance(task.get(key, ""), str):
            raise InputError(f"{path}: `{key}` must be text")
    return task


def _names(path: Path, task: Mapping[str, Any]) -> list[tuple[str, Kind]]:
    """Names and kinds of the tasks of a file, the preferred one first. Raises InputError when no metric is known."""
    metrics = task.get("metrics", [])
    kinds: list[Kind] = []
    if any(metric in _CHOICE for metric in metrics):
        kinds.append("choice")
    if any(metric in _TEXT for metric in metrics):
        kinds.append("text")
    if not kinds:
        raise InputError(
            f"{path}: none of the metrics of BIG-bench task {task['name']} is supported: {', '.join(metrics) or 'none'}",
            hint=f"supported: {', '.join((*_CHOICE, *_TEXT))}",
        )
    if len(kinds) == 2 and task.get("preferred_score") not in _CHOICE:
        kinds.reverse()
    base = _full_name(path, task)
    return [(base if place == 0 else f"{base}:{kind}", kind) for place, kind in enumerate(kinds)]


def _full_name(path: Path, task: Mapping[str, Any]) -> str:
    """``PARENT:NAME`` for a task in a folder of one that has no examples of its own."""
    own = str(task["name"]).strip()
    above = path.parent.parent / FILE
    try:
        if path.name != FILE or above.stat().st_size > _CONTAINER_BYTES or not _looks_like_one(str(above)):
            return own
        parent = _load(above)
    except (OSError, InputError):
        return own
    return own if "examples" in parent else f"{str(parent['name']).strip()}:{own}"


def _tags(task: Mapping[str, Any]) -> tuple[str, ...]:
    keywords = task.get("keywords")
    given = [word for word in keywords if isinstance(word, str)] if isinstance(keywords, list) else []
    return ("bigbench", *given)


def _task(path: Path, task: Mapping[str, Any], name: str, kind: Kind) -> dict[str, Any]:
    known = _CHOICE if kind == "choice" else _TEXT
    metrics = sorted(
        (metric for metric in dict.fromkeys(task["metrics"]) if metric in known),
        key=lambda metric: not str(task.get("preferred_score")).startswith(metric),
    )
    made: dict[str, Any] = {
        "task": name,
        "tag": list(_tags(task)),
        "dataset_path": "bigbench",
        "dataset_kwargs": {"data_files": {"test": str(path)}, "kind": kind},
        "test_split": "test",
        "fewshot_split": "test",
        "description": "{{task_prefix}}",
        "doc_to_text": "input",
        "target_delimiter": "",
        "fewshot_delimiter": str(task.get("few_shot_example_separator", "\n")),
        "num_fewshot": 0,
        "metric_list": [dict(entry) for metric in metrics for entry in known[metric]],
        "metadata": {"version": "bigbench", "description": one_line(str(task.get("description", "")))},
    }
    left_out = [metric for metric in task["metrics"] if metric not in (*_CHOICE, *_TEXT)]
    if left_out:
        made["metadata"]["metrics_left_out"] = left_out
    if kind == "choice":
        return made | {
            "output_type": "multiple_choice",
            "doc_to_choice": "choices",
            "doc_to_target": "right",
            "fewshot_config": {"doc_to_target": "answer"},
        }
    stop, pattern = task.get("stop_string"), task.get("output_regex")
    if stop is None and pattern is None:
        pattern = _ANSWER
    steps: list[dict[str, Any]] = [{"function": "take_first"}]
    if pattern:
        steps.insert(0, {"function": "regex", "regex_pattern": str(pattern), "fallback": ""})
    # Where the next question would begin, nothing of the answer can follow.
    next_one = str(task.get("example_input_prefix", "\nQ: ")).rstrip()
    return made | {
        "output_type": "generate_until",
        "doc_to_target": "target",
        "generation_kwargs": {
            "until": [str(stop)] if stop else [next_one] if next_one else [],
            "max_gen_toks": _LONGEST,
            "do_sample": False,
        },
        "filter_list": [{"name": "none", "filter": steps}],
    }


def _group(path: Path, task: Mapping[str, Any]) -> dict[str, Any]:
    """Subtasks are the tasks in the folders beside the file; their scores are averaged, each counting the same."""
    members: list[Member] = []
    metrics: dict[str, None] = {}
    for inner in sorted(path.parent.glob(f"*/{FILE}")):
        below = _load(inner)
        if "examples" not in below:
            continue
        try:
            (name, kind), *_ = _names(inner, below)
        except InputError:
            continue
        members.append(Member(inner, name))
        metrics.update(
            dict.fromkeys(entry["metric"] for entry in _task(inner, below, name, kind)["metric_list"])
        )
    if not members:
        raise InputError(
            f"{path}: BIG-bench task {task['name']} has neither examples nor subtasks that are supported"
        )
    return {
        "group": str(task["name"]).strip(),
        "task": members,
        "aggregate_metric_list": [{"metric": metric, "weight_by_size": False} for metric in metrics],
        "metadata": {"version": "bigbench"},
    }
