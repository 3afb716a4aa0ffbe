"""The lm-evaluation-harness side of the parity run: scores one task and writes what it saw, document by document.

Run by ``lm_eval_parity.py`` with the interpreter that has lm-eval; imports nothing of LLMasOS. Arguments:
MODEL_DIR TASK_DIR TASK LIMIT OUTPUT.json
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DISABLE_MULTIPROC", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def ids_digest(ids: list[int]) -> str:
    """sha256 over the ids as a JSON list without spaces."""
    return hashlib.sha256(json.dumps(ids, separators=(",", ":")).encode()).hexdigest()


def prompt_digest(argument: tuple) -> str:
    """sha256 over context and continuation as a JSON list; generation settings are left out (lm-eval mutates them)."""
    strings = [part for part in argument if isinstance(part, str)]
    return hashlib.sha256(json.dumps(strings, ensure_ascii=False).encode()).hexdigest()


def token_ids(model, sample: dict) -> list[list[int]]:
    """The ids of each request of a document before any truncation, as the harness builds them."""
    rows = []
    for argument in sample["arguments"]:
        if len(argument) == 1:  # rolling: the windows start from the prefix token
            rows.append([model.prefix_token_id, *model.tok_encode(argument[0])])
        elif isinstance(argument[1], dict):
            rows.append(model.tok_encode(argument[0]))
        elif argument[0] == "":
            rows.append([model.prefix_token_id, *model.tok_encode(argument[1], add_special_tokens=False)])
        else:
            context, continuation = model._encode_pair(*argument)
            rows.append(context + continuation)
    return rows


def main() -> None:
    model_dir, task_dir, task, limit, output = sys.argv[1:6]

    import lm_eval
    import torch
    import transformers
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    model = HFLM(pretrained=model_dir, dtype="float32", device="cpu", batch_size=1)
    started = time.perf_counter()
    result = lm_eval.simple_evaluate(
        model=model,
        tasks=[task],
        task_manager=TaskManager(include_path=task_dir, include_defaults=False),
        limit=int(limit),
        log_samples=True,
    )
    seconds = time.perf_counter() - started
    metrics = {key for key in result["results"][task] if "," in key and "_stderr" not in key}
    names = {key.split(",")[0] for key in metrics}
    documents: dict[int, dict] = {}
    for sample in result["samples"][task]:
        entry = documents.setdefault(
            sample["doc_id"],
            {
                "index": sample["doc_id"],
                "prompt_sha256": [prompt_digest(argument) for argument in sample["arguments"]],
                "ids_sha256": [ids_digest(ids) for ids in token_ids(model, sample)],
                "responses": sample["resps"],
                "target": sample["target"],
                "metrics": {},
            },
        )
        for name in sorted(names & sample.keys()):
            entry["metrics"][f"{name},{sample['filter']}"] = sample[name]
    report = {
        "task": task,
        "limit": int(limit),
        "results": {key: result["results"][task][key] for key in sorted(metrics)},
        "stderr": {key: value for key, value in sorted(result["results"][task].items()) if "_stderr" in key},
        "n": result["n-samples"][task],
        "documents": [documents[index] for index in sorted(documents)],
        "versions": {
            "lm_eval": lm_eval.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "seconds": round(seconds, 1),
    }
    Path(output).write_text(json.dumps(report, indent=1, default=str), encoding="utf-8")


if __name__ == "__main__":
    main()
