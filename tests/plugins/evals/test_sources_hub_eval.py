"""``eval.yaml``: what is asked, how answers are read and scored, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from task_files import plans, run, saying, write_rows

from llmasos import Hub
from llmasos.api import InputError, UsageError
from llmasos_evals.tasks.index import open_index
from llmasos_evals.tasks.library import Selection, select
from llmasos_evals.tasks.task import Task

ROWS = [
    {
        "question": "2 + 2?",
        "options": ["3", "4"],
        "right": 1,
        "answer": "4",
        "level": "easy",
        "a": "x",
        "b": "y",
    },
    {
        "question": "3 {x} 3?",
        "options": ["6", "7", "8"],
        "right": 0,
        "answer": "6",
        "level": "hard",
        "a": "p",
        "b": "q",
    },
]
ENTRY: dict[str, Any] = {
    "id": "sums",
    "split": "test",
    "field_spec": {"input": "question", "target": "answer"},
    "solvers": [{"name": "generate"}],
    "scorers": [{"name": "match", "args": {"numeric": True}}],
}
HEAD = {"name": "All the Sums!", "description": "Sums of\nall kinds", "evaluation_framework": "inspect-ai"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_rows(tmp_path / "test.jsonl", ROWS)
    return tmp_path


def write(folder: Path, *entries: dict[str, Any], **head: Any) -> Path:
    path = folder / "eval.yaml"
    path.write_text(yaml.safe_dump({**HEAD, **head, "tasks": list(entries)}), encoding="utf-8")
    return path


def find(*names: str | Path, include: tuple[Path, ...] = ()) -> Selection:
    return select(
        [str(name) for name in names], include=include, hub=Hub(offline=True), allow_task_code=False
    )


def made(folder: Path, **changes: Any) -> Task:
    (task,) = find(write(folder, {**ENTRY, **changes})).tasks
    return task


def asked(task: Task, document: int = 0) -> str:
    return str(plans(task)[document].requests[0].context)


def scored(task: Task, answer: str) -> float:
    (score,) = run(task, saying(answer))
    return score.value


def test_the_question_alone(folder: Path) -> None:
    task = made(folder)
    assert (task.name, task.size()) == ("sums", 2)
    assert [asked(task, n) for n in (0, 1)] == ["2 + 2?", "3 {x} 3?"]
    assert scored(task, "So it is 4.0.") == 0.5
    assert scored(task, "4 or 6") == 0.5
    assert scored(task, "54") == 0.0


def test_templates_are_filled_as_str_format_fills_them(folder: Path) -> None:
    template = "{level}: {prompt} {{kept}} {unknown} {{{{% raw %}}}} {word}"
    task = made(
        folder,
        field_spec={**ENTRY["field_spec"], "metadata": ["level"]},
        solvers=[
            {"name": "system_message", "args": {"template": "Be {level}. {{curly}}"}},
            {"name": "prompt_template", "args": {"template": template, "word": "{{bye}}"}},
            {"name": "user_message", "args": {"template": "Now!"}},
            {"name": "generate"},
        ],
    )
    said = asked(task, 1)
    assert said.startswith("Be hard. {curly}")
    assert said.endswith("hard: 3 {x} 3? {kept} {unknown} {{% raw %}} {{bye}}\n\nNow!")


@pytest.mark.parametrize(("choices", "target"), [("options", "right"), (["a", "b"], "right")])
def test_multiple_choice(folder: Path, choices: Any, target: str) -> None:
    task = made(
        folder,
        field_spec={"input": "question", "target": target, "choices": choices},
        solvers=[{"name": "multiple_choice"}],
        scorers=[{"name": "choice"}],
    )
    first = asked(task)
    shown = ["3", "4"] if choices == "options" else ["x", "y"]
    assert first.endswith(f"2 + 2?\n\nA) {shown[0]}\nB) {shown[1]}")
    assert "one of A,B." in first
    assert [plan.target for plan in plans(task)] == ["B", "A"]
    assert scored(task, "ANSWER: b") == 0.5
    assert scored(task, "I thought ANSWER: A\nANSWER: B") == 0.5
    assert scored(task, "**ANSWER: A**") == 0.5
    assert scored(task, "B") == 0.0


def test_multiple_choice_with_a_template_of_the_file(folder: Path) -> None:
    task = made(
        folder,
        field_spec={"input": "question", "target": "right", "choices": "options"},
        solvers=[{"name": "multiple_choice", "args": {"template": "Q {question}\n{choices}\n[{letters}]"}}],
        scorers=[{"name": "choice"}],
    )
    assert asked(task, 1) == "Q 3 {x} 3?\nA) 6\nB) 7\nC) 8\n[A,B,C]"


@pytest.mark.parametrize(
    ("scorer", "answer", "value"),
    [
        ({"name": "includes"}, "it is 4 then", 0.5),
        ({"name": "match", "args": {"location": "begin"}}, "4, surely", 0.5),
        ({"name": "match", "args": {"location": "exact"}}, " 4. ", 0.5),
        ({"name": "match", "args": {"location": "any"}}, "64", 1.0),
        ({"name": "exact"}, "The 4.", 0.5),
        ({"name": "f1"}, "4 4 4", 0.5 * 2 * (1 / 3) / (1 / 3 + 1)),
        ({"name": "answer", "args": {"pattern": "word"}}, "ANSWER: 4 apples", 0.5),
        ({"name": "answer", "args": {"pattern": "line"}}, "ANSWER: 4 apples", 0.0),
        ({"name": "pattern", "args": {"pattern": "is ([0-9]+)"}}, "It IS 4", 0.5),
        ({"name": "pattern", "args": {"pattern": "is ([0-9]+)", "ignore_case": False}}, "It IS 4", 0.0),
    ],
)
def test_scorers(folder: Path, scorer: dict[str, Any], answer: str, value: float) -> None:
    assert scored(made(folder, scorers=[scorer]), answer) == pytest.approx(value)


def test_literal_targets_and_chain_of_thought(folder: Path) -> None:
    task = made(
        folder,
        field_spec={"input": "question", "target": "literal:{yes}"},
        solvers=[{"name": "chain_of_thought"}, {"name": "generate"}],
        scorers=[{"name": "includes"}],
        epochs=4,
        epoch_reducer="mean",
    )
    assert asked(task).startswith("2 + 2?\n\nThink about it")
    assert plans(task)[0].target == "{yes}"
    assert len(plans(task)[0].requests) == 1  # answers are greedy: four would be one


def test_several_tasks_are_a_group_too(folder: Path) -> None:
    write(folder, ENTRY, {**ENTRY, "id": "more", "scorers": [{"name": "includes"}]})
    index = open_index(folder, None)
    kinds = {name: entries[0].kind for name, entries in index.by_name.items()}
    assert kinds == {"sums": "task", "more": "task", "all_the_sums": "group", "eval.yaml": "tag"}
    summary = index.find("more")[0].summary
    assert summary is not None
    assert summary.description == "Sums of all kinds"
    assert [task.name for task in find("all_the_sums", include=(folder,)).tasks] == ["sums", "more"]
    assert [task.name for task in find(folder).tasks] == ["sums", "more"]
    assert find("more", include=(folder,)).tasks[0].config.metric_list[0].name == "includes"


def test_data_lies_beside_the_file_or_has_a_name(folder: Path) -> None:
    (folder / "deep").mkdir()
    write(folder / "deep", ENTRY, dataset="org/sums")
    (task,) = find(folder / "deep" / "eval.yaml").tasks
    assert task.config.dataset_path == "org/sums"
    (folder / "README.md").write_text(
        "---\nconfigs:\n- {config_name: en, data_files: [{split: test, path: test.jsonl}]}\n---\n"
    )
    assert made(folder, config="en").size() == 2
    with pytest.raises(InputError, match="has no configuration 'fr'"):
        made(folder, config="fr").size()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": 1}, "unknown field `tasks.colour`"),
        ({"field_spec": {"target": "answer"}}, "has no `input`"),
        ({"field_spec": {"input": "question"}}, "has no `target`"),
        ({"field_spec": {"input": "question", "target": "answer", "input_image": "x"}}, "asks about images"),
        ({"field_spec": {"input": "my question", "target": "answer"}}, "a name that no template can use"),
        ({"field_spec": {"input": "{{1}}", "target": "answer"}}, "a name that no template can use"),
        ({"solvers": []}, "`solvers` must be a list"),
        ({"solvers": [{"name": "use_tools"}]}, "the solver `use_tools`, which is not supported"),
        ({"solvers": [{"name": "prompt_template"}]}, "has no `template`"),
        ({"solvers": [{"name": "multiple_choice"}]}, "needs `field_spec.choices`"),
        ({"scorers": [{"name": "model_graded_qa"}]}, "the scorer `model_graded_qa`, which is not supported"),
        ({"scorers": [{"name": "pattern", "args": {"pattern": "(a)(b)"}}]}, "has 2 groups"),
        ({"scorers": [{"name": "pattern", "args": {"pattern": "("}}]}, "is not valid"),
        ({"scorers": [{"name": "choice"}, {"name": "includes"}]}, "in several ways"),
        ({"scorers": [{"name": "match", "args": {"location": "middle"}}]}, "location 'middle'"),
        ({"shuffle_choices": True}, "shuffles its choices"),
    ],
)
def test_refused_tasks(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        made(folder, **changes)


def test_tasks_of_other_frameworks_are_not_guessed_at(folder: Path) -> None:
    path = write(folder, {"id": "aime"}, evaluation_framework="math-arena")
    assert dict(open_index(folder, None).by_name) == {}
    with pytest.raises(InputError, match="is run by 'math-arena'"):
        find(path)


@pytest.mark.parametrize("address", ["hf://datasets", "hf://models/org/name", "hf://datasets/../x"])
def test_addresses(address: str) -> None:
    with pytest.raises((UsageError, InputError), match=r"is not the (address|name) of a data set"):
        find(address)
