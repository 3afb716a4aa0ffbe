"""transformers in ``engine.py``: SDPA attention, its own ``generate``, padded batches for encoders."""

from __future__ import annotations

import time
from typing import Any

from engine_contract import Unavailable

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


class Engine:
    def __init__(self, settings: dict[str, Any]) -> None:
        if settings["precision"] not in DTYPES:
            raise Unavailable(f"no {settings['precision']} without further packages")
        import torch
        import transformers

        torch.set_num_threads(settings["threads"])
        torch.set_grad_enabled(False)
        transformers.logging.set_verbosity_error()
        self.torch, self.transformers = torch, transformers
        kind = transformers.AutoModel if settings["encoder"] else transformers.AutoModelForCausalLM
        self.model = kind.from_pretrained(
            settings["folder"],
            dtype=getattr(torch, DTYPES[settings["precision"]]),
            attn_implementation="sdpa",
            local_files_only=True,
        ).eval()

    def facts(self) -> dict[str, Any]:
        return {"version": self.transformers.__version__, "torch": self.torch.__version__}

    def decode(self, prompts: list[list[int]], new: int) -> tuple[list[list[int]], list[float]]:
        torch, times = self.torch, []

        def clock(ids: Any, scores: Any, **_: Any) -> Any:
            times.append(time.perf_counter())
            return torch.zeros(len(ids), dtype=torch.bool)

        given = torch.tensor(prompts)
        settings = self.transformers.GenerationConfig(max_new_tokens=new, do_sample=False, pad_token_id=0)
        found = self.model.generate(
            given,
            attention_mask=torch.ones_like(given),
            generation_config=settings,
            stopping_criteria=self.transformers.StoppingCriteriaList([clock]),
        )
        return found[:, given.shape[1] :].tolist(), times

    def score(self, sequences: list[list[int]]) -> list[float]:
        ids = self.torch.tensor(sequences)
        logits = self.model(ids[:, :-1], use_cache=False).logits.float()
        chosen = logits.gather(-1, ids[:, 1:, None]).squeeze(-1)
        return (chosen - logits.logsumexp(-1)).double().sum(-1).tolist()

    def encode(self, sequences: list[list[int]]) -> Any:
        torch = self.torch
        lengths = torch.tensor([len(ids) for ids in sequences])
        longest = int(lengths.max())
        ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids in sequences])
        # Without a mask where nothing is padded: that is its faster path.
        mask = None if int(lengths.min()) == longest else (torch.arange(longest) < lengths[:, None]).long()
        hidden = self.model(ids, attention_mask=mask).last_hidden_state
        return hidden[torch.arange(len(ids)), lengths - 1].float()
