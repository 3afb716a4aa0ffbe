"""Make ``filter_goldens.json``: what the filters of lm-evaluation-harness make of the answers in ``filter_cases.py``.

Run in an environment that has it: ``python tests/plugins/evals/refresh_filter_goldens.py``.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import lm_eval.filters  # noqa: F401 (registers them)
from filter_cases import ANSWERS, CASES, DOC
from lm_eval.api.registry import get_filter


def main() -> None:
    made = {}
    for name, (step, options) in CASES.items():
        (out,) = list(get_filter(step)(**options).apply([ANSWERS + ANSWERS[:1]], [DOC]))
        made[name] = out
    golden = {
        "made_by": "python tests/plugins/evals/refresh_filter_goldens.py",
        "lm_eval": version("lm_eval"),
        "cases": made,
    }
    path = Path(__file__).parent / "filter_goldens.json"
    path.write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
