"""A task in one file: a header above JSON lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from task_files import nats, plans, run

from llmasos import Hub
from llmasos.api import InputError, UsageError
from llmasos_evals.tasks.index import open_index
from llmasos_evals.tasks.library import select
from llmasos_evals.tasks.task import Task

HEADER = """# task: capitals
# output_type: multiple_choice
# doc_to_text: The capital of {{country}} is
# doc_to_choice: cities
# doc_to_target: right
"""
ROWS = """{"country": "France", "cities": ["Paris", "Lyon"], "right": 0}

{"country": "Italy", "cities": ["Milan", "Rome"], "right": 1}
"""


def write(folder: Path, text: str, name: str = "capitals.jsonl") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def only(name: str | Path, *include: Path) -> Task:
    (task,) = select([str(name)], include=include, hub=Hub(), allow_task_code=False).tasks
    return task


def test_five_lines_make_a_task(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + ROWS)
    for task in (only(path), only("capitals", tmp_path)):
        assert [plan.requests[0].context for plan in plans(task)] == [
            "The capital of France is",
            "The capital of Italy is",
        ]
        assert {score.metric: score.value for score in run(task, nats(-1.0, -2.0))} == {
            "acc": 0.5,
            "acc_norm": 0.5,
        }


def test_the_header_is_a_whole_task_file(tmp_path: Path) -> None:
    header = (
        HEADER
        + "# validation_split: dev\n# metric_list:\n#   - metric: acc\n#\n# metadata: {version: 3}\n# tag: [maps]\n"
    )
    task = only(write(tmp_path, header + ROWS))
    assert (task.version, task.config.eval_split, task.config.tag) == ("3", "dev", ("maps",))
    assert [spec.name for spec in task.config.metric_list] == ["acc"]
    (entry,) = open_index(tmp_path, None).find("maps")
    assert entry.members == ("capitals",)


def test_data_without_a_header_is_data(tmp_path: Path) -> None:
    write(tmp_path, ROWS, "rows.jsonl")
    write(tmp_path, "# made by hand\n" + ROWS, "remark.jsonl")
    index = open_index(tmp_path, None)
    assert (dict(index.by_name), index.broken) == ({}, {})
    with pytest.raises(InputError, match="does not begin with a header"):
        only(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER.replace("# doc_to_text: ", "# doc_to_texxt: "), "did you mean `doc_to_text`"),
        (HEADER + "# include: other.yaml\n", "cannot have `include`"),
        (HEADER + "# dataset_path: json\n", "cannot have `dataset_path`"),
        ("# task: [\n", "not valid YAML"),
        ("# task: x\n" + "# a: b\n" * 50_000, "longer than 256 KiB"),
    ],
)
def test_refused_headers(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text + ROWS)
    with pytest.raises(InputError, match=message):
        only(path)


def test_its_functions_are_code(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text("def text(doc): return doc['country']\n")
    path = write(tmp_path, HEADER.replace("The capital of {{country}} is", "!function work.text") + ROWS)
    with pytest.raises(UsageError, match="which was not allowed"):
        only(path)
    (task,) = select([str(path)], include=[], hub=Hub(), allow_task_code=True).tasks
    assert plans(task)[0].requests[0].context == "France"
