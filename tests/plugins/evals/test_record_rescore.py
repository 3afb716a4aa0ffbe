"""``llmasos eval rescore``: saved answers, other metrics; and refusals where the answers are to other questions."""

from __future__ import annotations

import json
import shutil

import pytest
from verified_run import CHOICE, write_world

from llmasos.cli.main import run as llmasos
from llmasos_evals.records.reading import open_run
from llmasos_evals.records.record import record_digest


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("rescore")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMASOS_CACHE", str(root / "cache"))
        patch.setenv("LLMASOS_CONFIG", str(root / "config"))
        return write_world(root)


@pytest.fixture
def world(made, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMASOS_CACHE", str(made / "cache"))
    monkeypatch.setenv("LLMASOS_CONFIG", str(tmp_path / "config"))
    for name in ("run", "tasks"):
        shutil.copytree(made / name, tmp_path / name)
    return tmp_path


def rescore(world, *flags, capsys) -> tuple[int, dict, str]:
    capsys.readouterr()
    command = ["eval", "rescore", str(world / "run"), "--json", "--output", str(world / "new")]
    code = llmasos([*command, "--include", str(world / "tasks"), *flags])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else {}, err


def scores(record: dict, task: str) -> dict:
    (section,) = [task_ for task_ in record["tasks"] if task_["name"] == task]
    return {score["metric"]: score["value"] for score in section["scores"]}


def test_the_same_metrics_give_the_same_numbers(world, capsys):
    code, found, err = rescore(world, capsys=capsys)
    assert code == 0, err
    old = open_run(world / "run").record
    for name in (
        "tasks",
        "groups",
        "samples_digest",
        "prompt_digest",
        "model",
        "tokenizer",
        "plugins",
        "settings",
    ):
        assert found[name] == old[name], name
    assert found["rescored_from"] == old["digest"]
    assert found["digest"] == record_digest(found) != old["digest"]
    assert [plugin["id"] for plugin in found["rescored_by"]]
    new = open_run(world / "new")
    assert [s["responses"] for s in new.samples("story")] == [
        s["responses"] for s in open_run(world / "run").samples("story")
    ]


def test_other_metrics_from_the_same_answers(world, capsys):
    code, found, err = rescore(
        world,
        *("--task-file", str(world / "tasks" / "colours.yaml")),
        *("--metric", "acc_bytes", "--metric", "mcc"),
        capsys=capsys,
    )
    assert code == 0, err
    assert [task["name"] for task in found["tasks"]] == ["colours"]
    assert set(scores(found, "colours")) == {"acc_bytes", "mcc"}


def test_options_of_a_metric_are_json(world, capsys):
    path = world / "tasks" / "story.yaml"
    code, found, err = rescore(
        world, "--task-file", str(path), "--metric", 'exact_match:{"ignore_case": true}', capsys=capsys
    )
    assert code == 0, err
    assert "case" in found["tasks"][0]["scores"][0]["signature"]
    code, _, err = rescore(world, "--metric", "exact_match:{", capsys=capsys)
    assert code == 2
    assert "JSON object" in err


def test_a_task_file_with_another_filter_or_target(world, capsys):
    path = world / "tasks" / "colours.yaml"
    path.write_text(CHOICE.replace('"{{answer}}"', '"{{(answer + 1) % 3}}"'))
    code, found, err = rescore(world, "--task-file", str(path), capsys=capsys)
    assert code == 0, err
    assert scores(found, "colours") != scores(open_run(world / "run").record, "colours")
    assert open_run(world / "new").sample("colours", 0)["target"] == 1


def test_the_bootstrap_can_be_another(world, capsys):
    code, found, err = rescore(world, "--bootstrap", "7", capsys=capsys)
    assert code == 0, err
    assert found["settings"]["bootstrap"] == 7
    assert scores(found, "colours") == scores(open_run(world / "run").record, "colours")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('doc_to_text: "{{question}}"', 'doc_to_text: "Q: {{question}}"', "the prompt of its request 0"),
        ("[red, green, blue]", "[red, green, pink]", "the continuation of its request 2"),
        ("[red, green, blue]", "[red, green]", "it makes 2 requests, and 3 were answered"),
        ("metric: acc_norm", "metric: acc_mutual_info", "it makes 6 requests, and 3 were answered"),
    ],
)
def test_answers_to_other_questions_are_refused(world, capsys, old, new, said):
    path = world / "tasks" / "colours.yaml"
    path.write_text(path.read_text().replace(old, new))
    code, _, err = rescore(world, "--task-file", str(path), capsys=capsys)
    assert code == 1
    assert said in err
    assert not (world / "new" / "record.json").exists()


def test_other_documents_are_refused(world, capsys):
    path = world / "tasks" / "colours.jsonl"
    path.write_text(path.read_text().replace("Question 3:", "Question 4:"))
    code, _, err = rescore(world, capsys=capsys)
    assert code == 1
    assert "document 3: the document is another one" in err


def test_other_generation_settings_are_refused(world, capsys):
    path = world / "tasks" / "story.yaml"
    path.write_text(path.read_text().replace("max_gen_toks: 6", "max_gen_toks: 5"))
    code, _, err = rescore(world, "--task-file", str(path), capsys=capsys)
    assert code == 1
    assert "generates with other settings now" in err


def test_a_task_that_was_not_answered_is_refused(world, capsys):
    path = world / "tasks" / "other.yaml"
    path.write_text(CHOICE.replace("task: colours", "task: shapes"))
    code, _, err = rescore(world, "--task-file", str(path), capsys=capsys)
    assert code == 2
    assert "no answers for task shapes" in err


def test_the_model_is_not_needed(world, made, capsys):
    path = world / "run" / "record.json"
    record = json.loads(path.read_text())
    record["model"]["ref"] = "nowhere"
    record["digest"] = record_digest(record)
    path.write_text(json.dumps(record))
    code, found, err = rescore(world, capsys=capsys)
    assert code == 0, err
    assert found["model"]["ref"] == "nowhere"


def test_a_rescored_record_can_be_verified(world, made, capsys):
    assert rescore(world, capsys=capsys)[0] == 0
    code = llmasos(["eval", "verify", str(world / "new"), "--include", str(world / "tasks"), "--sample", "5"])
    assert code == 0, capsys.readouterr().err


def touched_line(path):
    lines = path.read_text().splitlines()
    sample = json.loads(lines[0])
    sample["responses"][0]["logprob"] = -0.125
    return "\n".join([json.dumps(sample), *lines[1:]]) + "\n"


@pytest.mark.parametrize("damage", ["altered", "lost", "record"])
def test_answers_that_are_not_those_of_the_record_are_refused(world, capsys, damage):
    """A sealed record over altered answers, or over the few that were left, would look like any other."""
    run = open_run(world / "run")
    task = next(name for name in run.tasks if run.task(name)["output_type"] == "multiple_choice")
    path = run.samples_path(task)
    if damage == "altered":
        path.write_text(touched_line(path))
    elif damage == "lost":
        path.write_text(path.read_text().splitlines(keepends=True)[0])
    else:
        record = json.loads((world / "run" / "record.json").read_text())
        record["settings"]["seed"] += 1
        (world / "run" / "record.json").write_text(json.dumps(record))
    code, _, err = rescore(world, capsys=capsys)
    assert code == 2
    said = "it was changed after it was written" if damage == "record" else "are not those of its record"
    assert said in err
    assert not (world / "new").exists()
