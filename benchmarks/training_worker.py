"""One trainer in one precision, for a few steps; run by ``training.py``, a process each time, which answers with one line of json.

Every trainer starts from the same weights and sees the same batches: AdamW (torch's fused one), no dropout unless asked for,
float32 weights; bf16 is autocast for transformers and rounded factors of products for llmasos.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Step = Callable[[Tensor], Tensor]


def main() -> None:
    settings = json.loads(sys.argv[1])
    # The answer goes where nothing else writes: libraries print to stdout, too.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    if settings["memory"]:
        from llmasos_cpu.allocator import keep_memory

        keep_memory()
    loss_of, parameters, facts = {"llmasos": _llmasos, "transformers": _transformers}[settings["trainer"]](
        settings
    )
    optimiser = torch.optim.AdamW(parameters, lr=settings["rate"], weight_decay=0.1, fused=True)
    ids = torch.tensor(json.loads(Path(settings["ids"]).read_text(encoding="utf-8")))
    losses, seconds = [], []
    for number in range(settings["steps"]):
        batch = ids[number % len(ids)]
        begin = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        loss = loss_of(batch)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - begin)
    answers.write(
        json.dumps({"losses": losses, "seconds": seconds, "tokens": ids[0].numel(), "peak": _peak(), **facts})
    )
    answers.flush()


def _llmasos(settings: dict[str, Any]) -> tuple[Step, list[Tensor], dict[str, Any]]:
    import llmasos
    from llmasos.api import PackedBatch
    from llmasos.pipelines.load import opened_model
    from llmasos.pipelines.training import bind_training

    place = Path(settings["cache"])
    hub = llmasos.Hub(cache_dir=place / "cache", config_dir=place / "config", offline=True)
    dtype: Any = {"fp32": "float32", "bf16": "bfloat16"}[settings["precision"]]
    ops = bind_training(hub, "cpu", dtype)
    with opened_model(hub, settings["folder"]) as opened:
        model: Any = opened.architecture.build(opened.checkpoint, ops, dtype="float32", device="cpu")
    model.requires_grad_().train()
    model.recompute = settings["recompute"]

    def loss_of(ids: Tensor) -> Tensor:
        count, length = ids.shape
        targets = ids.roll(-1, 1)
        targets[:, -1] = -100
        batch = PackedBatch(
            tokens=ids.flatten(),
            positions=torch.arange(length).repeat(count),
            starts=tuple(range(0, count * length + 1, length)),
        )
        return ops.linear_cross_entropy(model.hidden(batch), model.head_weight, None, targets.flatten())

    facts = {"providers": {name: ops.providers[name] for name in ("linear", "linear_cross_entropy")}}
    return loss_of, list(model.parameters()), {**facts, "refused": dict(ops.refused)}


def _transformers(settings: dict[str, Any]) -> tuple[Step, list[Tensor], dict[str, Any]]:
    import transformers

    transformers.logging.set_verbosity_error()
    config = transformers.AutoConfig.from_pretrained(settings["folder"], local_files_only=True)
    if not settings["dropout"]:
        for name in ("attn_pdrop", "embd_pdrop", "resid_pdrop", "attention_dropout"):
            if hasattr(config, name):
                setattr(config, name, 0.0)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        settings["folder"],
        config=config,
        dtype=torch.float32,
        attn_implementation="sdpa",
        local_files_only=True,
    )
    model.train()
    if settings["recompute"]:
        model.gradient_checkpointing_enable()
    half = settings["precision"] == "bf16"

    def loss_of(ids: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            found: Tensor = model(ids, labels=ids, use_cache=False).loss
        return found

    return loss_of, list(model.parameters()), {"version": transformers.__version__}


def _peak() -> int:
    """Largest resident set so far, in bytes; 0 where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    lines = status.read_text(encoding="ascii").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


if __name__ == "__main__":
    main()
