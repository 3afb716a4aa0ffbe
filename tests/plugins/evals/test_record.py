"""The record: its schema, its digest, and the lines of the samples."""

from __future__ import annotations

import json
import math
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from llmasos.api import EvalRequest, Request, Response, canonical_digest
from llmasos_evals.records.record import Record, json_schema, number, record_digest, sealed
from llmasos_evals.records.results import Tally
from llmasos_evals.records.runs import execution_section, settings_section
from llmasos_evals.records.samples import pack, read_items, sample_line, unpack
from llmasos_evals.tasks.task import PlannedDocument

SHA = "0" * 64
DOCS = Path(__file__).resolve().parents[3] / "docs" / "reference" / "record.md"


def a_record() -> dict:
    counts = {
        "requests": 2,
        "tokens": 4,
        "truncated_requests": 0,
        "truncated_tokens": 0,
        "cut_continuations": 0,
        "unscored_tokens": 0,
        "empty_continuations": 0,
        "observed": {"ties": 1},
    }
    score = {
        "metric": "acc",
        "filter": "none",
        "value": 0.5,
        "stderr": None,
        "ci_low": None,
        "ci_high": None,
        "stderr_method": None,
        "n": 2,
        "higher_is_better": True,
        "unit": "",
        "range": [0.0, 1.0],
        "signature": "acc|v:1",
    }
    return {
        "run_key": SHA,
        "model": {
            "ref": "m",
            "source": "path",
            "revision": None,
            "license": None,
            "provenance": {},
            "format": "gguf",
            "loader": "a/b",
            "architecture": "a/c",
            "parameters": 1,
            "max_length": 8,
            "vocab_size": 9,
            "files": {"w": SHA},
            "digest": SHA,
            "dtype": "float32",
            "device": "cpu",
            "backend": "a/d",
            "ops": {},
            "ops_refused": {},
        },
        "tokenizer": {
            "format": "a/e",
            "digest": SHA,
            "vocab_size": 9,
            "adds_bos": False,
            "prefix_token": 1,
            "chat_template": None,
            "chat_template_applied": False,
            "chat_template_name": None,
            "system_instruction": None,
        },
        "plugins": [{"id": "a", "version": "1", "distribution": "a", "digest": SHA}],
        "rescored_from": None,
        "rescored_by": [],
        "settings": settings_section(EvalRequest("m", ("t",))),
        "scorer": {"name": "reference", "plan": {}, "plan_digest": SHA},
        "tasks": [
            {
                "name": "t",
                "alias": "t",
                "version": "1",
                "output_type": "multiple_choice",
                "num_fewshot": 0,
                "documents": 2,
                "digest": SHA,
                "data_digest": SHA,
                "data": {
                    "kind": "files",
                    "name": None,
                    "config": None,
                    "revision": None,
                    "split": "test",
                    "fewshot_split": None,
                },
                "code": {},
                "attribution": "",
                "generation": None,
                "prompt_digest": SHA,
                "samples_digest": SHA,
                "counts": counts,
                "scores": [score],
            }
        ],
        "groups": [{"name": "g", "alias": "g", "version": "1", "members": ["t"], "scores": [score]}],
        "prompt_digest": SHA,
        "samples_digest": SHA,
        "environment": {
            "python": "3",
            "implementation": "CPython",
            "system": "s",
            "machine": "m",
            "processor": "p",
            "cores": 1,
            "threads": None,
            "accelerators": [],
            "libraries": {},
        },
        "execution": execution_section(EvalRequest("m", ("t",))),
        "timings": {
            "started": "2026-01-01T00:00:00+00:00",
            "seconds": {"model": 0.1},
            "documents_computed": 2,
            "documents_resumed": 0,
        },
    }


def test_the_schema_in_the_package_is_that_of_the_code():
    shipped = json.loads(resources.files("llmasos_evals.records").joinpath("record.schema.json").read_text())
    assert shipped == json_schema(), (
        "python -m llmasos_evals.records.record > plugins/llmasos_evals/records/record.schema.json"
    )


def test_every_field_is_explained():
    page = DOCS.read_text(encoding="utf-8")
    schema = json_schema()
    names = set(schema["properties"])
    for definition in schema["$defs"].values():
        names |= set(definition["properties"])
    assert {name for name in names if f"`{name}`" not in page} == set()


def test_a_sealed_record_validates_and_keeps_its_digest():
    record = sealed(a_record())
    assert list(record)[:2] == ["schema", "digest"]
    assert record["digest"] == record_digest(json.loads(json.dumps(record)))
    Record.model_validate(record)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("extra",), 1),
        (("model", "extra"), 1),
        (("model", "digest"), "abc"),
        (("model", "parameters"), "many"),
        (("settings", "compat"), "other"),
        (("tasks", 0, "counts", "tokens"), None),
        (("tasks", 0, "scores", 0, "value"), "high"),
    ],
)
def test_a_record_that_breaks_the_schema_is_never_written(path, value):
    record = a_record()
    place = record
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ValidationError):
        sealed(record)


@pytest.mark.parametrize("section", ["model", "tasks", "settings", "groups", "samples_digest"])
def test_any_change_to_what_was_computed_changes_the_digest(section):
    record = sealed(a_record())
    assert record_digest({**record, section: "other"}) != record["digest"]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.5, 0.5),
        (None, None),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
    ],
)
def test_numbers_that_json_lacks_are_named(value, written):
    assert number(value) == written


@pytest.mark.parametrize("section", ["environment", "execution", "timings"])
def test_how_the_work_was_done_does_not_change_the_digest(section):
    record = sealed(a_record())
    assert record_digest({**record, section: "other"}) == record["digest"]


def test_settings_that_decide_no_number_are_not_among_the_settings():
    def settings(**given):
        return settings_section(EvalRequest("m", ("t",), **given))

    plain = settings()
    for changed in (
        {"workers": 4},
        {"token_budget": 64},
        {"batch_size": 2},
        {"cache": True},
        {"resume": False},
    ):
        assert settings(**changed) == plain
    for changed in ({"seed": 2}, {"stride": 5}, {"samples": {"t": [3, 1, 3]}}, {"gen_kwargs": {"top_k": 1}}):
        assert settings(**changed) != plain
    assert settings(samples={"t": [3, 1, 3]})["samples"] == {"t": [1, 3]}


def planned(*requests: Request) -> PlannedDocument:
    return PlannedDocument(4, {"q": "x"}, 1, requests, SHA)


def test_a_sample_line_holds_shared_prompts_once_and_digests_the_ids():
    requests = [Request("loglikelihood", ("t", 4, n), "prompt", f" {n}") for n in range(3)]
    responses = [
        Response(r.key, logprob=-1.5, is_greedy=False, tokens=1, token_ids=(7, r.key[2])) for r in requests
    ]
    line = sample_line(
        planned(*requests), responses, {("acc", "none"): 1.0, ("f1", "x,y"): (0, 1)}, {"ties": 0}
    )
    assert line["prompts"] == ["prompt"]
    assert [request["prompt"] for request in line["requests"]] == [0, 0, 0]
    ids = [canonical_digest([7, n]) for n in range(3)]
    assert [response["ids_digest"] for response in line["responses"]] == ids
    assert line["prompt_digest"] == canonical_digest(ids)
    again = json.loads(json.dumps(line))
    assert read_items(again) == {("acc", "none"): 1.0, ("f1", "x,y"): [0, 1]}


def test_counts_add_up_over_documents():
    requests = [Request("loglikelihood", ("t", 4, n), "p", "c") for n in range(3)]
    responses = [
        Response(requests[0].key, logprob=0.0, is_greedy=True, tokens=0),
        Response(requests[1].key, logprob=-1.0, is_greedy=True, tokens=5, truncated=3),
        Response(requests[2].key, logprob=-1.0, is_greedy=True, tokens=5, truncated=1, unscored=2),
    ]
    line = sample_line(planned(*requests), responses, {}, {"ties": 1})
    assert Tally([line, line]).counts() == {
        "requests": 6,
        "tokens": 20,
        "truncated_requests": 4,
        "truncated_tokens": 8,
        "cut_continuations": 2,
        "unscored_tokens": 4,
        "empty_continuations": 2,
        "observed": {"ties": 2},
    }


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
)


@given(values)
def test_items_survive_the_file(value):
    assert unpack(json.loads(json.dumps(pack(value), allow_nan=False))) == value


def test_nan_survives_the_file():
    assert math.isnan(unpack(json.loads(json.dumps(pack([math.nan]))))[0])
