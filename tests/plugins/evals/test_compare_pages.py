"""The pages on comparing and gating: their commands run as they stand, and what they list is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from stat_runs import digest, write_run
from test_stat_intervals import CASES, coverage

from llmasos.cli.main import run as command_line
from llmasos_evals.commands.compare import COLUMNS
from llmasos_evals.statistics.pairing import KINDS, REFUSED

DOCS = Path(__file__).resolve().parents[3] / "docs"


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[tuple[str, str]]:
    """(rest of the info line, body) of each block."""
    return re.findall(rf"^```{language}[ ]?([^\n]*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    draw = np.random.default_rng(1)
    old = draw.integers(0, 2, 400).astype(float)
    new = np.where(draw.random(400) < 0.85, old, 1.0)
    for name, items, changes in (
        ("old", old, {}),
        ("new", new, {}),
        ("other", old[::-1], {}),
        ("changed", new, {"digest": digest("changed")}),
    ):
        write_run(tmp_path / "runs" / name, {"quiz": {"acc": items.tolist()}}, model=name, **changes)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("name", "least"), [("how-to/compare-runs.md", 7), ("how-to/gate-a-release.md", 5)])
def test_every_command_of_the_page_runs(folder, capsys, name, least):
    text = page(name)
    for info, body in blocks(text, "text"):
        if info.startswith("file="):
            (folder / info.removeprefix("file=")).write_text(body)
    ran = 0
    for _, body in blocks(text, "console"):
        for line in body.splitlines():
            command, _, remark = line.partition("  # ")
            expected = int(remark.removeprefix("exit code ")) if remark else 0
            assert command_line(shlex.split(command)[1:]) == expected, (line, capsys.readouterr().err)
            ran += 1
    assert ran >= least
    if name.endswith("release.md"):
        assert (folder / "gate.xml").is_file()


def test_the_header_of_the_table(folder, capsys):
    (_, header), *_ = blocks(page("how-to/compare-runs.md"), "text")
    assert command_line(["eval", "compare", "runs/old", "runs/new"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if line.startswith("task")).split() == header.split()
    assert [name for name in COLUMNS if name and name not in header] == []


def test_kinds_of_mismatch_are_named():
    text = page("how-to/compare-runs.md")
    assert all(f"`{kind}`" in text or f"--allow {kind}" in text for kind in REFUSED)
    rows = re.findall(
        r"^\| `(\w+)` \| [^|]+ \| ([\w ]+) \| refused \|$", page("explanation/statistics.md"), re.MULTILINE
    )
    assert [kind for kind, _ in rows] == list(KINDS)
    assert {kind for kind, what in rows if what == "refused"} == REFUSED


@pytest.mark.slow
def test_the_coverage_of_the_page_is_what_simulation_gives():
    rows = dict(
        re.findall(r"^\| ([^|]+) \| ([0-9.]+) % \|$", page("explanation/statistics.md"), re.MULTILINE)
    )
    assert set(rows) == set(CASES)
    for name, (draw_items, aggregation, truth, limits, clusters) in CASES.items():
        assert 100 * coverage(draw_items, aggregation, truth, 2000, limits, clusters) == pytest.approx(
            float(rows[name]), abs=0.06
        )


def test_the_coverage_of_the_page_has_every_case():
    rows = re.findall(r"^\| ([^|]+) \| [0-9.]+ % \|$", page("explanation/statistics.md"), re.MULTILINE)
    assert set(rows) == set(CASES)


def test_methods_of_the_page_are_those_of_records(folder):
    from llmasos_evals.records.reading import open_run

    text = page("explanation/statistics.md")
    run = open_run(folder / "runs" / "old")
    error, _, how = run.task("quiz")["scores"][0]["stderr_method"].partition("|")
    assert f"`{error}`" in text
    assert f"`{how}`" in text
