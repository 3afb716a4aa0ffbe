"""Kernels compiled ahead of time, without a GPU: what the table in the documentation says is what comes out."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("triton", reason="triton is not installed: pip install 'llmasos[cuda]'")

import triton
from interpreted import run

from llmasos_cuda.builds import ARCHITECTURES, SHARED_LIMITS, _instructions
from llmasos_cuda.catalogue import cases, uses
from llmasos_cuda.launching import recorded

ROOT = Path(__file__).resolve().parents[3]
TABLE: dict[str, Any] = json.loads((ROOT / "docs" / "reference" / "cuda-kernels.json").read_text("utf-8"))
#: A register more or less, or another order of instructions, is no change worth a new table.
SLACK = 0.15
#: Kernels whose products go through tensor cores.
MULTIPLYING = ("attend_kernel", "head_kernel", "matrix_kernel")


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cuda_kernels", ROOT / "benchmarks" / "cuda_kernels.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(wanted: list[str], folder: Path) -> None:
    """Compile, and compare with the table."""
    rows = {(row["case"], row["kernel"], row["architecture"]): row for row in TABLE["builds"]}
    found = run("build_sample.py", *wanted, interpret=False, cache=folder)
    assert len(found) >= len(wanted)
    for case, kernel, figures in found:
        architecture = figures["architecture"]
        what = f"{case} {kernel} {architecture}"
        assert figures["shared"] <= SHARED_LIMITS[architecture], what
        assert figures["spills"] == 0, what
        assert (figures["tensor_core"] > 0) == (kernel in MULTIPLYING), what
        if triton.__version__ != TABLE["triton"]:
            continue  # another compiler makes other code; what it may not do is checked above
        kept = rows[case, kernel, architecture]
        for name in ("registers", "shared", "tensor_core", "instructions"):
            assert abs(figures[name] - kept[name]) <= SLACK * kept[name], f"{what}: {name}"


def test_fresh_builds_are_what_the_table_says(tmp_path: Path) -> None:
    check(["sm_90:decode.wide.64", "sm_120:int4.16.wide"], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_fresh_builds_are_what_the_table_says(architecture: str, tmp_path: Path) -> None:
    check([f"{architecture}:all"], tmp_path)


def test_the_table_has_every_kernel_on_every_architecture() -> None:
    for architecture in ARCHITECTURES:
        listed = {
            (row["case"], row["kernel"]) for row in TABLE["builds"] if row["architecture"] == architecture
        }
        assert listed == {(use.case.name, use.kernel) for use in uses(architecture)}
    assert {row["kernel"] for row in TABLE["builds"]} == set(TABLE["interpreted"])


def test_no_build_in_the_table_spills_or_asks_for_too_much() -> None:
    for row in TABLE["builds"]:
        assert row["spills"] == 0, row
        assert row["shared"] <= SHARED_LIMITS[row["architecture"]], row
        assert (row["tensor_core"] > 0) == (row["kernel"] in MULTIPLYING), row


def test_the_page_says_what_the_table_says() -> None:
    assert script().PAGE.read_text("utf-8") == script().render(TABLE)


def test_estimates_are_bound_by_memory_or_by_products() -> None:
    card = {"bandwidth": 1000, "half": 100, "tf32": 30}
    by_name = {case.name: case for case in cases()}
    norm, prefill = by_name["rms_norm"], by_name["attention.half.128"]
    assert script().at_best(card, norm) == pytest.approx(norm.bytes / 1e12 * 1e6, abs=0.1)
    assert script().at_best(card, prefill) == pytest.approx(2 * prefill.products / 1e14 * 1e6, abs=0.1)


def test_recording_runs_nothing() -> None:
    with recorded("sm_90") as record:
        assert record.launches == []
    names = [use.kernel for use in uses("sm_90", frozenset(["decode.half.128"]))]
    assert names == ["attend_kernel", "combine_kernel"]


def test_instructions_are_counted_by_name() -> None:
    listing = """
        /*0000*/                   LDC R1, c[0x0][0x37c] ;                    /* 0x0000df00ff017b82 */
        /*0010*/              @!P0 HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
        /*0020*/              @UP1 UTCHMMA gdesc[UR4], gdesc[UR6], tmem[UR8] ;
        /*0030*/                   STL.64 [R1+0x8], R2 ;
        /* a comment */
    """
    assert _instructions(listing) == {"LDC": 1, "HMMA": 1, "UTCHMMA": 1, "STL": 1}
