"""One evaluation by LLMasOS, measured as ``eval_lm_eval.py`` measures the other side. Run by ``eval.py``."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    import torch

    import llmasos
    from llmasos.api import PreparedModel

    torch.set_num_threads(job["threads"])
    below = 0.0

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal below
            begin = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                below += time.process_time() - begin

        return call

    class MeasuredHub(llmasos.Hub):
        """Opens and loads before the clock starts, as the other side does; counts the CPU time below the tokens."""

        kept: PreparedModel | None = None

        def prepare_model(self, ref: str, **settings: Any) -> PreparedModel:
            if self.kept is None:
                prepared = super().prepare_model(ref, **settings)
                loaded = prepared.load()
                model: Any = loaded.model
                if job.get("silent"):
                    silence(model)
                model.hidden, model.token_logprobs = timed(model.hidden), timed(model.token_logprobs)
                self.kept = replace(prepared, load=lambda: loaded)
            return self.kept

        def generate(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
            nonlocal below
            chunks, before = super().generate(*args, **kwargs), below
            begin = time.process_time()
            try:
                for chunk in chunks:
                    below = before + time.process_time() - begin  # passes of the model lie within
                    yield chunk
            finally:
                below = before + time.process_time() - begin

    hub = MeasuredHub(cache_dir=Path(job["cache"]), config_dir=Path(job["cache"]), offline=True)
    hub.prepare_model(job["model"])
    hub.get("evaluator", "llmasos-evals/harness")  # imports are before the clock on the other side too
    loaded = peak()
    wall, cpu, below = time.perf_counter(), time.process_time(), 0.0
    result = hub.evaluate(
        job["model"],
        job["tasks"],
        include=(Path(job["folder"]),),
        limit=job["limit"],
        num_fewshot=job["shots"],
        compat="lm-eval",
        allow_task_code=True,
        bootstrap=1000,
        resume=False,
        output=Path(job["cache"]) / "run",
        **job["settings"],
    )
    execution = result.record["execution"]
    generated = sum(
        task["counts"]["tokens"] for task in result.record["tasks"] if task["output_type"] == "generate_until"
    )
    report = {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "below": below,
        "process_cpu": time.process_time(),
        "peak": peak(),
        "loaded": loaded,
        "tokens": execution["tokens_computed"],
        "ideal_tokens": execution["ideal_tokens"],
        "rows": execution["logit_rows"],
        "ideal_rows": execution["ideal_logit_rows"],
        "generated": generated,
        "phases": result.record["timings"]["seconds"],
        "scores": {
            task["name"]: {f"{s['metric']},{s['filter']}": s["value"] for s in task["scores"]}
            for task in result.record["tasks"]
        },
    }
    Path(job["output"]).write_text(json.dumps(report), encoding="utf-8")


def silence(model: Any) -> None:
    """Make every score zero at once: what is left is the work around the model."""
    import torch

    def hidden(batch: Any, cache: Any = None) -> Any:
        wanted = len(batch.tokens) if batch.tree is None else len(batch.tree.wanted)
        if batch.tree is not None:
            cache.advance(batch.tree)
        return torch.zeros(wanted, 1)

    def token_logprobs(hidden: Any, targets: Any, rows: Any = None) -> tuple[Any, Any]:
        return torch.zeros(len(targets)), torch.zeros(len(targets), dtype=torch.int64)

    model.hidden, model.token_logprobs = hidden, token_logprobs


def peak() -> int:
    """Largest resident set so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
