"""The names and groups of lm-evaluation-harness's own 13,000 files are those that it finds itself."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llmasos import Hub
from llmasos_evals.tasks import library as module
from llmasos_evals.tasks.groups import Group
from llmasos_evals.tasks.index import open_index
from llmasos_evals.tasks.names import Names

#: Fields that groups override, as in ``index_oracle.py``.
FIELDS = ("num_fewshot", "description", "output_type", "dataset_name", "test_split")
#: Groups that harness 0.4.13 takes apart wrongly: a group that is listed as `{task: GROUP, ...}` gives all its tasks the
#: name of the group, so that one of them is left.
MISTAKEN = {"openllm"}


class Fields:
    """Stands for a task: its fields."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields = fields
        self.name = fields["task"]


@pytest.mark.slow
def test_names_and_groups_are_those_of_the_harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Needs LLMASOS_ORACLE_PYTHON: an interpreter that has lm-eval 0.4.13."""
    python = os.environ.get("LLMASOS_ORACLE_PYTHON")
    if not python:
        pytest.skip("LLMASOS_ORACLE_PYTHON names no interpreter that has lm-eval")
    script = Path(__file__).with_name("index_oracle.py")
    subprocess.run([python, script, tmp_path / "out.json"], check=True)
    harness = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    root = Path(harness["root"])

    index = open_index(root, tmp_path)
    ours = {name: [entry.kind.upper(), list(entry.members)] for name, (entry,) in index.by_name.items()}
    assert ours == harness["names"]

    monkeypatch.setattr(module.Library, "_task", lambda self, raw, path, given: Fields({**raw, **given}))
    library = module.Library(
        Names([root], Hub(cache_dir=tmp_path, config_dir=tmp_path)), Hub(), allow_task_code=True
    )
    wrong = {}
    for name, expected in harness["groups"].items():
        if expected is None or name in MISTAKEN:
            continue
        (group,) = library.build(name)
        # The harness keeps one task of a name.
        found = {leaf[0]: leaf for leaf in leaves(group)}
        if found != {leaf[0]: leaf for leaf in expected}:
            wrong[name] = (found, expected)
    assert wrong == {}


def leaves(found: Any) -> list[list[str]]:
    if isinstance(found, Group):
        return [leaf for member in found.members for leaf in leaves(member)]
    return [[found.name, *(str(found.fields.get(name)) for name in FIELDS)]]
