"""The pages on data and task sources, followed as they stand; what they list is what there is."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from page import PAGES, Reader, assert_printed, blocks

from llmasos.testing.checkpoints import write_checkpoint
from llmasos.testing.tmp import environment
from llmasos_evals.datasets import csv_rows, json_rows, text_rows
from llmasos_evals.datasets.readers import ENDINGS, FORMATS
from llmasos_evals.tasks.sources import bigbench, hub_eval


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    commands = {"llmasos": [sys.executable, "-m", "llmasos"]}
    (tmp_path / "here").mkdir()
    return Reader(tmp_path / "here", commands, {**environment(tmp_path), "OMP_NUM_THREADS": "1"})


def follow(reader: Reader, page: str, model: Path) -> int:
    """Do what the page says with MODEL standing for a tiny one; the number of commands run."""
    count = 0
    for block in blocks(page):
        if block.file:
            path = reader.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language == "console":
            reader.printed = ""
            for line in block.text.splitlines():
                reader.run(line.replace(" MODEL ", f" {model} "))
                count += 1
        elif block.language == "text":
            assert_printed(block.text, reader.printed)
    return count


def test_following_the_page_on_local_data(reader: Reader, tmp_path: Path) -> None:
    assert follow(reader, "how-to/use-local-data.md", write_checkpoint(tmp_path / "model")) >= 9


def test_the_task_in_one_file_of_the_page(reader: Reader, tmp_path: Path) -> None:
    assert follow(reader, "reference/task-sources.md", tmp_path) == 1
    assert "The capital of France is" in reader.printed


def test_formats_endings_and_options_are_listed() -> None:
    text = (PAGES / "reference" / "datasets.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \| ([^|]*) \|$", text, re.MULTILINE)
    assert {name for name, _, _ in rows} == set(FORMATS) - {"bigbench"}
    for name, endings, options in rows:
        assert set(re.findall(r"`([^`]+)`", endings)) == {
            end for end, (kind, _) in ENDINGS.items() if kind == name
        }
        known = {"json": json_rows, "csv": csv_rows, "text": text_rows}.get(name)
        if known is not None:
            told = set(re.findall(r"`(\w+)`", options)) - {"line", "paragraph", "document"}
            without_effect = {
                "chunksize",
                "block_size",
                "use_threads",
                "on_mixed_types",
                "low_memory",
                "engine",
            }
            assert told == set(known._OPTIONS) - without_effect - {"encoding", "encoding_errors", "names"}


def test_metrics_solvers_and_scorers_are_listed() -> None:
    text = (PAGES / "reference" / "task-sources.md").read_text(encoding="utf-8")
    for name in (*bigbench._CHOICE, *bigbench._TEXT):
        assert f"| `{name}` |" in text
    source = Path(hub_eval.__file__).read_text(encoding="utf-8")
    for name in set(re.findall(r'(?:solver|scorer) [!=]= "(\w+)"', source)):
        assert f"`{name}`" in text, name
