"""Task files: what is read, what is refused, and how it is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from task_files import CHOICE, GENERATION, load, plans, run, saying, write_rows, write_task

from llmasos.api import InputError, LlmasosError, UnknownName, UsageError
from llmasos_evals.tasks.parsing import parse_task
from llmasos_evals.tasks.taskfile import FunctionRef, read_taskfile


def parsed(**fields: Any) -> Any:
    return parse_task({"task": "t", **CHOICE, **fields}, Path("t.yaml"))


def test_include_merges_in_order_and_own_keys_win(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("one: a\ntwo: a\nthree: a\n")
    (tmp_path / "b.yaml").write_text("two: b\nthree: b\n")
    (tmp_path / "c.yaml").write_text("include: [a.yaml, b.yaml]\nthree: c\n")
    assert read_taskfile(tmp_path / "c.yaml") == {"one": "a", "two": "b", "three": "c"}


def test_include_of_an_include_from_two_sides_is_no_circle(tmp_path: Path) -> None:
    (tmp_path / "base").write_text("x: 1\n")
    (tmp_path / "left.yaml").write_text("include: base\n")
    (tmp_path / "right.yaml").write_text("include: base\n")
    (tmp_path / "top.yaml").write_text("include: [left.yaml, right.yaml]\n")
    assert read_taskfile(tmp_path / "top.yaml") == {"x": 1}


def test_circle_of_includes_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("include: b.yaml\n")
    (tmp_path / "b.yaml").write_text("include: a.yaml\n")
    with pytest.raises(InputError, match=r"a\.yaml -> .*b\.yaml -> .*a\.yaml"):
        read_taskfile(tmp_path / "a.yaml")


def test_includes_that_double_at_every_step_are_read_once(tmp_path: Path) -> None:
    for step in range(60):
        (tmp_path / f"{step}.yaml").write_text(f"include: [{step + 1}.yaml, {step + 1}.yaml]\n")
    (tmp_path / "60.yaml").write_text("x: 1\n")
    assert read_taskfile(tmp_path / "0.yaml") == {"x": 1}


def test_links_in_a_circle_are_no_task_file(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").symlink_to(tmp_path / "t.yaml")
    with pytest.raises(InputError, match=r"cannot read task file .*t\.yaml"):
        read_taskfile(tmp_path / "t.yaml")


BOMB = "\n".join(["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60))])
MERGES = "\n".join(["a0: &a0 {x: 1}", *(f"a{i}: &a{i}\n  <<: [*a{i - 1}, *a{i - 1}]" for i in range(1, 60))])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "more than 1000000 values"),
        (MERGES, "more than 1000000 values"),
        ("metadata: &a [*a]", r"`\*a` stands within"),
        ("metadata: &a {b: {c: *a}}", r"`\*a` stands within"),
    ],
)
def test_aliases_that_stand_for_too_much(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.yaml").write_text(text + "\n")
    with pytest.raises(InputError, match=message):
        read_taskfile(tmp_path / "t.yaml")


def test_aliases_are_what_they_stand_for(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("a: &a {x: 1}\nb: &b [*a, *a]\nc: {<<: *a, y: *b}\nd: a *word* & more\n")
    assert read_taskfile(tmp_path / "t.yaml")["c"] == {"x": 1, "y": [{"x": 1}, {"x": 1}]}


def test_functions_and_data_belong_to_the_file_that_names_them(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "base.yaml").write_text(
        "process_docs: !function work.docs\ndataset_kwargs: {data_files: {test: rows.jsonl}}\n"
    )
    (tmp_path / "top.yaml").write_text("include: inner/base.yaml\n")
    read = read_taskfile(tmp_path / "top.yaml")
    assert read["process_docs"] == FunctionRef("work.docs", inner)
    assert read["dataset_kwargs"]["data_files"]["test"] == str(inner / "rows.jsonl")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not valid YAML"),
        ("- a\n- b\n", "is a mapping of fields, this is list"),
        ("include: 3\n", "`include` must be a path"),
        ("include: nowhere.yaml\n", r"no task file .*nowhere\.yaml \(included by .*t\.yaml\)"),
        ("a: !function nomodule\n", "names no module"),
        ("a: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_malformed_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_taskfile(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"doc_to_txt": "x"}, r"t\.yaml: unknown field `doc_to_txt`, did you mean `doc_to_text`\?"),
        ({"fewshot_config": {"sampel": 1}}, "unknown field `fewshot_config.sampel`, did you mean `samples`"),
        ({"fewshot_config": {"sampler": "balanced"}}, "neither `default`"),
        ({"output_type": "multiple_choices"}, "did you mean `multiple_choice`"),
        ({"doc_to_image": "picture"}, "needs images"),
        ({"class": "x.Y"}, "Python classes"),
        ({"recipe": "card=x"}, "unitxt recipes"),
        ({"num_fewshot": -1}, "`num_fewshot` must be a whole number"),
        ({"num_fewshot": True}, "`num_fewshot` must be a whole number"),
        ({"repeats": 0}, "`repeats` must be a whole number of at least 1"),
        ({"metric_list": "acc"}, "`metric_list` must be a list"),
        ({"metric_list": [{"name": "acc"}]}, "has no `metric` name"),
        ({"metric_list": [{"metric": "acc"}, {"metric": "acc"}]}, "listed twice"),
        (
            {"filter_list": [{"name": "a", "filters": []}]},
            "unknown field `filters` in filter 'a', did you mean `filter`",
        ),
        ({"doc_to_choice": None}, "has no `doc_to_choice`"),
        ({"doc_to_target": None}, "has no `doc_to_target`"),
        ({"doc_to_text": 1.5}, "`doc_to_text` must be one of: text, !function, int"),
        ({"test_split": None}, "neither a test_split nor a validation_split"),
        ({"process_docs": "utils.f"}, "must be a `!function"),
        ({"task": None}, "no `task` name"),
    ],
)
def test_refused_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parsed(**fields)


def test_unsupported_fields_that_are_off_are_no_error() -> None:
    assert parsed(unsafe_code=False, doc_to_image=None).task == "t"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, {"until": ["\n\n"], "max_gen_toks": 256, "do_sample": False, "temperature": 0.0}),
        ({"until": "."}, {"until": ["."], "max_gen_toks": 256, "do_sample": False, "temperature": 0.0}),
        (
            {"until": [], "max_new_tokens": 7, "max_gen_toks": 5},
            {"until": [], "max_gen_toks": 5, "do_sample": False, "temperature": 0.0},
        ),
        (
            {"temperature": "0.7", "top_p": 0.9},
            {"until": ["\n\n"], "max_gen_toks": 256, "do_sample": True, "temperature": 0.7, "top_p": 0.9},
        ),
        (
            {"do_sample": False, "temperature": 0.7},
            {"until": ["\n\n"], "max_gen_toks": 256, "do_sample": False, "temperature": 0.0},
        ),
    ],
)
def test_generation_settings(given: Any, expected: dict[str, Any]) -> None:
    made = parse_task(
        {"task": "t", **GENERATION, "generation_kwargs": given}, Path("t.yaml")
    ).generation_kwargs
    assert made == expected


@pytest.mark.parametrize("given", [{"until": 3}, {"max_gen_toks": "many"}, {"max_gen_toks": 0}, [1]])
def test_refused_generation_settings(given: Any) -> None:
    with pytest.raises(InputError, match="generation_kwargs"):
        parse_task({"task": "t", **GENERATION, "generation_kwargs": given}, Path("t.yaml"))


def test_data_that_is_not_here_is_named(tmp_path: Path) -> None:
    task = load(write_task(tmp_path, **CHOICE, dataset_path="allenai/ai2_arc"))
    with pytest.raises(LlmasosError, match=r"data set '?allenai/ai2_arc'? is not"):
        task.size()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"test": "gone.jsonl"}, r"no data file .*gone\.jsonl"),
        ({"test": "https://example.org/x.jsonl"}, "is a URL"),
        ({"test": 3}, "must be a path"),
        (None, "no data files"),
    ],
)
def test_refused_data_files(tmp_path: Path, files: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(write_task(tmp_path, **CHOICE, dataset_kwargs={"data_files": files}))


def test_data_from_lists_globs_gzip_and_fields(tmp_path: Path) -> None:
    import gzip
    import json

    row = {"question": "q", "options": ["a", "b"], "right": 0}
    write_rows(tmp_path / "p1.jsonl", [row])
    write_rows(tmp_path / "p2.jsonl", [row, row])
    (tmp_path / "z.json.gz").write_bytes(gzip.compress(json.dumps([row] * 3).encode()))
    (tmp_path / "nested.json").write_text(json.dumps({"rows": [row] * 4}))
    for files, extra, size in (
        (["p1.jsonl", "p2.jsonl"], {}, 3),
        ("p*.jsonl", {}, 3),
        ("z.json.gz", {}, 3),
        ("nested.json", {"field": "rows"}, 4),
    ):
        path = write_task(tmp_path, **CHOICE, dataset_kwargs={"data_files": {"test": files}, **extra})
        assert load(path).size() == size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n{"a": \n', "line 2: not valid JSON"),
        ("[1, 2]", "item 1: a row is an object, this is int"),
        ('{\n "a": 1\n}', "line 1: not valid JSON"),
        ("", "has no documents"),
    ],
)
def test_malformed_data(tmp_path: Path, text: str, message: str) -> None:
    path = write_task(tmp_path, **CHOICE)
    (tmp_path / "sums.jsonl").write_text(text)
    with pytest.raises(InputError, match=message):
        load(path).size()


def test_digest_ignores_what_cannot_change_a_number(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    first = load(write_task(tmp_path, **CHOICE))
    moved = load(
        write_task(
            tmp_path / "other", **CHOICE, task_alias="Sums", tag="x", target_delimiter=" ", num_fewshot=None
        )
    )
    assert (moved.digest, moved.data_digest(0)) == (first.digest, first.data_digest(0))
    changed = load(write_task(tmp_path, **{**CHOICE, "doc_to_text": "{{question}} "}))
    assert changed.digest != first.digest
    assert changed.data_digest(0) == first.data_digest(0)
    version = load(write_task(tmp_path, **CHOICE, metadata={"version": 2}))
    assert version.digest != first.digest
    assert version.version == "2"


def test_data_digest_follows_scored_rows_and_the_pool_that_is_used(tmp_path: Path) -> None:
    write_rows(tmp_path / "pool.jsonl", [{"question": "p", "options": ["x", "y"], "right": 0}])
    fields = {
        **CHOICE,
        "fewshot_split": "train",
        "dataset_kwargs": {"data_files": {"test": "sums.jsonl", "train": "pool.jsonl"}},
    }
    before = load(write_task(tmp_path, **fields))
    assert before.data_digest(1) == before.data_digest(5) != before.data_digest(0)
    write_rows(tmp_path / "pool.jsonl", [{"question": "p", "options": ["x", "y"], "right": 1}])
    after = load(write_task(tmp_path, **fields))
    assert after.data_digest(1) != before.data_digest(1)
    assert after.data_digest(0) == before.data_digest(0)
    assert (after.data_origin(1)["fewshot_split"], after.data_origin(0)["fewshot_split"]) == ("train", None)
    other = write_task(tmp_path, rows=[{"question": "p", "options": ["x", "y"], "right": 1}], **fields)
    assert load(other).data_digest(0) != before.data_digest(0)


def test_without_examples_the_pool_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "pool.jsonl").write_text("this cannot be read")
    files = {"test": "sums.jsonl", "train": "pool.jsonl"}
    task = load(write_task(tmp_path, **CHOICE, fewshot_split="train", dataset_kwargs={"data_files": files}))
    assert plans(task, limit=1)[0].requests[0].context
    assert len(task.data_digest(0)) == 64
    with pytest.raises(InputError, match=r"pool\.jsonl.*line 1: not valid JSON"):
        task.data_digest(1)


def test_a_lone_surrogate_is_named_with_its_task_and_document(tmp_path: Path) -> None:
    rows = [
        {"question": text, "options": ["a", "b"], "right": 0} for text in ("fine \U0001f600", "bad \ud800 x")
    ]
    with pytest.raises(InputError, match=r"sums\.yaml: task sums: a prompt has .* U\+D800 \(document 1\)"):
        plans(load(write_task(tmp_path, rows=rows, **CHOICE)))


# ---- task code ------------------------------------------------------------------------------------------------------

CODE = """
import random
def shuffled(dataset):
    rows = list(dataset)
    random.shuffle(rows)
    return rows
def shout(doc):
    return doc["question"].upper()
def broken(doc):
    raise RuntimeError("boom")
"""


def test_task_code_is_refused_unless_allowed(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text("raise SystemExit('must not run')")
    path = write_task(tmp_path, **{**CHOICE, "doc_to_text": "!function work.shout"})
    with pytest.raises(UsageError, match=r"!function work\.shout") as caught:
        load(path)
    assert "--allow-task-code" in str(caught.value.hint)


def test_task_code_runs_when_allowed_and_its_digest_is_kept(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(CODE)
    path = write_task(tmp_path, **{**CHOICE, "doc_to_text": "!function work.shout"})
    task = load(path, code=True)
    assert plans(task, limit=1)[0].requests[0].context == "WHAT IS 1 + 1?"
    assert list(task.code) == ["work.py"]
    (tmp_path / "work.py").write_text(CODE + "# edited\n")
    assert load(path, code=True).digest != task.digest


def test_task_code_that_shuffles_does_so_the_same_way_every_time(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(CODE)
    path = write_task(tmp_path, **CHOICE, process_docs="!function work.shuffled")
    orders = [[planned.doc["question"] for planned in plans(load(path, code=True))] for _ in range(2)]
    assert orders[0] == orders[1]
    assert orders[0] != sorted(orders[0])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def other(doc): pass", "has no function 'shout'"),
        ("import nowhere_at_all", "No module named 'nowhere_at_all'"),
        ("def shout(:", "cannot be imported: SyntaxError"),
        (None, "cannot be read"),
    ],
)
def test_broken_task_code_is_named(tmp_path: Path, source: str | None, message: str) -> None:
    if source is not None:
        (tmp_path / "work.py").write_text(source)
    path = write_task(tmp_path, **{**CHOICE, "doc_to_text": "!function work.shout"})
    with pytest.raises(Exception, match=message) as caught:
        load(path, code=True)
    assert type(caught.value).__name__ in ("InputError", "MissingDependency")


def test_failing_task_code_is_an_error_of_that_file(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(CODE)
    task = load(write_task(tmp_path, **{**CHOICE, "doc_to_text": "!function work.broken"}), code=True)
    with pytest.raises(Exception, match=r"broken in .*work\.py failed: RuntimeError: boom"):
        plans(task)


def test_task_code_written_for_the_datasets_package(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(
        "import datasets\n"
        "def docs(dataset: datasets.Dataset) -> datasets.Dataset:\n"
        "    return dataset.filter(lambda row: row['right'] == 1).map(lambda row: {'question': 'Q: ' + row['question']})\n"
    )
    task = load(write_task(tmp_path, **CHOICE, process_docs="!function work.docs"), code=True)
    assert plans(task, limit=1)[0].doc["question"] == "Q: What is 1 + 1?"


# ---- metrics and filters of a file --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"metric_list": [{"metric": "acc_nrom"}]}, UnknownName, "acc_nrom"),
        ({"metric_list": [{"metric": "bleu"}]}, InputError, "cannot score output_type multiple_choice"),
        ({"metric_list": [{"metric": "acc", "aggregation": "meen"}]}, InputError, "did you mean `mean`"),
        ({"metric_list": [{"metric": "acc", "colour": 1}]}, InputError, "metric acc has no option `colour`"),
        (
            {"filter_list": [{"name": "a", "filter": [{"function": "regexp"}]}]},
            InputError,
            "did you mean `regex`",
        ),
        (
            {"filter_list": [{"name": "a", "filter": [{"function": "regex", "regex_pattern": "("}]}]},
            InputError,
            "step regex",
        ),
        (
            {"filter_list": [{"name": "a", "filter": [{"function": "take_first", "k": 2}]}]},
            InputError,
            "take_first",
        ),
        ({"doc_to_text": "{{question"}, InputError, "`doc_to_text` is not a valid template"),
    ],
)
def test_mistakes_found_before_the_run(
    tmp_path: Path, fields: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        load(write_task(tmp_path, **{**CHOICE, **fields}))


def test_scripts_of_a_hub_are_not_our_metrics_of_the_same_name(tmp_path: Path) -> None:
    remote = {"hf_evaluate": True}
    with pytest.raises(InputError, match="metric bleu is a script of the `evaluate` hub"):
        load(write_task(tmp_path, **GENERATION, metric_list=[{"metric": "bleu", **remote}]))
    load(write_task(tmp_path, **GENERATION, metric_list=[{"metric": "exact_match", **remote}]))


def test_near_misses_of_metrics_are_suggested(tmp_path: Path) -> None:
    with pytest.raises(UnknownName) as caught:
        load(write_task(tmp_path, **CHOICE, metric_list=[{"metric": "acc_nrom"}]))
    assert "acc_norm" in str(caught.value)


def test_options_that_the_harness_ignores_are_remarked(tmp_path: Path) -> None:
    task = load(write_task(tmp_path, **CHOICE, metric_list=[{"metric": "acc", "ignore_case": True}]))
    assert task.remarks == ("metric acc takes no notice of ignore_case",)


def test_higher_is_better_and_aggregation_of_the_file_count(tmp_path: Path) -> None:
    listed = [{"metric": "exact_match", "aggregation": "median", "higher_is_better": False}]
    (score,) = run(load(write_task(tmp_path, **GENERATION, metric_list=listed)), saying("2"))
    assert (score.value, score.higher_is_better) == (0.0, False)
    assert "agg:median" in score.signature
