"""Data on the shelf: what is noted, what a task gets, and that nothing that was changed is ever scored."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from task_files import CHOICE, QUESTIONS, plans, write_rows

from llmasos import Hub
from llmasos.api import ExitCode, InputError, LlmasosError, NotFound
from llmasos.cli.main import run
from llmasos_evals.tasks.library import select
from llmasos_evals.tasks.task import Task

STOCK = {
    **CHOICE,
    "dataset_path": "org/sums",
    "dataset_name": "Easy",
    "training_split": "train",
    "validation_split": "validation",
    "fewshot_split": "validation",
}


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMASOS_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "mine.jsonl", QUESTIONS)


def add(*arguments: str | Path, expect: int = ExitCode.OK) -> None:
    assert run(["data", "add", "-q", *map(str, arguments)]) == expect


def added(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    capsys.readouterr()
    assert run(["data", "add", "--json", *map(str, arguments)]) == ExitCode.OK
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def stock(tmp_path: Path, **fields: Any) -> Task:
    path = tmp_path / "stock.yaml"
    path.write_text(json.dumps({"task": "stock", **STOCK, **fields}))
    (task,) = select([str(path)], include=[], hub=Hub(offline=True), allow_task_code=False).tasks
    return task


def test_a_stock_task_reads_what_was_added_under_its_name(tmp_path: Path, rows: Path) -> None:
    add("org/sums", "--config", "Easy", "--split", f"test={rows}")
    task = stock(tmp_path)
    planned = plans(task, shots=2)
    assert [document.doc["question"] for document in planned] == [row["question"] for row in QUESTIONS]
    assert task.notes == ("its data has no split validation, train; the task does without",)
    origin = task.data_origin(2)
    assert (origin["kind"], origin["name"], origin["config"]) == ("shelf", "org/sums", "Easy")
    assert (origin["split"], origin["fewshot_split"]) == ("test", "test")


def test_splits_that_are_there_are_used(tmp_path: Path, rows: Path) -> None:
    pool = write_rows(tmp_path / "pool.jsonl", [{"question": "P", "options": ["x", "y"], "right": 0}] * 3)
    add("org/sums", "--config", "Easy", "--split", f"test={rows}", "--split", f"validation={pool}")
    planned = plans(stock(tmp_path), limit=1, shots=1)
    assert planned[0].requests[0].context.startswith("P x")


def test_the_same_test_set_has_one_digest_whatever_else_there_is(tmp_path: Path, rows: Path) -> None:
    alone = ["org/sums", "--config", "Easy", "--split", f"test={rows}"]
    add(*alone)
    task = stock(tmp_path)
    without = [task.data_digest(shots) for shots in (0, 2)]
    pool = write_rows(tmp_path / "pool.jsonl", [{"question": "P", "options": ["x", "y"], "right": 0}] * 3)
    add(*alone, "--split", f"validation={pool}")
    whole = stock(tmp_path)
    assert whole.data_digest(0) == without[0]
    assert whole.data_digest(2) != without[1]


def test_the_validation_split_stands_in_for_a_test_split(tmp_path: Path, rows: Path) -> None:
    add("org/sums", "--config", "Easy", "--split", f"validation={rows}")
    assert stock(tmp_path).size() == len(QUESTIONS)
    add("org/other", "--split", f"train={rows}")
    with pytest.raises(InputError, match=r"reads split 'test', for which .* \(it has: train\)") as caught:
        stock(tmp_path, dataset_path="org/other", dataset_name=None).size()
    assert caught.value.hint is not None
    assert "llmasos data add org/other --split test=FILE" in caught.value.hint


def test_another_configuration_is_not_the_one_that_was_added(tmp_path: Path, rows: Path) -> None:
    add("org/sums", "--config", "Easy", "--split", f"test={rows}")
    for config, flag in (("Hard", " --config Hard"), (None, "")):
        with pytest.raises(NotFound, match="org/sums is not here, and this run is offline") as caught:
            stock(tmp_path, dataset_name=config).size()
        hint = (
            f"the shelf has it with configuration Easy; add files you have: llmasos data add org/sums{flag} "
        )
        assert str(caught.value.hint).startswith(hint + "--split test=FILE")


def test_what_was_changed_is_refused_and_found(
    tmp_path: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add("org/sums", "--config", "Easy", "--split", f"test={rows}")
    whole = rows.read_bytes()
    digest = stock(tmp_path).data_digest(0)
    assert run(["data", "verify", "-q"]) == ExitCode.OK
    rows.write_bytes(whole.replace(b"1 + 1", b"1 + 2"))
    with pytest.raises(
        InputError, match=r"org/sums \(Easy\) is not what was added: .*mine\.jsonl is changed"
    ) as caught:
        stock(tmp_path).size()
    assert "--split test=" in str(caught.value.hint)
    capsys.readouterr()
    assert run(["data", "verify", "--json", "org/sums"]) == ExitCode.RUN_FAILED
    assert [file["state"] for file in json.loads(capsys.readouterr().out)["files"]] == ["changed"]
    rows.unlink()
    with pytest.raises(InputError, match="is missing"):
        stock(tmp_path).size()
    assert run(["data", "verify", "-q"]) == ExitCode.RUN_FAILED
    rows.write_bytes(whole)
    assert run(["data", "verify", "-q"]) == ExitCode.OK
    assert stock(tmp_path).data_digest(0) == digest


def test_copies_do_not_need_the_files(tmp_path: Path, rows: Path, data_dir: Path) -> None:
    add("org/sums", "--config", "Easy", "--split", f"test={rows}", "--copy")
    rows.unlink()
    assert stock(tmp_path).size() == len(QUESTIONS)
    (copy,) = (data_dir / "shelf" / "files").rglob("*.jsonl")
    copy.write_bytes(b"")
    with pytest.raises(InputError, match="is changed"):
        stock(tmp_path).size()
    assert run(["data", "rm", "-q", "org/sums"]) == ExitCode.OK
    assert [path for path in (data_dir / "shelf").rglob("*") if path.is_file()] == []


def test_removing_leaves_files_that_are_only_named(rows: Path) -> None:
    add("mine", rows)
    assert run(["data", "rm", "-q", "mine"]) == ExitCode.OK
    assert rows.exists()
    assert run(["data", "rm", "-q", "mine"]) == ExitCode.NOT_FOUND
    assert run(["data", "verify", "-q", "mine"]) == ExitCode.NOT_FOUND


def test_names_of_files_say_their_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train.csv", "sums-test.csv", "valid.csv"):
        (tmp_path / name).write_text("a,b\n1,x\n2,y\n")
    entry = added(capsys, "mine", *(tmp_path / name for name in ("train.csv", "sums-test.csv", "valid.csv")))
    assert list(entry["splits"]) == ["train", "validation", "test"]
    assert entry["splits"]["test"] == {
        "rows": 2,
        "columns": ["a", "b"],
        "files": [
            {
                "path": str(tmp_path / "sums-test.csv"),
                "bytes": 12,
                "sha256": entry["splits"]["train"]["files"][0]["sha256"],
            }
        ],
    }


def test_a_folder_is_laid_out_as_a_repository_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "set"
    (folder / "en").mkdir(parents=True)
    write_rows(folder / "en" / "a.jsonl", QUESTIONS)
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: Easy\n  data_files:\n  - split: test\n    path: en/*.jsonl\n---\n"
    )
    assert list(added(capsys, "org/sums", folder, "--config", "Easy")["splits"]) == ["test"]
    assert stock(tmp_path).size() == len(QUESTIONS)
    assert run(["data", "add", "-q", "org/sums", str(folder), "--config", "Hard"]) == ExitCode.USAGE


def test_adding_again(tmp_path: Path, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_rows(tmp_path / "other.jsonl", QUESTIONS[:3])
    first = added(capsys, "mine", "--split", f"test={rows}")
    assert added(capsys, "mine", "--split", f"test={rows}")["digest"] == first["digest"]
    add("mine", "--split", f"test={other}", expect=ExitCode.USAGE)
    assert "--replace takes the new ones" in capsys.readouterr().err
    more = added(capsys, "mine", "--split", f"train={other}")
    assert {split: told["rows"] for split, told in more["splits"].items()} == {"test": 20, "train": 3}
    assert more["digest"] != first["digest"]
    changed = added(capsys, "mine", "--split", f"test={other}", "--replace")
    assert {split: told["rows"] for split, told in changed["splits"].items()} == {"train": 3, "test": 3}


def test_options_say_how_files_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "test.data"
    path.write_text("1;x\n2;y\n")
    options = ["--option", "delimiter=;", "--option", "column_names=[n, t]"]
    add("mine", path, expect=ExitCode.USAGE)
    entry = added(capsys, "mine", "--split", f"test={path}", "--format", "csv", *options)
    assert entry["splits"]["test"]["columns"] == ["n", "t"]
    add("mine", "--split", f"train={path}", "--format", "csv", expect=ExitCode.USAGE)
    assert "is read with other options" in capsys.readouterr().err
    task = stock(tmp_path, dataset_path="mine", dataset_name=None, **_TEXT)
    assert [document.doc for document in plans(task)] == [{"n": 1, "t": "x"}, {"n": 2, "t": "y"}]


_TEXT = {"output_type": "generate_until", "doc_to_text": "{{n}}", "doc_to_target": "t", "doc_to_choice": None}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["json", "FILE"], "cannot name data"),
        (["../x", "FILE"], "cannot name data"),
        (["mine"], "no files were given"),
        (["mine", "GONE"], "no file or folder"),
        (["mine", "--split", "FILE"], "is not SPLIT=FILE"),
        (["mine", "--split", "test=GONE"], "no file or folder"),
        (["mine", "--split", "../../t=FILE"], "'../../t' cannot name a split"),
        (["mine", "test=FILE"], "did you mean --split test="),
        (["mine", "BAD"], "line 1: not valid JSON"),
        (["mine", "FOLDER", "FILE"], "a folder is added alone"),
        (["mine", "--option", "x"], "is not NAME=VALUE"),
        (["mine", "FILE", "--option", "colour=1"], "unknown option `colour`"),
    ],
)
def test_mistakes(
    tmp_path: Path, rows: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.jsonl").write_text("{")
    (tmp_path / "folder").mkdir()
    paths = {
        "FILE": rows,
        "GONE": tmp_path / "gone.jsonl",
        "BAD": tmp_path / "bad.jsonl",
        "FOLDER": tmp_path / "folder",
    }
    given = [
        str(paths.get(argument, argument)).replace("=GONE", f"={paths['GONE']}").replace("=FILE", f"={rows}")
        for argument in arguments
    ]
    assert run(["data", "add", "-q", *given]) == ExitCode.USAGE
    assert message in capsys.readouterr().err
    assert run(["data", "ls", "-q"]) == ExitCode.OK
    assert "mine" not in capsys.readouterr().out


def test_what_is_no_file_is_not_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "rows.jsonl")
    add("mine", "--split", f"test={tmp_path / 'rows.jsonl'}", expect=ExitCode.USAGE)
    assert "neither a file nor a folder" in capsys.readouterr().err


def test_a_damaged_note_is_named(rows: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add("mine", rows)
    (note,) = (data_dir / "shelf").glob("*.json")
    note.write_text(note.read_text()[:-20])
    assert run(["data", "ls", "-q"]) == ExitCode.USAGE
    assert str(note) in capsys.readouterr().err


def test_names_that_differ_in_case_only_are_two(rows: Path, tmp_path: Path) -> None:
    add("Mine", rows)
    with pytest.raises(LlmasosError, match="the data set mine is not here"):
        stock(tmp_path, dataset_path="mine", dataset_name=None).size()
    add("mine", rows)
    assert len(os.listdir(tmp_path / "data" / "shelf")) == 2


def test_the_table(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add("org/sums", "--config", "Easy", "--split", f"test={rows}")
    capsys.readouterr()
    assert run(["data", "ls"]) == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "config", "split", "rows", "bytes", "columns", "files"]
    assert lines[2].split()[:5] == ["org/sums", "Easy", "test", "20", str(rows.stat().st_size)]
