"""What a worker process makes sure of before it computes."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flow_suite import run_suite, write_suite

import llmasos
from llmasos.api import EvaluationError
from llmasos_evals.scoring.plan import PlanSettings
from llmasos_evals.scoring.stage import DECIDING, ModelSource, ScoringStage


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_suite(tmp_path_factory.mktemp("flow"), documents=4)


@pytest.fixture
def hub(suite: Path) -> Iterator[llmasos.Hub]:
    with llmasos.Hub(cache_dir=suite / "cache", config_dir=suite / "cache", offline=True) as made:
        yield made


@pytest.fixture
def source(suite: Path, hub: llmasos.Hub) -> ModelSource:
    prepared = hub.prepare_model(str(suite / "model"))
    origin = hub.provenance()
    plugins = {plugin["id"]: plugin["digest"] for plugin in origin["plugins"]}
    around = {"plugins": plugins, "libraries": origin["environment"]["libraries"]}
    facts = {name: prepared.facts[name] for name in DECIDING}
    return ModelSource(str(suite / "model"), "auto", "exact", False, facts, around, prepared)


def travelled(source: ModelSource, threads: int | None = None) -> ScoringStage:
    """A stage as it arrives in a worker process."""
    stage = ScoringStage(source, PlanSettings(), context="a run", threads=threads)
    arrived: ScoringStage = pickle.loads(pickle.dumps(stage))
    assert arrived._source.prepared is None
    return arrived


def test_the_same_model_is_loaded(source: ModelSource, hub: llmasos.Hub) -> None:
    travelled(source).open(hub, lambda amount: None)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"facts": {"files": {"model.safetensors": "0" * 64}}}, "files"),
        ({"facts": {"backend": "acme/fast"}}, "backend"),
        ({"around": {"libraries": {"torch": "1.0"}}}, "torch"),
        ({"around": {"plugins": {"llmasos-transformer": "0" * 64}}}, "llmasos-transformer"),
        ({"around": {"plugins": {"acme-model": "0" * 64}}}, "acme-model"),
    ],
    ids=["weights", "back end", "library", "plugin", "missing plugin"],
)
def test_anything_else_is_refused(
    source: ModelSource, hub: llmasos.Hub, change: dict[str, Any], what: str
) -> None:
    change = {name: {**getattr(source, name), **value} for name, value in change.items()}
    with pytest.raises(EvaluationError, match=f"a worker has another {what} for "):
        travelled(replace(source, **change)).open(hub, lambda amount: None)


def test_threads_are_set_for_the_run_and_put_back(suite: Path) -> None:
    before = torch.get_num_threads()
    record = run_suite(suite, suite / "threads", ("again",), batch_invariant=False, threads=before + 1).record
    assert record["scorer"]["plan"]["threads"] == record["execution"]["threads"] == before + 1
    assert torch.get_num_threads() == before


def test_threads_are_divided_among_workers(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    found = [
        run_suite(
            suite, suite / f"{workers}-{invariant}", ("again",), workers=workers, batch_invariant=invariant
        ).record["scorer"]["plan"]["threads"]
        for workers, invariant in ((1, False), (2, False), (1, True))
    ]
    assert found == [8, 4, 1]


def test_a_key_says_what_the_answers_depend_on(source: ModelSource) -> None:
    class Shard:
        digest = "d"

    def key(context: str) -> str:
        return ScoringStage(source, PlanSettings(), context=context, threads=None).key(Shard())  # type: ignore[arg-type]

    assert key("a") == key("a") != key("b")
