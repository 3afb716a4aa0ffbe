"""Rows of data files are those of the ``datasets`` library, value for value and type for type."""

from __future__ import annotations

import base64
import json
import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from dataset_cases import CASES, GOLDENS, Case, encoded

from llmasos_evals.datasets.readers import reader

_GOLDENS = json.loads(GOLDENS.read_text(encoding="utf-8"))["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.format}/{case.name}")
def test_rows_are_those_of_the_library(case: Case, tmp_path: Path) -> None:
    if case.rows is not None:
        pytest.importorskip("pyarrow")
    golden = _GOLDENS[f"{case.format}/{case.name}"]
    path = tmp_path / case.file
    path.write_bytes(base64.b64decode(golden["file"]) if "file" in golden else case.text.encode())
    rows = reader(case.format)([path], case.options, "test")
    assert rows.column_names == golden["columns"]
    assert typed(encoded(rows[:])) == typed(golden["rows"])


def typed(value: Any) -> Any:
    """Values with their kinds: 1, 1.0 and True are three things."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    return type(value).__name__, value


def test_every_case_has_its_golden() -> None:
    assert set(_GOLDENS) == {f"{case.format}/{case.name}" for case in CASES}
    assert len(CASES) == len(_GOLDENS)


# ---- against the library itself -------------------------------------------------------------------------------------

_CELLS = [
    "",
    "NA",
    "1",
    "-2",
    "007",
    "1.5",
    ".5",
    "1e3",
    "True",
    "false",
    "x",
    " 3",
    "nan",
    "2020-01-31",
    "a b",
    "inf",
]
_SCALARS = [
    None,
    0,
    1,
    -7,
    2.5,
    True,
    False,
    "x",
    "1",
    "2020-01-31",
    "2020-01-31 10:11:12",
    "null",
    "[1]",
    "",
    "ünï",
]


def made_up(seed: int) -> Case:
    """A CSV or JSON file of a few rows, columns of one kind or of many."""
    draw = random.Random(seed)
    rows = draw.randrange(1, 6)
    if seed % 2:
        columns = [draw.sample(_CELLS, draw.randrange(1, 4)) for _ in range(draw.randrange(2, 5))]
        body = [",".join(draw.choice(column) for column in columns) for _ in range(rows)]
        names = ",".join("abcd"[: len(columns)])
        return Case(f"made{seed}", "csv", "\n".join([names, *body]) + "\n")

    def value(kinds: list[Any], depth: int) -> Any:
        shape = draw.random()
        if depth and shape < 0.2:
            return [value(kinds, depth - 1) for _ in range(draw.randrange(3))]
        if depth and shape < 0.35:
            return {name: value(kinds, depth - 1) for name in draw.sample("pq", draw.randrange(1, 3))}
        return draw.choice(kinds)

    columns = {name: draw.sample(_SCALARS, draw.randrange(1, 4)) for name in "abc"[: draw.randrange(1, 4)]}
    deep = draw.choice([0, 0, 1, 2])
    body = [
        {name: value(kinds, deep) for name, kinds in columns.items() if draw.random() < 0.9}
        for _ in range(rows)
    ]
    return Case(f"made{seed}", "json", "".join(json.dumps(row) + "\n" for row in body))


@pytest.mark.slow
def test_rows_of_files_nobody_thought_of(tmp_path: Path) -> None:
    """Needs LLMASOS_ORACLE_PYTHON: an interpreter that has `datasets`."""
    python = os.environ.get("LLMASOS_ORACLE_PYTHON")
    if not python:
        pytest.skip("LLMASOS_ORACLE_PYTHON names no interpreter that has `datasets`")
    cases = [made_up(seed) for seed in range(int(os.environ.get("LLMASOS_ORACLE_CASES", "200")))]
    fields = [{"name": case.name, "format": case.format, "text": case.text} for case in cases]
    (tmp_path / "cases.json").write_text(json.dumps(fields), encoding="utf-8")
    script = Path(__file__).with_name("refresh_dataset_goldens.py")
    subprocess.run([python, script, tmp_path / "cases.json", tmp_path / "out.json"], check=True)
    wrong, read = [], 0
    for case, golden in zip(
        cases, json.loads((tmp_path / "out.json").read_text(encoding="utf-8")), strict=True
    ):
        if "error" in golden:
            continue
        read += 1
        path = tmp_path / case.file
        path.write_text(case.text, encoding="utf-8")
        rows = reader(case.format)([path], case.options, "test")
        if typed(encoded(rows[:])) != typed(golden["rows"]):
            wrong.append((case.text, encoded(rows[:]), golden["rows"]))
    assert read > len(cases) // 2
    assert wrong == []
