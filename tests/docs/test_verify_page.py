"""The page about verifying a record, followed as a reader would; the figures it states are those of the code."""

from __future__ import annotations

import re
import sys

from page import PAGES, Reader

from llmasos.testing.checkpoints import write_checkpoint
from llmasos_evals.records.attestation import json_schema
from llmasos_evals.records.drawing import detection
from llmasos_evals.records.exporters import EXPORTERS
from llmasos_evals.records.tolerance import TOLERANCES

PAGE = "how-to/verify-a-record.md"


def test_every_step_of_the_page_works(tmp_path):
    write_checkpoint(tmp_path / "model", "llama")
    environment = {"LLMASOS_CACHE": str(tmp_path / "cache"), "LLMASOS_CONFIG": str(tmp_path / "config")}
    reader = Reader(tmp_path, {"llmasos": [sys.executable, "-m", "llmasos"]}, environment)
    assert reader.follow(PAGE) == 8


def test_the_probabilities_are_those_of_the_code():
    rows = re.findall(
        r"^\| (\d+) \| ([\d.]+) % \| ([\d.]+) % \| ([\d.]+) % \|$", (PAGES / PAGE).read_text(), re.MULTILINE
    )
    assert len(rows) == 3
    for size, *stated in rows:
        for share, text in zip((0.01, 0.02, 0.05), stated, strict=True):
            digits = len(text.partition(".")[2])
            assert f"{detection(10**7, int(size), share) * 100:.{digits}f}" == text


def test_the_tolerances_are_those_of_the_code():
    rows = dict(
        re.findall(
            r"^\| (\w+)(?: \(`\w+`\))? \| ([\d.]+) \| [\d.]* ?\|$", (PAGES / PAGE).read_text(), re.MULTILINE
        )
    )
    assert {name: float(value) for name, value in rows.items()} == {
        name: tolerance.nats for name, tolerance in TOLERANCES.items()
    }


def test_every_field_of_an_attestation_is_explained():
    page = (PAGES / "reference" / "attestation.md").read_text(encoding="utf-8")
    schema = json_schema()
    names = set(schema["properties"])
    for definition in schema["$defs"].values():
        names |= set(definition["properties"])
    assert {name for name in names if f"`{name}`" not in page} == set()


def test_every_format_is_explained():
    page = (PAGES / "reference" / "exporters.md").read_text(encoding="utf-8")
    assert {name for name in EXPORTERS if f"| `{name}` |" not in page} == set()
