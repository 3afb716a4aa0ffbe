"""LLMasOS in ``engine.py``: whatever back end it chooses on this machine, through its Python interface."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from engine_contract import Unavailable

#: Precision class -> the name of our policy.
POLICIES = {"fp32": "exact", "bf16": "fast", "int8": "int8", "int4": "int4"}


class Engine:
    def __init__(self, settings: dict[str, Any]) -> None:
        import torch

        import llmasos
        from llmasos.api import LlmasosError, PackedBatch, SamplingParams
        from llmasos.pipelines.load import build_model, opened_model

        torch.set_num_threads(settings["threads"])
        torch.set_grad_enabled(False)
        self.torch, self.packed, self.sampling = torch, PackedBatch, SamplingParams
        place = Path(settings["cache"])
        self.hub = llmasos.Hub(
            cache_dir=place / "cache", config_dir=place / "config", offline=True, plugins=settings["plugins"]
        )
        policy, folder = POLICIES[settings["precision"]], settings["folder"]
        try:
            if settings["encoder"]:
                from llmasos.pipelines.binding import dtype_name

                with opened_model(self.hub, folder) as opened:
                    self.model: Any
                    self.model, self.found = build_model(
                        self.hub, opened, device="cpu", dtype=dtype_name(policy)
                    )
            else:
                self.loaded = self.hub.load_model(folder, device="cpu", dtype=policy)
                self.model, self.found = self.loaded.model, self.loaded.facts
        except LlmasosError as error:
            raise Unavailable(f"{type(error).__name__}: {error}") from error

    def facts(self) -> dict[str, Any]:
        import llmasos

        return {
            "version": llmasos.__version__,
            "torch": self.torch.__version__,
            **{key: self.found[key] for key in ("backend", "dtype", "ops", "ops_refused")},
        }

    def decode(self, prompts: list[list[int]], new: int) -> tuple[list[list[int]], list[float]]:
        params = self.sampling(max_new_tokens=new, ignore_eos=True)
        tokens: list[list[int]] = [[] for _ in prompts]
        times = []
        for chunk in self.hub.generate(self.loaded, prompts, params, batch_size=len(prompts)):
            if chunk.token is not None:
                tokens[chunk.index].append(chunk.token)
                if chunk.index == len(prompts) - 1:
                    times.append(time.perf_counter())
        return tokens, times

    def score(self, sequences: list[list[int]]) -> list[float]:
        batch = self._pack([ids[:-1] for ids in sequences])
        targets = self.torch.tensor([token for ids in sequences for token in ids[1:]])
        logprobs, _ = self.model.token_logprobs(self.model.hidden(batch), targets)
        return [float(part.double().sum()) for part in logprobs.split([len(ids) - 1 for ids in sequences])]

    def encode(self, sequences: list[list[int]]) -> Any:
        batch = self._pack(sequences)
        return self.model.hidden(batch)[self.torch.tensor(batch.starts[1:]) - 1].float()

    def _pack(self, sequences: list[list[int]]) -> Any:
        starts = [0]
        for ids in sequences:
            starts.append(starts[-1] + len(ids))
        return self.packed(
            tokens=self.torch.tensor([token for ids in sequences for token in ids]),
            positions=self.torch.cat([self.torch.arange(len(ids)) for ids in sequences]),
            starts=tuple(starts),
        )
