"""Exports to Every Eval Ever, to a model repository's .eval_results and to a model card, held to the readers of those formats."""

from __future__ import annotations

import hashlib
import json
import re
import shutil

import pytest
import yaml
from record_samples import a_sample, write_run
from test_record import a_record
from verified_run import write_world

from llmasos.cli.main import run as llmasos
from llmasos_evals.records.reading import open_run
from llmasos_evals.records.results import Tally


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("formats")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMASOS_CACHE", str(root / "cache"))
        patch.setenv("LLMASOS_CONFIG", str(root / "config"))
        return write_world(root, colours=8)


def export(world, form, output, *flags):
    command = ["eval", "export", str(world / "run"), "--to", form, "--output", str(output), "--quiet"]
    return llmasos([*command, "--include", str(world / "tasks"), *flags])


def every_eval_ever(world, output) -> tuple[dict, list[dict], list]:
    assert export(world, "every-eval-ever", output, "--model-name", "org/tiny") == 0
    paths = sorted(path for path in output.rglob("*") if path.is_file())
    (aggregate,) = [path for path in paths if path.suffix == ".json"]
    (rows,) = [path for path in paths if path.suffix == ".jsonl"]
    return json.loads(aggregate.read_text()), [json.loads(line) for line in rows.open()], paths


def test_scores_come_with_their_uncertainty(world, tmp_path):
    aggregate, _, _ = every_eval_ever(world, tmp_path)
    record = open_run(world / "run").record
    found = {result["evaluation_result_id"]: result for result in aggregate["evaluation_results"]}
    for task in record["tasks"]:
        for score in task["scores"]:
            result = found.pop(f"{task['name']}:{score['metric']}:{score['filter']}")
            details = result["score_details"]
            assert details["score"] == score["value"]
            assert details["uncertainty"]["standard_error"]["value"] == score["stderr"]
            assert details["uncertainty"]["confidence_interval"]["lower"] == score["ci_low"]
            assert details["uncertainty"]["num_samples"] == score["n"]
            assert result["metric_config"]["lower_is_better"] == (not score["higher_is_better"])
            assert result["source_data"]["additional_details"]["data_digest"] == task["data_digest"]
    assert not found
    assert aggregate["source_metadata"]["additional_details"]["record_digest"] == record["digest"]


def test_instances_belong_to_the_aggregate(world, tmp_path):
    aggregate, rows, paths = every_eval_ever(world, tmp_path)
    detailed = aggregate["detailed_evaluation_results"]
    path = tmp_path / detailed["file_path"]
    assert path in paths
    assert detailed["checksum"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert detailed["total_rows"] == len(rows) == 8 * 2 + 6
    results = {result["evaluation_result_id"] for result in aggregate["evaluation_results"]}
    assert {row["evaluation_result_id"] for row in rows} <= results
    assert {row["evaluation_id"] for row in rows} == {aggregate["evaluation_id"]}
    means = {}
    for row in rows:
        means.setdefault(row["evaluation_result_id"], []).append(row["evaluation"]["score"])
    for result in aggregate["evaluation_results"]:
        scores = means.get(result["evaluation_result_id"])
        if scores:
            assert sum(scores) / len(scores) == pytest.approx(result["score_details"]["score"])


def test_an_instance_says_what_was_asked_and_answered(world, tmp_path):
    _, rows, _ = every_eval_ever(world, tmp_path)
    choice = next(row for row in rows if row["evaluation_name"] == "colours" and row["sample_id"] == "1")
    assert choice["input"] == {
        "raw": "Question 1:",
        "reference": ["green"],
        "choices": [" red", " green", " blue"],
    }
    assert choice["answer_attribution"][0]["extracted_value"] in ("red", "green", "blue")
    story = next(row for row in rows if row["evaluation_name"] == "story" and row["sample_id"] == "0")
    assert story["output"]["raw"] == [open_run(world / "run").sample("story", 0)["responses"][0]["text"]]


def test_a_rude_word_is_no_correct_answer(tmp_path):
    samples = [a_sample(number, value) for number, value in enumerate((0.0, 3.0))]
    for sample in samples:
        sample["items"][0][0] = "toxic_words"
    record, tally = a_record(), Tally(samples)
    section = record["tasks"][0]
    section.update(
        prompt_digest=tally.prompt_digest, samples_digest=tally.samples_digest, counts=tally.counts()
    )
    section["scores"][0].update(
        metric="toxic_words", value=1.5, higher_is_better=False, range=[0.0, None], signature=""
    )
    run = write_run(tmp_path / "run", samples, record)
    command = ["eval", "export", str(run), "--to", "every-eval-ever", "--output", str(tmp_path / "out")]
    assert llmasos([*command, "--quiet"]) == 0
    (rows,) = (tmp_path / "out").rglob("*.jsonl")
    found = [json.loads(line)["evaluation"] for line in rows.open()]
    assert found == [{"score": 0.0, "is_correct": True}, {"score": 3.0, "is_correct": False}]


def test_exporting_again_writes_the_same_files(world, tmp_path):
    first, second = (every_eval_ever(world, tmp_path / name)[2] for name in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.slow
@pytest.mark.network
def test_files_hold_to_the_schemas_of_every_eval_ever(world, tmp_path, wheel_file):
    jsonschema = pytest.importorskip("jsonschema")
    schemas = [
        json.loads(
            wheel_file("every-eval-ever==0.3.0", f"every_eval_ever/schemas/{name}.schema.json").read_text()
        )
        for name in ("eval", "instance_level_eval")
    ]
    aggregate, rows, _ = every_eval_ever(world, tmp_path)
    for schema in schemas:
        assert schema["version"] == aggregate["schema_version"]
    jsonschema.Draft7Validator(schemas[0]).validate(aggregate)
    instances = jsonschema.Draft7Validator(schemas[1])
    for row in rows:
        instances.validate(row)


def test_the_path_is_one_that_the_data_set_takes(world, tmp_path):
    """The twin of the slow test: what its schema demands of the path and of the fields."""
    aggregate, rows, _ = every_eval_ever(world, tmp_path)
    pattern = r"data/[^/]+/org/tiny/[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}_samples\.jsonl"
    assert re.fullmatch(pattern, aggregate["detailed_evaluation_results"]["file_path"])
    for result in aggregate["evaluation_results"]:
        assert {"min_score", "max_score"} <= result["metric_config"].keys()
    for row in rows:
        assert row["interaction_type"] == "single_turn"
        assert isinstance(row["evaluation"]["is_correct"], bool)
        assert all(isinstance(value, str) for value in row["metadata"].values())


def test_results_for_a_model_repository(world, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    flags = ("--dataset", "colours=org/colours#basic", "--dataset", "story=org/stories")
    assert export(world, "eval-results", tmp_path, *flags) == 0
    entries = {}
    for path in (tmp_path / ".eval_results").iterdir():
        for entry in hub.parse_eval_result_entries(yaml.safe_load(path.read_text())):
            entries[entry.dataset_id] = (path.name, entry)
    record = open_run(world / "run").record
    name, colours = entries["org/colours"]
    assert name == "colours.yaml"
    assert (colours.task_id, colours.value) == ("basic", record["tasks"][0]["scores"][0]["value"])
    assert record["digest"] in colours.notes
    assert entries["org/stories"][1].task_id == "story"
    assert "org/prose" not in entries


def test_without_a_data_set_there_is_nothing_to_say(world, tmp_path, capsys):
    assert export(world, "eval-results", tmp_path / "out") == 2
    assert "--dataset TASK=ORG/NAME" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["colours", "colours=name", "colours=a/b/c", "nobody=org/name"])
def test_data_sets_that_make_no_sense_are_refused(world, tmp_path, text):
    assert export(world, "eval-results", tmp_path, "--dataset", text) == 2


def test_metadata_of_a_model_card(world, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    assert (
        export(world, "model-index", tmp_path, "--model-name", "org/tiny", "--dataset", "colours=org/colours")
        == 0
    )
    card = hub.ModelCard(f"---\n{(tmp_path / 'model-index.yaml').read_text()}---\n# tiny\n")
    assert card.data.model_name == "tiny"
    record = open_run(world / "run").record
    expected = {
        (task["name"], score["metric"]): score["value"]
        for task in record["tasks"]
        for score in task["scores"]
    }
    found = {
        (result.dataset_name, result.metric_type): result.metric_value for result in card.data.eval_results
    }
    assert found == expected
    colours = next(result for result in card.data.eval_results if result.dataset_name == "colours")
    assert (colours.dataset_type, colours.dataset_split) == ("org/colours", "test")
    assert colours.metric_args["llmasos_record"] == record["digest"]


def test_files_go_to_the_run_and_replace_nothing_that_differs(world, tmp_path, capsys):
    shutil.copytree(world / "run", tmp_path / "run")
    command = ["eval", "export", str(tmp_path / "run"), "--to", "lm-eval", "--quiet"]
    assert llmasos(command) == 0
    folder = tmp_path / "run" / "export" / "lm-eval"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sorted(map(str, files)) == sorted(capsys.readouterr().out.split())
    assert llmasos(command) == 0
    changed = next(path for path in files if path.name.startswith("samples_colours"))
    before = changed.read_text()
    changed.write_text("mine")
    assert llmasos(command) == 2
    assert f"{changed} is there already and differs" in capsys.readouterr().err
    assert changed.read_text() == "mine"
    assert llmasos([*command, "--overwrite"]) == 0
    assert changed.read_text() == before


def test_without_the_tasks_the_documents_are_left_out(world, tmp_path, capsys):
    command = ["eval", "export", str(world / "run"), "--to", "lm-eval", "--output", str(tmp_path)]
    assert llmasos(command) == 0
    assert "documents and filtered answers are left out" in capsys.readouterr().err
    (path,) = tmp_path.rglob("samples_colours_*")
    line = json.loads(path.read_text().splitlines()[0])
    assert line["doc"] is None
    assert line["doc_hash"] == open_run(world / "run").sample("colours", 0)["doc_digest"]
    assert line["acc"] in (0.0, 1.0)
