"""Writes data/lm_eval_output.json: what lm-evaluation-harness 0.4.13 writes about a tiny model on the tasks of verified_run.py.

``LM_EVAL=/path/to/lm_eval python refresh_export_golden.py`` in an environment with llmasos; lm_eval may be in another one.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

from verified_run import write_tasks

from llmasos.testing.checkpoints import write_checkpoint

GOLDEN = Path(__file__).with_name("data") / "lm_eval_output.json"
COLOURS = 8


def main() -> None:
    """Run lm_eval and keep what it wrote, without what differs from machine to machine."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_checkpoint(root / "model", "llama")
        write_tasks(root / "tasks", colours=COLOURS)
        subprocess.run(
            [
                *(os.environ.get("LM_EVAL", "lm_eval"), "run", "--model", "hf", "--device", "cpu"),
                *("--model_args", "pretrained=../model,dtype=float32", "--tasks", "everything"),
                *("--include_path", ".", "--output_path", "../out", "--log_samples", "--batch_size", "4"),
                *("--seed", "0,1234,1234,1234"),
            ],
            cwd=root / "tasks",
            env={**os.environ, "HF_HUB_OFFLINE": "1", "DISABLE_MULTIPROC": "1"},
            check=True,
        )
        (results,) = (root / "out").rglob("results_*.json")
        found = json.loads(results.read_text())
        found["pretty_env_info"], found["date"], found["total_evaluation_time_seconds"] = "", 0.0, "0"
        samples = {
            name: [
                json.loads(line) for path in results.parent.glob(f"samples_{name}_*") for line in path.open()
            ]
            for name in ("colours", "story", "prose")
        }
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps({"results": found, "samples": samples}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
