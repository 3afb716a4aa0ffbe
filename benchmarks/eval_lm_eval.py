"""One evaluation by lm-evaluation-harness's Hugging Face back end, measured. Run by ``eval.py`` with its interpreter.

One argument: a JSON file with model, folder, tasks, limit, shots, batch, threads, output. Nothing of LLMasOS is imported.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

os.environ.update(
    HF_HUB_OFFLINE="1",
    DISABLE_MULTIPROC="1",
    TOKENIZERS_PARALLELISM="false",
    LMEVAL_LOG_LEVEL="ERROR",
    TQDM_DISABLE="1",
)


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    import lm_eval
    import torch
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    torch.set_num_threads(job["threads"])

    class Measured(HFLM):
        """Counts what goes through the model, and the CPU time below the tokens."""

        tokens = rows = 0
        below = 0.0

        def _loglikelihood_tokens(self, *args, **kwargs):
            if job.get("silent"):  # what is left is the work around the model
                return [(0.0, False) for _ in args[0]]
            begin = time.process_time()
            try:
                return super()._loglikelihood_tokens(*args, **kwargs)
            finally:
                self.below += time.process_time() - begin

        def _model_generate(self, *args, **kwargs):
            begin = time.process_time()
            try:
                return super()._model_generate(*args, **kwargs)
            finally:
                self.below += time.process_time() - begin

    model = Measured(job["model"], dtype="float32", device="cpu", batch_size=job["batch"])

    def count(module, args, kwargs, output):
        ids = kwargs.get("input_ids", args[0] if args else None)
        model.tokens += ids.numel()
        model.rows += output.logits.shape[0] * output.logits.shape[1]

    model.model.register_forward_hook(count, with_kwargs=True)
    loaded = peak()
    wall, cpu = time.perf_counter(), time.process_time()
    result = lm_eval.simple_evaluate(
        model=model,
        tasks=job["tasks"],
        task_manager=TaskManager(include_path=job["folder"], include_defaults=False),
        limit=job["limit"],
        num_fewshot=job["shots"],
        bootstrap_iters=1000,
    )
    report = {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "below": model.below,
        "process_cpu": time.process_time(),
        "peak": peak(),
        "loaded": loaded,
        "tokens": model.tokens,
        "rows": model.rows,
        "scores": {
            task: {key: value for key, value in scores.items() if "," in key and "_stderr" not in key}
            for task, scores in result["results"].items()
        },
        "version": lm_eval.__version__,
    }
    Path(job["output"]).write_text(json.dumps(report, default=float), encoding="utf-8")


def peak() -> int:
    """Largest resident set so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
