"""BIG-bench files: names, prompts, right answers, scores, subtasks, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from task_files import nats, plans, run, saying

from llmasos import Hub
from llmasos.api import InputError, UnknownName
from llmasos_evals.tasks.groups import Group
from llmasos_evals.tasks.index import open_index
from llmasos_evals.tasks.library import Selection, select
from llmasos_evals.tasks.task import Task

HEAD = {
    "canary": "x",
    "name": "beasts",
    "description": "Know your\nbeasts",
    "keywords": ["zoology", "animals"],
}
CHOICES = {
    **HEAD,
    "metrics": ["multiple_choice_grade"],
    "preferred_score": "multiple_choice_grade",
    "task_prefix": "About beasts.",
    "examples": [
        {"input": "A cat says", "target_scores": {"woof": 0, "meow": 1, "moo": 0}},
        {"input": "A dog is", "target_scores": {"big": 0.5, "tame": 1.0, "blue": 0.0}},
        {"input": "A cat says", "target_scores": {"woof": 0, "meow": 1, "moo": 0}},
    ],
}
TEXTS = {
    **HEAD,
    "metrics": ["exact_str_match", "rouge", "bleurt"],
    "preferred_score": "rougeLsum",
    "example_input_prefix": "\nIn: ",
    "example_output_prefix": "\nOut: ",
    "few_shot_example_separator": "\n---",
    "examples": [
        {"input": "cat", "target": "meow"},
        {"input": "dog", "target": ["woof", "bow wow"]},
        {"input": "cow", "target": "moo"},
    ],
}


def write(folder: Path, task: Any, name: str = "task.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(task), encoding="utf-8")
    return path


def find(*names: str | Path, include: tuple[Path, ...] = ()) -> Selection:
    return select(
        [str(name) for name in names], include=include, hub=Hub(offline=True), allow_task_code=False
    )


def only(path: Path) -> Task:
    (task,) = find(path).tasks
    return task


def test_choices_are_asked_as_the_benchmark_asks_them(tmp_path: Path) -> None:
    task = only(write(tmp_path, CHOICES))
    assert (task.name, task.output_type, task.size()) == ("beasts", "multiple_choice", 2)
    first, second = plans(task)
    # The choices stand in the prompt in the order of NumPy's RandomState(42), and are scored in that of the file.
    assert first.requests[0].context == (
        "About beasts.\nQ: A cat says\n  choice: meow\n  choice: moo\n  choice: woof\nA: "
    )
    assert [request.continuation for request in first.requests] == ["woof", "meow", "moo"]
    assert (first.target, second.target) == ([1], [1])
    scores = {score.metric: score.value for score in run(task, nats(-1.0, -2.0, -3.0))}
    assert scores == {"multiple_choice_grade": 0.25, "acc": 0.0}
    assert {score.metric: score.value for score in run(task, nats(-2.0, -1.0, -3.0))} == {
        "multiple_choice_grade": 1.0,
        "acc": 1.0,
    }


def test_choices_stay_out_of_the_prompt_when_the_task_says_so(tmp_path: Path) -> None:
    task = only(write(tmp_path, {**CHOICES, "append_choices_to_input": False, "task_prefix": ""}))
    assert plans(task)[0].requests[0].context == "\nQ: A cat says\nA: "


def test_few_shot_examples_have_the_separator_and_an_answer(tmp_path: Path) -> None:
    choice = only(write(tmp_path / "c", CHOICES))
    text = plans(choice, shots=1)[0].requests[0].context
    assert text.startswith("About beasts.\nQ: A dog is\n  choice: ")
    assert text.endswith("\nA: tame\n\nQ: A cat says\n  choice: meow\n  choice: moo\n  choice: woof\nA: ")
    generate = only(write(tmp_path / "t", TEXTS))
    for planned in plans(generate, shots=2):
        shots = planned.requests[0].context.split("\n---")
        assert len(shots) == 3
        assert shots[-1] == f"\nIn: {planned.doc['input'][5:-6]}\nOut: "
        assert all(shot.rpartition("\nOut: ")[2] in ("meow", "woof", "moo") for shot in shots[:-1])


def test_texts_are_generated_and_cut(tmp_path: Path) -> None:
    task = only(write(tmp_path, TEXTS))
    request = plans(task)[1].requests[0]
    assert (request.context, request.options["until"]) == ("\nIn: dog\nOut: ", ["\nIn:"])
    assert [spec.name for spec in task.config.metric_list] == ["rouge1", "rouge2", "rougeLsum", "exact_match"]
    assert task.config.metadata["metrics_left_out"] == ["bleurt"]
    # Without stop_string and output_regex an answer ends with the sentence or the line.
    scores = {score.metric: score.value for score in run(task, saying("bow wow. And more"))}
    assert scores["exact_match"] == pytest.approx(1 / 3)
    stopped = only(write(tmp_path / "s", {**TEXTS, "stop_string": "#"}))
    assert plans(stopped)[0].requests[0].options["until"] == ["#"]
    assert {s.metric: s.value for s in run(stopped, saying("moo"))}["exact_match"] == pytest.approx(1 / 3)
    shaped = only(write(tmp_path / "r", {**TEXTS, "output_regex": "m[a-z]+"}))
    assert {s.metric: s.value for s in run(shaped, saying("it says moo!"))}["exact_match"] == pytest.approx(
        1 / 3
    )


def test_both_kinds_are_two_tasks(tmp_path: Path) -> None:
    examples = [{**CHOICES["examples"][0], "target": "meow"}]
    both = {**CHOICES, "metrics": ["exact_str_match", "multiple_choice_grade"], "examples": examples}
    write(tmp_path, both)
    names = [(e.name, e.kind) for found in open_index(tmp_path, None).by_name.values() for e in found]
    assert names == [
        ("beasts", "task"),
        ("beasts:text", "task"),
        *((t, "tag") for t in ("animals", "bigbench", "zoology")),
    ]
    assert [task.output_type for task in find("beasts", "beasts:text", include=(tmp_path,)).tasks] == [
        "multiple_choice",
        "generate_until",
    ]
    write(tmp_path, {**both, "preferred_score": "exact_str_match"})
    assert find("beasts", include=(tmp_path,)).tasks[0].output_type == "generate_until"
    assert find("beasts:choice", include=(tmp_path,)).tasks[0].output_type == "multiple_choice"


def test_subtasks_are_a_group(tmp_path: Path) -> None:
    write(tmp_path / "beasts", HEAD)
    write(tmp_path / "beasts" / "sounds", {**CHOICES, "name": "sounds"})
    write(tmp_path / "beasts" / "looks", {**CHOICES, "name": "looks"})
    write(tmp_path / "beasts" / "odd", {**TEXTS, "name": "odd", "metrics": ["bleurt"]})
    for selection in (find(tmp_path / "beasts"), find("beasts", include=(tmp_path,))):
        assert [task.name for task in selection.tasks] == ["beasts:looks", "beasts:sounds"]
        (group,) = selection.groups
        assert isinstance(group, Group)
        assert [(rule.metric, rule.weight_by_size) for rule in group.rules] == [
            ("multiple_choice_grade", False),
            ("acc", False),
        ]
    assert find("beasts:sounds", include=(tmp_path,)).tasks[0].size() == 2
    with pytest.raises(UnknownName, match="beasts:odd"):
        find("beasts:odd", include=(tmp_path,))


def test_data_that_only_looks_like_it_is_no_task(tmp_path: Path) -> None:
    write(tmp_path, [CHOICES], "list.json")
    write(tmp_path, {"name": "x", "rows": []}, "other.json")
    (tmp_path / "broken.json").write_text(json.dumps(CHOICES)[:-1])
    index = open_index(tmp_path, None)
    assert dict(index.by_name) == {}
    assert [Path(path).name for path in index.broken] == ["broken.json"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "an object with a `name`"),
        ({"examples": {}}, "must be a list"),
        ({"metrics": ["bleurt"]}, "none of the metrics of BIG-bench task beasts is supported: bleurt"),
        ({"example_input_prefix": 3}, "`example_input_prefix` must be text"),
        ({"examples": [{"input": 3}]}, "example 1 has no `input`"),
        ({"examples": [{"input": "x"}]}, "example 1 has neither `target` nor `target_scores`"),
        ({"examples": [{"input": "x", "target": "y"}]}, "example 1 has no `target_scores`"),
        ({"examples": [{"input": "x", "target_scores": {"a": "b"}}]}, "not a mapping of choices to numbers"),
        ({"examples": []}, "has no documents"),
    ],
)
def test_refused_files(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path, {**CHOICES, **changes})
    with pytest.raises(InputError, match=message):
        only(path).size()


def test_a_folder_without_a_task(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no task\.json or eval\.yaml"):
        find(tmp_path)
