"""Stock task files ask here what they ask in lm-evaluation-harness: prompts, continuations, settings and targets.

The golden file has rows and digests for some tasks of all kinds (``coverage.py`` makes it, with that harness); the slow test
makes everything again: the table over all files, and the whole sample with both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from oracle_environment import lm_eval_python
from rendering import VARIANTS, digest_of, rendered

from llmasos import Hub
from llmasos_evals.tasks.parsing import parse_task
from llmasos_evals.tasks.taskfile import read_taskfile

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "rendering_golden.json").read_text(encoding="utf-8"))
WHEEL = "lm-eval==0.4.13"

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def hub() -> Hub:
    return Hub()


@pytest.fixture(scope="module")
def stock(wheel_file) -> Path:
    """The tasks folder, with the files of the golden tasks."""
    for name in sorted({name for task in GOLDEN["tasks"].values() for name in task["files"]}):
        path = wheel_file(WHEEL, f"lm_eval/tasks/{name}")
    return Path(str(path)[: -len(name) - 1])


@pytest.mark.parametrize("name", list(GOLDEN["tasks"]))
def test_asks_what_the_harness_asks(name: str, hub: Hub, stock: Path) -> None:
    golden = GOLDEN["tasks"][name]
    config = parse_task(read_taskfile(stock / name), stock / name)
    digests = {variant: digest_of(rendered(config, hub, golden["rows"], variant)) for variant in VARIANTS}
    assert digests == golden["digests"]
    if config.output_type != "loglikelihood_rolling":
        other = replace(config, description="Something else. ")
        assert digest_of(rendered(other, hub, golden["rows"], "as_is")) != golden["digests"]["as_is"]


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_all_files_and_the_whole_sample(kept_folder: Path, tmp_path: Path) -> None:
    """99 % are asked for with the packages of ``llmasos[task-code]``; without them each task that needs one is named."""
    python = lm_eval_python(kept_folder / "lm-eval-0.4.13")
    find = "import importlib.util as u; print(u.find_spec('lm_eval').submodule_search_locations[0])"
    folder = subprocess.run(
        [str(python), "-c", find], check=True, capture_output=True, text=True
    ).stdout.strip()
    command = [sys.executable, str(HERE / "coverage.py"), folder, "--lm-eval-python", str(python)]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "found.json")],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    sample = found["sample"]
    assert (sample["equal"] >= 300, sample["different"], sample["only LLMasOS fails"]) == (True, {}, {})
    packages = sum(reason.startswith("needs ") for reason in found["unsupported"].values())
    assert found["supported"] + packages >= 0.99 * found["text tasks"]
