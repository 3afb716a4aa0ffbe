"""``llmasos eval ls``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from task_files import CHOICE, write_task

from llmasos.cli.main import run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_task(tmp_path, "sums", **CHOICE, tag=["maths", "short"], num_fewshot=2)
    write_task(tmp_path, "names", **CHOICE, tag="words", dataset_name="en")
    (tmp_path / "all.yaml").write_text("group: all_of_it\ntask: [sums, names]\n")
    (tmp_path / "broken.yaml").write_text("task: [")
    return tmp_path


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert run(["eval", "ls", "--json", *arguments]) == 0
    return [entry["name"] for entry in json.loads(capsys.readouterr().out)]


def test_names_patterns_tags_and_groups(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    include = ("--include", str(folder))
    found = listed(capsys, *include)
    assert {"all_of_it", "maths", "names", "short", "sums", "words"} <= set(found)
    assert any(name.endswith("quickstart") for name in found)
    assert found == sorted(found)
    assert listed(capsys, "su", *include) == ["sums"]
    # A pattern means what `eval` is told: tasks of plugins by the last part of their name.
    assert "llmasos-evals/quickstart_blimp" in listed(capsys, "quick*", *include)
    assert listed(capsys, "*s", "--groups", *include) == ["maths", "words"]
    groups = ["all_of_it", "llmasos-evals/quickstart", "maths", "short", "words"]
    assert listed(capsys, "--groups", *include) == groups
    assert listed(capsys, "--tag", "words", *include) == ["names"]
    assert listed(capsys, "nothing_like_it", *include) == []


def test_what_is_said_of_a_task(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "ls", "sums", "--json", "--include", str(folder)]) == 0
    shown = capsys.readouterr()
    (entry,) = json.loads(shown.out)
    assert entry == {
        "name": "sums",
        "kind": "task",
        "origin": str(folder / "sums.yaml"),
        "output_type": "multiple_choice",
        "dataset_path": "json",
        "dataset_name": None,
        "num_fewshot": 2,
        "description": "",
        "tags": ["maths", "short"],
    }
    assert "warning: 1 file could not be read, the first:" in shown.err
    assert str(folder / "broken.yaml") in shown.err


def test_the_table_for_people(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "ls", "--include", str(folder), "-q"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "kind", "scored", "by", "shots", "data", "tags", "about"]
    assert [line.split() for line in lines if line.startswith("names")] == [
        ["names", "task", "multiple_choice", "json", "(en)", "words"]
    ]


def test_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "ls", "--include", str(tmp_path / "gone")]) == 2
    assert "no such folder" in capsys.readouterr().err
