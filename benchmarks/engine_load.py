"""From a fresh process to the first token of a text, once; run by ``engine.py``. Prints one line of JSON on its old stdout.

``at`` is on the clock that all processes of a machine share, so that the parent can count from before the start. ``bare`` is the
peak of memory once the libraries are imported and before a model is touched: what is beyond it, the model takes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from engine_worker import peak

TEXT = "The capital of France is"


def main() -> None:
    settings = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    answer: dict[str, Any]
    try:
        token, bare = globals()[f"first_{settings['engine']}"](settings)
        answer = {"at": time.monotonic(), "token": token, "bare": bare, "peak": peak()}
    except ImportError as error:
        answer = {"unavailable": f"not installed: {error}"}
    answers.write(json.dumps(answer) + "\n")


def first_llmasos(settings: dict[str, Any]) -> tuple[int | None, int]:
    import torch

    import llmasos
    from llmasos.api import SamplingParams

    torch.set_num_threads(settings["threads"])
    bare = peak()
    place = Path(settings["cache"])
    hub = llmasos.Hub(
        cache_dir=place / "cache", config_dir=place / "config", offline=True, plugins=settings["plugins"]
    )
    loaded = hub.load_model(settings["model"], device="cpu", dtype="exact")
    params = SamplingParams(max_new_tokens=1, ignore_eos=True)
    return next(iter(hub.generate(loaded, [TEXT], params))).token, bare


def first_transformers(settings: dict[str, Any]) -> tuple[int, int]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(settings["threads"])
    bare = peak()
    path = Path(settings["model"])
    where: dict[str, Any] = {"pretrained_model_name_or_path": str(path)}
    if path.is_file():
        where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32, attn_implementation="sdpa")
    given = tokenizer(TEXT, return_tensors="pt", return_token_type_ids=False)
    return int(model.generate(**given, max_new_tokens=1, do_sample=False, pad_token_id=0)[0, -1]), bare


def first_llama_cpp(settings: dict[str, Any]) -> tuple[int, int]:
    from llama_cpp import Llama

    bare = peak()
    model = Llama(settings["model"], n_ctx=256, n_threads=settings["threads"], flash_attn=True, verbose=False)
    return int(next(iter(model.generate(model.tokenize(TEXT.encode(), add_bos=False), temp=0.0)))), bare


if __name__ == "__main__":
    main()
