"""``llmasos eval show`` of tasks, groups and tags, and its way to records."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from record_samples import a_sample, write_run
from task_files import CHOICE, GENERATION, write_task

from llmasos.api import ExitCode
from llmasos.cli.main import run


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMASOS_DATA", str(tmp_path / "data"))


def told(capsys: pytest.CaptureFixture[str], *words: str | Path) -> dict[str, Any]:
    assert run(["eval", "show", "--json", *map(str, words)]) == ExitCode.OK
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_task_with_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "base").write_text("output_type: multiple_choice\ntest_split: test\n")
    fields = {key: value for key, value in CHOICE.items() if key not in ("output_type", "test_split")}
    path = write_task(tmp_path, "sums", include="base", fewshot_split="test", **fields)
    found = told(capsys, "sums", "--include", tmp_path, "--num-fewshot", "1")
    assert (found["name"], found["kind"], found["flags"]) == ("sums", "task", [])
    assert found["fields"]["output_type"] == "multiple_choice"
    assert found["files"] == {str(file): sha256(file) for file in (path, tmp_path / "base")}
    assert [metric["signature"].split("|")[0] for metric in found["metrics"]] == ["acc", "acc_norm"]
    assert found["data"]["here"] is True
    assert (found["data"]["documents"], found["data"]["scored"]) == (20, "test")
    requests = found["prompt"]["requests"]
    assert requests[0]["context"].endswith("\n\nWhat is 1 + 1?")
    assert [request["continuation"] for request in requests] == [" 1", " 2"]
    assert told(capsys, path) == {**told(capsys, "sums", "--include", tmp_path)}


def test_a_task_whose_data_is_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_task(tmp_path, "stock", **GENERATION, dataset_path="org/set", dataset_name="en", dataset_kwargs={})
    found = told(capsys, "stock", "--include", tmp_path)
    assert (found["data"]["here"], found["prompt"]) == (False, None)
    assert "llmasos data add org/set --config en --split test=FILE" in found["data"]["hint"]
    assert found["metrics"]
    assert run(["eval", "show", "stock", "--include", str(tmp_path)]) == ExitCode.OK
    assert "org/set (en)" in capsys.readouterr().out


def test_code_is_named_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace"
    code = tmp_path / "work.py"
    code.write_text(f"open({str(trace)!r}, 'w').close()\ndef docs(rows): return rows\n")
    path = write_task(tmp_path, "coded", **CHOICE, process_docs="!function work.docs")
    found = told(capsys, path)
    assert found["flags"] == ["--allow-task-code"]
    assert found["files"][str(code)] == sha256(code)
    assert found["fields"]["process_docs"] == "!function work.docs"
    assert "which was not allowed" in found["notes"][0]
    assert not trace.exists()
    assert told(capsys, path, "--allow-task-code")["prompt"] is not None
    assert trace.exists()


def test_groups_and_tags_are_trees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        write_task(tmp_path, name, **CHOICE, tag="pair")
    (tmp_path / "inner.yaml").write_text("group: inner\ntask: [pair]\n")
    (tmp_path / "outer.yaml").write_text(
        "group: outer\naggregate_metric_list: [{metric: acc}]\ntask:\n- inner\n- {task: a, num_fewshot: 2}\n"
        "- {group: rest, task: [{task: own, doc_to_text: x}]}\n- outer\n"
    )
    found = told(capsys, "outer", "--include", tmp_path)
    assert found["fields"]["aggregate_metric_list"] == [{"metric": "acc"}]
    inner, member, rest, itself = found["members"]
    (tag,) = inner["members"]
    assert (tag["name"], tag["kind"], [task["name"] for task in tag["members"]]) == (
        "pair",
        "tag",
        ["a", "b"],
    )
    assert member["overrides"] == {"num_fewshot": 2}
    assert rest["members"] == [{"name": "own", "kind": "task", "path": str(tmp_path / "outer.yaml")}]
    assert itself["note"] == "contains itself"
    assert [task["name"] for task in told(capsys, "pair", "--include", tmp_path)["members"]] == ["a", "b"]
    assert run(["eval", "show", "outer", "--include", str(tmp_path), "-q"]) == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("members:")
    assert lines[start + 1 : start + 9] == [
        "  inner (group)",
        "  - pair (tag)",
        "  - - a",
        "  - - b",
        "  a (num_fewshot: 2)",
        "  rest (group)",
        "  - own",
        "  outer (group, contains itself)",
    ]


def test_a_shipped_task(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "quickstart_blimp")
    assert found["origin"].startswith("plugin llmasos-evals")
    assert found["prompt"] is not None
    assert [member["name"] for member in told(capsys, "quickstart")["members"]]


def test_a_run_is_shown_by_its_folder_and_by_its_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "run", [a_sample(0), a_sample(1)])
    shown = told(capsys, folder)
    assert set(shown) == {"record", "verification"}
    assert told(capsys, folder / "record.json") == shown
    os.rename(folder / "record.json", folder / "mine.json")
    assert run(["eval", "show", str(folder / "mine.json")]) == ExitCode.OK


@pytest.mark.parametrize(
    ("name", "code"), [("nothing_like_it", ExitCode.NOT_FOUND), ("gone/gone.yaml", ExitCode.NOT_FOUND)]
)
def test_what_is_not_there(name: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "show", name]) == code
    assert "no task" in capsys.readouterr().err
