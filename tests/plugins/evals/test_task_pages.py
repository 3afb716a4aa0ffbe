"""The pages about tasks and metrics say what the code does."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from task_files import plans

from llmasos import Hub
from llmasos.api import UsageError
from llmasos_evals.metrics.corpus import CORPUS_AGGREGATIONS
from llmasos_evals.statistics.aggregations import AGGREGATIONS
from llmasos_evals.tasks.config import TASK_FIELDS, FewshotConfig
from llmasos_evals.tasks.filters import STEPS
from llmasos_evals.tasks.library import select

DOCS = Path(__file__).parents[3] / "docs"
TASKS = (DOCS / "reference" / "tasks.md").read_text(encoding="utf-8")
METRICS = (DOCS / "reference" / "metrics.md").read_text(encoding="utf-8")
HOW_TO = (DOCS / "how-to" / "write-a-task.md").read_text(encoding="utf-8")


def test_every_field_and_filter_has_its_line() -> None:
    for name in [*TASK_FIELDS, *STEPS, *(field.name for field in fields(FewshotConfig))]:
        assert f"`{name}`" in TASKS, name


def test_every_aggregation_is_named() -> None:
    section = METRICS.split("## Aggregations")[1].split("## ")[0]
    assert set(re.findall(r"`([a-z0-9_+]+)`", section)) == {*AGGREGATIONS, *CORPUS_AGGREGATIONS}


def test_signatures_of_the_page_are_real() -> None:
    quoted = re.findall(r"`(\w+\|[^`]+)`", METRICS)
    assert len(quoted) == 2
    for signature in quoted:
        metric = Hub().get("metric", signature.partition("|")[0])()
        version = r"sacrebleu:[0-9.]+"
        assert re.sub(version, "", metric.signature) == re.sub(version, "", signature)


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    for name, text in re.findall(r"^```\w+ file=(\S+)\n(.*?)^```$", HOW_TO, re.DOTALL | re.MULTILINE):
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_the_files_of_the_how_to_work(pages: Path) -> None:
    hub = Hub()
    selection = select(
        [str(pages / "general.yaml"), str(pages / "letters.yaml")], include=[], hub=hub, allow_task_code=False
    )
    first = {task.name: plans(task)[0].requests[0] for task in selection.tasks}
    assert (first["capitals"].context, first["capitals"].continuation) == (
        "The capital of France is",
        " Lyon",
    )
    assert first["sums"].context.count("Question:") == 3
    assert first["sums"].options["max_gen_toks"] == 32
    assert first["letters"].context.startswith("My dear aunt")
    (group,) = select(["choices"], include=[pages], hub=hub, allow_task_code=False).groups
    assert [rule.metric for rule in group.rules] == ["acc"]


def test_the_code_of_the_how_to_runs_only_when_allowed(pages: Path) -> None:
    path = str(pages / "tidied.yaml")
    with pytest.raises(UsageError, match="was not allowed"):
        select([path], include=[], hub=Hub(), allow_task_code=False)
    (task,) = select([path], include=[], hub=Hub(), allow_task_code=True).tasks
    assert (task.name, task.size()) == ("tidied", 2)
