"""A tiny model, three small tasks and a run of them through the command line, for tests of what comes afterwards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmasos import Hub
from llmasos.api import canonical_json, merkle_root
from llmasos.cli.main import run as llmasos
from llmasos.pipelines.evaluate import Silence
from llmasos.testing.checkpoints import write_checkpoint
from llmasos_evals.evaluator import aggregate_runs, plan_tasks, select_tasks
from llmasos_evals.records.reading import open_run
from llmasos_evals.records.record import sealed
from llmasos_evals.records.replay import request_of
from llmasos_evals.records.rescoring import scored_again
from llmasos_evals.records.results import group_sections
from llmasos_evals.records.store import RECORD_FILE, samples_name, write_json

Change = Callable[[dict[str, Any]], None]

CHOICE = """
task: colours
dataset_path: json
dataset_kwargs: {data_files: {test: colours.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: [red, green, blue]
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
metadata: {version: 2}
"""
STORY = """
task: story
dataset_path: json
dataset_kwargs: {data_files: {test: story.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{end}}"
generation_kwargs: {until: ["!"], max_gen_toks: 6}
metric_list: [{metric: exact_match}]
metadata: {version: 1}
"""
PROSE = """
task: prose
dataset_path: json
dataset_kwargs: {data_files: {test: prose.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{page}}"
metadata: {version: 1}
"""
SUITE = """
group: everything
task: [colours, story, prose]
aggregate_metric_list: [{metric: acc}]
metadata: {version: 1}
"""


def write_rows(path: Path, rows: Sequence[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_tasks(folder: Path, *, colours: int = 20) -> Path:
    """The task files and their data."""
    folder.mkdir(parents=True)
    for name, text in {"colours": CHOICE, "story": STORY, "prose": PROSE, "everything": SUITE}.items():
        (folder / f"{name}.yaml").write_text(text)
    write_rows(
        folder / "colours.jsonl", [{"question": f"Question {n}:", "answer": n % 3} for n in range(colours)]
    )
    write_rows(folder / "story.jsonl", [{"prompt": f"once {n}", "end": "x"} for n in range(6)])
    write_rows(folder / "prose.jsonl", [{"page": "A dark and stormy night. " * n} for n in range(1, 5)])
    return folder


def write_world(root: Path, *flags: str, colours: int = 20) -> Path:
    """``model``, ``tasks`` and a finished run in ``run``."""
    write_checkpoint(root / "model", "llama")
    write_tasks(root / "tasks", colours=colours)
    code = llmasos(
        [
            "eval",
            str(root / "model"),
            "everything",
            "--include",
            str(root / "tasks"),
            "--output",
            str(root / "run"),
            "--bootstrap",
            "50",
            "--quiet",
            *flags,
        ]
    )
    assert code == 0
    return root


def forge(root: Path, folder: Path, altered: Mapping[str, Sequence[int]], change: Change) -> Path:
    """A copy of the run in which ``change`` was applied to the answers of some documents, and everything that follows from
    them was computed anew: metric items, scores, counts, Merkle roots, digest. What an attacker who knows the program does."""
    shutil.copytree(root / "run", folder)
    run = open_run(folder, fresh=True)
    request = request_of(run.record, include=(root / "tasks",))
    with Hub() as hub:
        selection = select_tasks(request, hub)
        plans = plan_tasks(selection, request, Silence())
        for plan in plans:
            for planned in plan.planned:
                stored = run.sample(plan.task.name, planned.index)
                if planned.index in altered.get(plan.task.name, ()):
                    change(stored)
                    stored = scored_again(plan, planned, stored)
                plan.samples[planned.index] = stored
        tallies, scores = aggregate_runs(plans, request.bootstrap, Silence(), request.compat)
        record = dict(run.record)
        record["groups"] = group_sections(selection, scores)
    record["tasks"] = [
        {**section, **tallies[section["name"]].section(scores[section["name"]])}
        for section in record["tasks"]
    ]
    for plan in plans:
        lines = b"".join(canonical_json(sample) + b"\n" for sample in plan.ordered)
        (folder / samples_name(plan.task.name)).write_bytes(lines)
    return reseal(folder, record)


def reseal(folder: Path, record: dict) -> Path:
    """Write a record whose digests fit it."""
    record["samples_digest"] = merkle_root([task["samples_digest"] for task in record["tasks"]])
    record["prompt_digest"] = merkle_root([task["prompt_digest"] for task in record["tasks"]])
    write_json(folder / RECORD_FILE, sealed(record))
    return folder


def right_answer_wins(sample: dict) -> None:
    """The log-likelihood of the best choice goes to the right one."""
    answers = sample["responses"]
    best = max(range(len(answers)), key=lambda n: answers[n]["logprob"])
    gold = sample["target"] if sample["target"] != best else (best + 1) % len(answers)
    answers[best]["logprob"], answers[gold]["logprob"] = answers[gold]["logprob"], answers[best]["logprob"]
