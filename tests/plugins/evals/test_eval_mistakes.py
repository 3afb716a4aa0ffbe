"""What people get wrong with `llmasos eval` and `data add`: each mistake is named, with what to do about it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from stat_runs import write_run
from task_files import CHOICE, write_task

from llmasos import Hub
from llmasos.cli.eval_run import result_rows
from llmasos.cli.main import run
from llmasos_evals.tasks.names import Names, expanded
from llmasos_evals.view.page import bounded

TASK = {"name": "t", "alias": "t", "version": "1", "num_fewshot": 0}

MISTAKES = [
    (["eval", "compare", "a", "b"], "no task in common (a has quiz; b has sums)", "on the same tasks"),
    (["eval", "compare", "a", "other"], "the data differs", "--allow data compares"),
    (["eval", "m.gguf", "sums", "--output", "a.txt/x"], "cannot write to a.txt/x", "another folder with --output"),
    (["eval", "sums.yaml", "m.gguf"], "sums.yaml is a task and m.gguf a model", "llmasos eval m.gguf sums.yaml"),
    (["eval", "quickstart", "pypi:some-model"], "the model comes first", "llmasos eval pypi:some-model quickstart"),
    (["eval", "quickstart", "quickstart_blimp"], "quickstart", "the model comes first: llmasos eval MODEL"),
    (["eval", "m.gguf", "tasks"], "the folder tasks is no task", "llmasos eval ls --include tasks"),
    (["eval", "m.gguf", "./tasks"], "the folder tasks is no task", "llmasos eval ls --include tasks"),
    (["eval", "m.gguf", "a"], "a is the folder of a run", "llmasos eval show a"),
    (["eval", "m.gguf", "quick_fix_*"], "no task matches 'quick_fix_*'", "llmasos eval ls"),
    (["eval", "m.gguf", "broken.yaml"], "not valid YAML", "between quotes"),
    (["eval", "show", "runs/missing"], "no run and no task at runs/missing", "the folder that `llmasos eval` names"),
    (["eval", "show", "tasks"], "the folder tasks is no task", "llmasos eval ls --include tasks"),
    (["eval", "show", "damaged"], "damaged", "compute the run again"),
    (["eval", "show", "older"], "not a record that this version reads", "with the llmasos that wrote it"),
    (["eval", "verify", "nonrun"], "there is no record at nonrun", "give the folder of a run"),
    (["eval", "power", "quick_fix_*"], "no task matches", "llmasos eval ls"),
    (["eval", "shw", "a"], "no command `shw`, did you mean `show`?", "llmasos eval --help"),
    (["eval", "ls", "--include", "nofolder"], "no such folder", "a folder with task files"),
    (["eval", "gate", "a", "--rules", "nofile"], "cannot read nofile", "a rule a line"),
    (["data", "add", "x", "rose.jsonl"], "no file or folder rose.jsonl", "did you mean rows.jsonl?"),
    (["data", "add", "x", "nothing.csv"], "no file or folder nothing.csv", "it was looked for in"),
    (["data", "add", "x", "torn.jsonl"], "the data x: ", "one object a line"),
    (["data", "add", "x", "empty.jsonl"], "there are no rows", "nothing was added"),
]  # fmt: skip


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with what the mistakes are made with."""
    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"LLMASOS_{name}", str(tmp_path / name.lower()))
    work = tmp_path / "work"
    (work / "tasks").mkdir(parents=True)
    monkeypatch.chdir(work)
    write_task(work, "sums", **CHOICE)
    write_run(work / "a", {"quiz": {"acc": [1.0, 0.0]}})
    write_run(work / "b", {"sums": {"acc": [1.0, 0.0]}})
    write_run(work / "other", {"quiz": {"acc": [1.0, 0.0]}}, data_digest="0" * 64)
    for name, text in {"damaged": '{"schema": "llm', "older": '{"schema": "llmasos-record/0"}'}.items():
        (work / name).mkdir()
        (work / name / "record.json").write_text(text)
    (work / "rows.jsonl").write_text('{"a": 1}\n')
    (work / "torn.jsonl").write_text('{"a": 1\n')
    (work / "broken.yaml").write_text("task: [a\n")
    for name in ("a.txt", "empty.jsonl", "m.gguf"):
        (work / name).touch()
    return work


@pytest.mark.parametrize(("words", "said", "hint"), MISTAKES, ids=[" ".join(row[0]) for row in MISTAKES])
def test_a_mistake_is_named(desk: Path, capsys, words, said, hint) -> None:
    code = run(words)
    errors = capsys.readouterr().err.splitlines()
    assert code in (2, 5), errors
    (error,) = [line for line in errors if line.startswith("error: ")]
    (advice,) = [line for line in errors if line.startswith("hint: ")]
    assert said in error
    assert hint in advice
    assert not any(line.startswith("warning: hook") for line in errors)


def test_a_pattern_stands_for_the_tasks_it_matches() -> None:
    with Hub() as hub:
        found = expanded(["quickstart_[bp]*", "quickstart", "tasks/*.yaml"], Names((), hub))
    assert found == ("quickstart_blimp", "quickstart_prose", "quickstart", "tasks/*.yaml")


def test_an_empty_split_beside_others_is_a_warning(desk: Path, capsys) -> None:
    assert run(["data", "add", "x", "--split", "test=rows.jsonl", "--split", "train=empty.jsonl"]) == 0
    assert "warning: split train of x is empty" in capsys.readouterr().err


def test_samples_that_are_missing_or_damaged_are_mentioned(desk: Path, capsys) -> None:
    samples = desk / "a" / "samples_quiz.jsonl"
    lines = samples.read_text()
    assert run(["eval", "show", "a"]) == 0
    assert capsys.readouterr().err == ""
    for text, said in (
        ("garbage\n" + lines, "line 1 is damaged"),
        (None, "the samples of quiz are not in a"),
    ):
        if text is None:
            samples.unlink()
        else:
            samples.write_text(text)
        assert run(["eval", "show", "a"]) == 0
        assert f"warning: {said}" in capsys.readouterr().err.replace(f"a/{samples.name}, ", "")
    assert run(["eval", "view", "a", "--output", "page.html", "--quiet"]) == 0
    assert "warning: the samples of quiz are not in a" in capsys.readouterr().err


def test_an_interval_goes_no_further_than_its_metric(desk: Path, capsys) -> None:
    write_run(desk / "few", {"t": {"rouge": [1.0, 1.0, 0.9, 0.2]}})
    (score,) = json.loads((desk / "few" / "record.json").read_text())["tasks"][0]["scores"]
    assert score["ci_high"] > 1
    assert run(["eval", "show", "few"]) == 0
    assert " to 1.0000 " in capsys.readouterr().out
    (row,) = result_rows({"groups": [], "tasks": [{**TASK, "scores": [score]}]})
    assert row[6].endswith(" to 1.0000")
    assert (bounded(score)["ci_high"], bounded(score)["stderr"]) == (1.0, score["stderr"])
    assert bounded({**score, "range": [None, None]})["ci_high"] == score["ci_high"]


def test_the_suite_that_ships_is_listed_with_what_its_files_say(capsys) -> None:
    assert run(["eval", "ls", "llmasos-evals/quickstart"]) == 0
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[-1] == "about"
    assert [row.split()[1] for row in rows] == ["group", *["task"] * (len(rows) - 1)]
    (prose,) = [row for row in rows if "quickstart_prose" in row]
    assert "loglikelihood_rolling" in prose
    assert "Jane Austen" in prose
