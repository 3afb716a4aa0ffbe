"""Results of other harnesses as runs: what they say is read, what they do not say is null, and nothing is believed."""

from __future__ import annotations

import copy
import json
import struct
import zipfile
from importlib import resources
from pathlib import Path

import pytest

from llmasos.api import InputError
from llmasos.cli.main import run as llmasos
from llmasos_evals.records.imported import json_schema
from llmasos_evals.records.importers import inspect_log
from llmasos_evals.records.importers.archive import Archive
from llmasos_evals.records.reading import open_run
from llmasos_evals.records.record import record_digest
from llmasos_evals.records.standing import standing_of

DATA = Path(__file__).parent / "data"
GOLDEN = json.loads((DATA / "lm_eval_output.json").read_text(encoding="utf-8"))
STAMP = "2026-11-22T06-30-55.438951"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMASOS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LLMASOS_CONFIG", str(tmp_path / "config"))


def import_(path, tmp_path, *flags, code=0):
    assert (
        llmasos(["eval", "import", str(path), "--output", str(tmp_path / "run"), "--quiet", *flags]) == code
    )
    return open_run(tmp_path / "run") if code == 0 else None


def write_lm_eval(folder: Path, results: dict, samples: dict, *, array: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"results_{STAMP}.json").write_text(json.dumps(results))
    for task, lines in samples.items():
        if array:
            (folder / f"pretrained__model_{task}.jsonl").write_text(json.dumps(lines))
        else:
            (folder / f"samples_{task}_{STAMP}.jsonl").write_text(
                "".join(json.dumps(line) + "\n" for line in lines)
            )
    return folder


# ---- lm-evaluation-harness ------------------------------------------------------------------------------------------


def test_what_lm_eval_wrote_is_read(tmp_path):
    run = import_(write_lm_eval(tmp_path / "out", GOLDEN["results"], GOLDEN["samples"]), tmp_path)
    record = run.record
    assert run.imported
    assert record["imported"]["tool"] == "lm-evaluation-harness"
    assert record["imported"]["version"] == GOLDEN["results"]["lm_eval_version"]
    assert record["model"]["ref"] == "../model"
    assert record["model"]["parameters"] == GOLDEN["results"]["config"]["model_num_parameters"]
    assert run.tasks == ("colours", "story", "prose")
    assert [group["members"] for group in record["groups"]] == [["colours", "story", "prose"]]
    for task in record["tasks"]:
        theirs = GOLDEN["results"]["results"][task["name"]]
        assert {(s["metric"], s["filter"]): s["value"] for s in task["scores"]} == {
            tuple(key.split(",")): value
            for key, value in theirs.items()
            if "," in key and "_stderr" not in key
        }
        assert [s["stderr"] for s in task["scores"]] == [
            None if value == "N/A" else value for key, value in theirs.items() if "_stderr," in key
        ]
        assert task["documents"] == theirs["sample_len"]
        assert (task["digest"], task["data_digest"], task["prompt_digest"]) == (None, None, None)
    assert record["digest"] == record_digest(record)


@pytest.mark.parametrize("task", ["colours", "story", "prose"])
def test_samples_of_lm_eval_are_read(tmp_path, task):
    run = import_(write_lm_eval(tmp_path / "out", GOLDEN["results"], GOLDEN["samples"]), tmp_path)
    lines = {line["doc_id"]: line for line in GOLDEN["samples"][task]}
    assert run.count(task) == len(lines)
    for sample in run.samples(task):
        line = lines[sample["index"]]
        assert sample["doc"] == line["doc"]
        assert sample["doc_digest"] == line["doc_hash"]
        assert sample["prompts"][0] == line["arguments"]["gen_args_0"]["arg_0"]
        values = {name: value for name, _, value in sample["items"]}
        assert values == {name: line[name] for name in line["metrics"]}
        answer, theirs = sample["responses"][0], line["resps"][0][0]
        if task == "colours":
            assert (answer["logprob"], answer["is_greedy"]) == (float(theirs[0]), theirs[1] == "True")
            assert [request["continuation"] for request in sample["requests"]] == [" red", " green", " blue"]
        elif task == "story":
            assert answer["text"] == theirs
        else:
            assert answer["logprob"] == float(theirs)
        assert answer["tokens"] is None


def test_items_are_those_that_the_scores_are_made_of(tmp_path):
    run = import_(write_lm_eval(tmp_path / "out", GOLDEN["results"], GOLDEN["samples"]), tmp_path)
    items = [item.value for item in run.items("colours", "acc")]
    assert sum(items) / len(items) == GOLDEN["results"]["results"]["colours"]["acc,none"]


def test_several_filters_of_a_document_are_one_document(tmp_path):
    results, samples = copy.deepcopy(GOLDEN["results"]), copy.deepcopy(GOLDEN["samples"])
    results["results"]["story"] |= {"exact_match,strict": 1.0, "exact_match_stderr,strict": 0.0}
    samples["story"] += [{**line, "filter": "strict", "exact_match": 1.0} for line in samples["story"]]
    run = import_(write_lm_eval(tmp_path / "out", results, samples), tmp_path)
    assert run.count("story") == 6
    assert [item.value for item in run.items("story", "exact_match", "strict")] == [1.0] * 6
    assert [item.value for item in run.items("story", "exact_match", "none")] == [0.0] * 6


def test_the_shape_of_the_first_versions_with_samples(tmp_path):
    """Arguments as lists, answers as numbers, no names of filters and metrics, a task's samples in one array."""
    samples = {}
    for task, lines in GOLDEN["samples"].items():
        samples[task] = [
            {
                "doc_id": line["doc_id"],
                "doc": line["doc"],
                "target": line["target"],
                "arguments": [list(parts.values()) for parts in line["arguments"].values()],
                "resps": [
                    [
                        [float(answer[0]), answer[1] == "True"]
                        if isinstance(answer, list)
                        else float(answer)
                        if task == "prose"
                        else answer
                        for answer in answers
                    ]
                    for answers in line["resps"]
                ],
                "filtered_resps": line["filtered_resps"],
                **{name: line[name] for name in line["metrics"]},
            }
            for line in lines
        ]
    folder = write_lm_eval(tmp_path / "out", GOLDEN["results"], samples, array=True)
    old = import_(folder, tmp_path)
    new_folder = write_lm_eval(tmp_path / "new", GOLDEN["results"], GOLDEN["samples"])
    assert llmasos(["eval", "import", str(new_folder), "--output", str(tmp_path / "again"), "--quiet"]) == 0
    new = open_run(tmp_path / "again")
    for task in new.tasks:
        for one, other in zip(old.samples(task), new.samples(task), strict=True):
            for field in ("prompts", "requests", "responses", "items", "doc"):
                assert one[field] == other[field], field


def test_the_shape_of_0_3(tmp_path):
    results = {
        "results": {"arc_easy": {"acc": 0.4, "acc_stderr": 0.01, "acc_norm": 0.5, "acc_norm_stderr": 0.01}},
        "versions": {"arc_easy": 0},
        "config": {"model": "gpt2", "model_args": "pretrained=gpt2,dtype=float16", "limit": None},
    }
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    record = import_(path, tmp_path).record
    assert record["model"]["ref"] == "gpt2"
    assert [(s["metric"], s["filter"], s["value"], s["stderr"]) for s in record["tasks"][0]["scores"]] == [
        ("acc", "none", 0.4, 0.01),
        ("acc_norm", "none", 0.5, 0.01),
    ]
    assert record["tasks"][0]["version"] == "0"
    assert record["imported"]["version"] is None


# ---- Inspect --------------------------------------------------------------------------------------------------------


def test_an_archive_of_inspect_is_read(tmp_path):
    run = import_(DATA / "inspect_sums.eval", tmp_path)
    (task,) = run.record["tasks"]
    assert [
        (s["metric"], s["filter"], s["value"], round(s["stderr"], 4), s["n"]) for s in task["scores"]
    ] == [
        ("accuracy", "match", 0.5, 0.2887, 4),
        ("accuracy", "includes", 0.75, 0.25, 4),
    ]
    assert run.record["model"]["ref"] == "mockllm/model"
    assert run.record["settings"]["seed"] == 7
    assert [item.value for item in run.items("sums", "accuracy", "match")] == [1.0, 1.0, 0.0, 0.0]
    assert [item.value for item in run.items("sums", "accuracy", "includes")] == [1.0, 1.0, 0.0, 1.0]
    sample = run.sample("sums", 3)
    assert sample["prompts"] == ["3+1="]
    assert sample["responses"][0]["text"] == "4 is right"
    assert (sample["sample_id"], sample["epoch"], sample["target"]) == ("s3", 1, "4")


def as_json(path: Path) -> dict:
    """The same log as ``.json``."""
    with Archive(path) as archive:
        header = json.loads(archive.read("header.json", 1 << 28))
        names = [name for name in archive.names() if name.startswith("samples/")]
        return {**header, "samples": [json.loads(archive.read(name, 1 << 28)) for name in names]}


@pytest.mark.parametrize("name", ["sums", "picks"])
def test_a_log_in_json_says_the_same(tmp_path, name):
    path = tmp_path / "log.json"
    path.write_text(json.dumps(as_json(DATA / f"inspect_{name}.eval")))
    run = import_(path, tmp_path)
    assert (
        llmasos(["eval", "import", str(DATA / f"inspect_{name}.eval"), "--output", str(tmp_path / "z"), "-q"])
        == 0
    )
    other = open_run(tmp_path / "z")
    assert run.record["tasks"] == other.record["tasks"]
    assert list(run.samples(name)) == list(other.samples(name))


def test_values_of_scores(tmp_path):
    log = as_json(DATA / "inspect_sums.eval")
    values = ["P", "N", {"tone": 3, "style": "C"}, True]
    for sample, value in zip(log["samples"], values, strict=True):
        sample["scores"] = {"judge": {"value": value}}
    log["samples"][0]["input"] = [{"role": "user", "content": "attachment://abc"}]
    log["samples"][0]["attachments"] = {"abc": "a long question"}
    (tmp_path / "log.json").write_text(json.dumps(log))
    run = import_(tmp_path / "log.json", tmp_path)
    assert [sample["items"] for sample in run.samples("sums")] == [
        [["accuracy", "judge", 0.5]],
        [["accuracy", "judge", 0.0]],
        [["tone", "judge", 3], ["style", "judge", 1.0]],
        [["accuracy", "judge", 1.0]],
    ]
    assert run.sample("sums", 0)["prompts"] == ["user: a long question"]


# ---- never mixed ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["verify"], ["sign"], ["rescore"], ["export", "--to", "lm-eval"]])
def test_an_imported_run_is_no_record_of_ours(tmp_path, capsys, command):
    run = import_(DATA / "inspect_sums.eval", tmp_path)
    assert llmasos(["eval", *command, str(run.folder)]) == 2
    assert "imported" in capsys.readouterr().err


def test_gate_and_compare_say_that_a_run_was_imported(tmp_path, capsys):
    run = import_(write_lm_eval(tmp_path / "out", GOLDEN["results"], GOLDEN["samples"]), tmp_path)
    capsys.readouterr()
    assert llmasos(["eval", "gate", str(run.folder), "--rule", "colours.acc>=0", "--json"]) == 0
    out, err = capsys.readouterr()
    said = f"warning: {run.folder} was computed by another harness and imported: nothing about it can be verified here"
    assert said in err
    assert json.loads(out)["run"]["imported"] is True
    allowed = [part for kind in ("task", "data", "signature") for part in ("--allow", kind)]
    assert llmasos(["eval", "compare", str(run.folder), str(run.folder), "--json", *allowed]) == 0
    out, err = capsys.readouterr()
    assert said in err
    assert json.loads(out)["baseline"]["imported"] is True


def test_its_state_is_imported(tmp_path):
    assert standing_of(import_(DATA / "inspect_picks.eval", tmp_path), hub=None).state == "imported"


def test_a_folder_with_a_run_is_left_alone(tmp_path, capsys):
    import_(DATA / "inspect_sums.eval", tmp_path)
    before = (tmp_path / "run" / "record.json").read_bytes()
    import_(DATA / "inspect_picks.eval", tmp_path, code=2)
    assert (tmp_path / "run" / "record.json").read_bytes() == before


def test_the_published_schema_is_that_of_the_code():
    shipped = json.loads(
        resources.files("llmasos_evals.records").joinpath("imported-record.schema.json").read_text()
    )
    assert shipped == json_schema(), (
        "python -m llmasos_evals.records.imported > plugins/llmasos_evals/records/imported-record.schema.json"
    )


# ---- hostile --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"results": 5}',
        '{"results": {"t": {"acc,none": 0.5}}, "configs": 5}',
        '{"results": {"t": {"acc,none": 0.5}}, "n-shot": [0]}',
        '{"eval": {}}',
        "[" * 200_000,
        '"x"',
        '{"results": {"t": [1]}, "a": NaN}',
    ],
)
def test_files_that_are_none(tmp_path, text, capsys):
    path = tmp_path / "file.json"
    path.write_text(text)
    code = llmasos(["eval", "import", str(path), "--output", str(tmp_path / "run")])
    err = capsys.readouterr().err
    assert "internal error" not in err
    assert code == 2 or open_run(tmp_path / "run").record["tasks"][0]["scores"] == []


@pytest.mark.parametrize(
    "change",
    [
        {"doc_id": None},
        {"doc_id": -1},
        {"doc_id": True},
        {"arguments": 5},
        {"resps": 5},
        {"resps": [[["high", "True"]]]},
        {"arguments": {"gen_args_0": 5}},
        {"metrics": [5]},
        {"acc": {"deep": [1, {"x": None}]}},
        {"doc_hash": "../x"},
    ],
)
def test_samples_of_another_shape_are_read_or_refused(tmp_path, change, capsys):
    samples = copy.deepcopy(GOLDEN["samples"])
    samples["colours"][0] |= change
    code = llmasos(
        [
            "eval",
            "import",
            str(write_lm_eval(tmp_path / "out", GOLDEN["results"], samples)),
            "--output",
            str(tmp_path / "run"),
        ]
    )
    assert code in (0, 2)
    assert "internal error" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "a\0b", "..\\x"])
def test_names_of_tasks_lead_nowhere(tmp_path, name):
    results = copy.deepcopy(GOLDEN["results"])
    results["results"][name] = results["results"].pop("colours")
    results["group_subtasks"] = {}
    folder = write_lm_eval(tmp_path / "out", results, {})
    (tmp_path / "secret_2026.jsonl").write_text("{}")
    run = import_(folder, tmp_path)
    assert name in run.tasks
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"record.json"}


def test_an_archive_that_grows_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(inspect_log, "MAX_HEADER", 1 << 20)
    path = tmp_path / "bomb.eval"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", b" " * (8 << 20))
    with pytest.raises(InputError, match="has more than"):
        inspect_log.read(path)


def test_a_member_that_lies_about_its_size_is_not_read(tmp_path):
    path = tmp_path / "lie.eval"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", b'{"eval": {"task": "t"}}' + b" " * 100_000)
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\x01\x02")
    data[place + 24 : place + 28] = struct.pack("<I", 10)  # the size that the directory states
    path.write_bytes(data)
    with pytest.raises(InputError):
        inspect_log.read(path)


@pytest.mark.parametrize("offset", range(0, 9000, 450))
def test_a_damaged_archive_is_refused_or_says_the_same(tmp_path, offset):
    data = bytearray((DATA / "inspect_picks.eval").read_bytes())
    data[offset] ^= 0xFF
    path = tmp_path / "damaged.eval"
    path.write_bytes(data)
    try:
        found = inspect_log.read(path)
        lines = [line for samples in found.samples.values() for line in samples]
    except InputError:
        return
    assert len(lines) <= 3
