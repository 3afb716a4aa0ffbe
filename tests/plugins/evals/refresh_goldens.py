"""Make ``goldens.json``: what lm-evaluation-harness itself does with the cases of ``harness_cases.py``.

Run in an environment that has it: ``HF_HUB_OFFLINE=1 python tests/plugins/evals/refresh_goldens.py``.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", DISABLE_MULTIPROC="1", LMEVAL_LOG_LEVEL="ERROR")

import lm_eval
import oracle_answers
from harness_cases import CASES
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

BOOTSTRAP = 2000
STOCK = Path(lm_eval.__file__).parent / "tasks"


class Oracle(LM):
    """Answers without a model, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[str]] = []

    def loglikelihood(self, requests):
        self.asked += [list(request.args) for request in requests]
        return [oracle_answers.loglikelihood(*request.args) for request in requests]

    def loglikelihood_rolling(self, requests):
        self.asked += [[request.args[0]] for request in requests]
        return [oracle_answers.rolling(request.args[0]) for request in requests]

    def generate_until(self, requests):
        self.asked += [[request.args[0]] for request in requests]
        return [oracle_answers.generation(request.args[0]) for request in requests]


def run(case, variant):
    with tempfile.TemporaryDirectory() as folder:
        case.write(Path(folder), variant, STOCK)
        manager = TaskManager(include_path=folder, include_defaults=False)
        oracle = Oracle()
        result = lm_eval.simple_evaluate(
            model=oracle,
            tasks=[case.name],
            task_manager=manager,
            num_fewshot=case.shots,
            limit=case.limit,
            bootstrap_iters=BOOTSTRAP,
            log_samples=False,
        )
    scores = {}
    for key, value in result["results"][case.name].items():
        name, _, filter_name = key.partition(",")
        if filter_name and not name.endswith("_stderr"):
            stderr = result["results"][case.name][f"{name}_stderr,{filter_name}"]
            scores[key] = {"value": float(value), "stderr": None if stderr == "N/A" else float(stderr)}
    return {
        "requests": len(oracle.asked),
        "sha256": hashlib.sha256(json.dumps(oracle.asked, ensure_ascii=False).encode()).hexdigest(),
        "first": oracle.asked[0],
        "scores": scores,
    }


def main() -> None:
    here = Path(__file__).parent
    cases = {}
    for case in CASES:
        made = [run(case, variant) for variant in case.variants()]
        if any(other != made[0] for other in made):
            raise SystemExit(f"{case.name}: our fields do not ask what the stock task asks")
        cases[case.name] = made[0]
        print(case.name, made[0]["requests"], file=sys.stderr)
    golden = {
        "made_by": "HF_HUB_OFFLINE=1 python tests/plugins/evals/refresh_goldens.py",
        "lm_eval": version("lm_eval"),
        "sacrebleu": version("sacrebleu"),
        "python": platform.python_version(),
        "bootstrap": BOOTSTRAP,
        "cases": cases,
    }
    (here / "goldens.json").write_text(
        json.dumps(golden, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
