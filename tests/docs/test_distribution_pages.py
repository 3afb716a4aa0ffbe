"""The pages about workers and clusters: their Python runs, and the options of their commands exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from page import blocks

from llmasos.cli.eval_run import command


def test_the_stage_of_the_page_runs(tmp_path: Path) -> None:
    (code,) = [block.text for block in blocks("explanation/distribution.md") if block.language == "python"]
    script = tmp_path / "count.py"
    for workers in ("", ", workers=2"):
        script.write_text(code.replace("folder=Path(folder)", f"folder=Path(folder){workers}"))
        done = subprocess.run(
            [sys.executable, script],
            capture_output=True,
            text=True,
            timeout=120,
            env=os.environ | {"LLMASOS_CACHE": str(tmp_path)},
        )
        assert done.returncode == 0, done.stderr
        assert sorted(done.stdout.splitlines()) == ["0 1 False", "1 2 False"]


def commands() -> list[list[str]]:
    text = "".join(
        block.text for block in blocks("how-to/evaluate-on-a-cluster.md") if block.language == "console"
    )
    return [line.split() for line in text.splitlines()]


def test_the_options_of_eval_exist() -> None:
    known = {name for option in command.params for name in option.opts}
    evaluations = [words for words in commands() if words[:2] == ["llmasos", "eval"]]
    assert len(evaluations) == 2
    for words in evaluations:
        assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.skipif(find_spec("ray") is None, reason='Ray is not installed: pip install "llmasos[ray]"')
def test_the_commands_of_ray_exist() -> None:
    tool = Path(sys.executable).with_name("ray")
    for words in commands():
        if "ray" in words[:2]:
            _, name, *options = words[words.index("ray") :]
            shown = subprocess.run([tool, name, "--help"], capture_output=True, text=True, timeout=120)
            assert shown.returncode == 0
            for option in options:
                if option.startswith("--"):
                    assert re.search(rf"{option.partition('=')[0]}\b", shown.stdout), option
