"""The lm-eval export against what lm-evaluation-harness 0.4.13 itself wrote about the same model, tasks and documents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from verified_run import write_world

from llmasos.cli.main import run as llmasos

GOLDEN = json.loads((Path(__file__).parent / "data" / "lm_eval_output.json").read_text(encoding="utf-8"))
#: What that harness says about itself, its environment and the machine.
OWN = {
    "config",
    "configs",
    "date",
    "eot_token_id",
    "lm_eval_version",
    "llmasos",
    "model_name",
    "model_name_sanitized",
    "model_source",
    "pretty_env_info",
    "tokenizer_bos_token",
    "tokenizer_eos_token",
    "tokenizer_pad_token",
    "total_evaluation_time_seconds",
    "transformers_version",
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    root = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMASOS_CACHE", str(root / "cache"))
        patch.setenv("LLMASOS_CONFIG", str(root / "config"))
        write_world(root, "--compat", "lm-eval", colours=8)
        command = ["eval", "export", str(root / "run"), "--to", "lm-eval", "--include", str(root / "tasks")]
        assert llmasos([*command, "--output", str(root / "out"), "--model-name", "org/tiny", "--quiet"]) == 0
    folder = root / "out" / "org__tiny"
    (results,) = folder.glob("results_*.json")
    samples = {
        name: [json.loads(line) for path in folder.glob(f"samples_{name}_*.jsonl") for line in path.open()]
        for name in ("colours", "story", "prose")
    }
    return json.loads(results.read_text()), samples


def near(value):
    """Numbers, and numbers written as text, to 1e-3; everything else as it is."""
    if isinstance(value, dict):
        return {key: near(item) for key, item in value.items()}
    if isinstance(value, list):
        return [near(item) for item in value]
    if isinstance(value, float):
        return pytest.approx(value, rel=1e-5, abs=1e-3)
    try:
        return NearText(float(value)) if isinstance(value, str) and "." in value else value
    except ValueError:
        return value


class NearText:
    """Equal to the text of a number close by."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and float(other) == pytest.approx(self.value, abs=1e-3)

    def __repr__(self) -> str:
        return f"text of about {self.value}"

    __hash__ = None


def test_the_results_have_the_same_fields(exported):
    results, _ = exported
    assert results.keys() - {"llmasos"} == GOLDEN["results"].keys()
    assert results["config"].keys() == GOLDEN["results"]["config"].keys()


@pytest.mark.parametrize("field", sorted(GOLDEN["results"].keys() - OWN))
def test_results_are_equal_field_by_field(exported, field):
    assert exported[0][field] == near(GOLDEN["results"][field])


def test_fields_of_a_task_file_are_those_that_the_harness_lists(exported):
    for task, config in GOLDEN["results"]["configs"].items():
        mine = exported[0]["configs"][task]
        for field, value in config.items():
            if field not in ("metadata", "fewshot_config", "dataset_kwargs"):
                assert mine[field] == value, (task, field)
        assert mine["metadata"]["version"] == config["metadata"]["version"]


def test_who_computed_it_is_said(exported):
    results, _ = exported
    assert results["lm_eval_version"].startswith("llmasos ")
    assert len(results["llmasos"]["record"]) == 64
    assert (results["model_source"], results["model_name"]) == ("llmasos", "org/tiny")


@pytest.mark.parametrize("task", ["colours", "prose", "story"])
def test_samples_are_equal_field_by_field(exported, task):
    _, samples = exported
    assert len(samples[task]) == len(GOLDEN["samples"][task])
    for mine, theirs in zip(samples[task], GOLDEN["samples"][task], strict=True):
        assert list(mine) == list(theirs)
        for field, value in theirs.items():
            assert mine[field] == near(value), field


def test_the_tables_of_the_harness_can_be_made_from_it(exported):
    table = pytest.importorskip("lm_eval.utils").make_table(exported[0])
    assert "colours" in table
