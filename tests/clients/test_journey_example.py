"""The example plugin alone: its own tests pass from a copy of its folder, and it imports nothing of LLMasOS but the API."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from journey_machines import EXAMPLE

pytest.importorskip("torch", reason="needs the extra `torch`")


def test_its_own_tests_pass(tmp_path: Path) -> None:
    copy = tmp_path / EXAMPLE.name
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    environ = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        command, cwd=copy, env=environ, capture_output=True, text=True, check=False, timeout=400
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr


@pytest.mark.parametrize("path", sorted((EXAMPLE / "llmasos_ngram").glob("*.py")), ids=lambda path: path.name)
def test_it_imports_only_the_api(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        for name in names:
            assert name.partition(".")[0] != "llmasos" or name == "llmasos.api", f"{path.name} imports {name}"
