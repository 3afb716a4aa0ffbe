"""Every CUDA kernel in Triton's interpreter: against plain torch in float64, and as the contract uses it."""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import Any

import pytest
from interpreted import run

import llmasos_cuda

pytest.importorskip("triton", reason="triton is not installed: pip install 'llmasos[cuda]'")

SOURCES = Path(llmasos_cuda.__file__).parent / "kernels"


def kernels() -> list[str]:
    """The names of all functions that are launched: jitted, and called something kernel."""
    found = []
    for path in sorted(SOURCES.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.endswith("_kernel"):
                assert [ast.unparse(one) for one in node.decorator_list] == ["triton.jit"], node.name
                found.append(node.name)
    return found


@functools.cache
def quick_run() -> dict[str, Any]:
    return run("contract_grid.py")


@functools.cache
def thorough_grid() -> dict[str, Any]:
    return run("kernel_grid.py", "--thorough")


@pytest.mark.parametrize("kernel", kernels())
def test_a_kernel_gives_what_its_definition_gives(kernel: str) -> None:
    found = quick_run()["grid"][kernel]
    assert found["failures"] == []
    assert found["cases"] >= 2
    assert set(found["largest"]) >= {"float32", "bfloat16"}


@pytest.mark.slow
@pytest.mark.parametrize("kernel", kernels())
def test_a_kernel_gives_what_its_definition_gives_on_the_whole_grid(kernel: str) -> None:
    found = thorough_grid()[kernel]
    assert found["failures"] == []
    assert set(found["largest"]) == {"float32", "bfloat16", "float16"}


def test_the_grid_has_every_kernel_and_no_other() -> None:
    assert set(quick_run()["grid"]) == set(kernels())


def test_stacks_recorded_steps_and_losses_give_what_the_reference_gives() -> None:
    found = quick_run()
    assert found["stack"][0] < 1e-5
    assert found["replays"][0] == 2
    assert found["loss and slopes"][0] < 1e-5
    assert found["operator linear_cross_entropy"] == [0.0, None]


@pytest.mark.slow
def test_ops_and_operators_keep_their_contracts() -> None:
    found = run("contract_grid.py", "--thorough")
    allowed = {"int8": 2e-3, "int4": 2e-3, "stack bfloat16": 0.125}
    for name, (difference, problem) in found.items():
        assert problem is None, f"{name}: {problem}"
        if name != "replays":
            limit = allowed.get(name, allowed.get(name.rpartition(" ")[2], 5e-5))
            assert difference <= limit, f"{name}: {difference}"
    assert found["replays"][0] > 0


def test_kernels_multiply_with_the_helper_that_knows_of_the_interpreter() -> None:
    bare = []
    for path in sorted(SOURCES.glob("*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef) or (path.name, function.name) == (
                "language.py",
                "dot",
            ):
                continue
            bare += [
                f"{path.name}:{node.lineno}"
                for node in ast.walk(function)
                if isinstance(node, ast.Attribute) and node.attr in ("dot", "dot_scaled")
            ]
    assert bare == []
