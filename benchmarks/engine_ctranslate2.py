"""CTranslate2 in ``engine.py``: its own generation and scoring, on the matrix library and compute type that it is told."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from engine_contract import Unavailable

COMPUTE = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8_float32"}


class Engine:
    def __init__(self, settings: dict[str, Any]) -> None:
        compute = COMPUTE.get(settings["precision"])
        if compute is None:
            raise Unavailable(f"no {settings['precision']}")
        # Read when the library is loaded: Intel's MKL, or oneDNN.
        os.environ["CT2_USE_MKL"] = "1" if settings["variant"] == "MKL" else "0"
        import ctranslate2
        import numpy

        self.ctranslate2, self.numpy = ctranslate2, numpy
        supported = ctranslate2.get_supported_compute_types("cpu")
        if compute not in supported:
            raise Unavailable(f"compute types here: {', '.join(sorted(supported))}")
        folder = Path(settings["converted"])
        kind = ctranslate2.Encoder if settings["encoder"] else ctranslate2.Generator
        self.model = kind(
            str(folder),
            device="cpu",
            compute_type=compute,
            inter_threads=1,
            intra_threads=settings["threads"],
        )
        self.names = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))

    def facts(self) -> dict[str, Any]:
        return {"version": self.ctranslate2.__version__, "compute_type": self.model.compute_type}

    def decode(self, prompts: list[list[int]], new: int) -> tuple[list[list[int]], list[float]]:
        times: list[float] = []

        def clock(step: Any) -> bool:
            if step.batch_id == len(prompts) - 1:
                times.append(time.perf_counter())
            return False

        found = self.model.generate_batch(
            self._named(prompts),
            beam_size=1,
            sampling_topk=1,
            max_length=new,
            min_length=new,
            # An end there must be; this one no text reaches.
            end_token=[len(self.names) - 1],
            include_prompt_in_result=False,
            callback=clock,
        )
        return [result.sequences_ids[0] for result in found], times

    def score(self, sequences: list[list[int]]) -> list[float]:
        found = self.model.score_batch(self._named(sequences))
        return [float(self.numpy.sum(result.log_probs, dtype="float64")) for result in found]

    def encode(self, sequences: list[list[int]]) -> Any:
        hidden = self.numpy.asarray(self.model.forward_batch(sequences).last_hidden_state)
        last = [len(ids) - 1 for ids in sequences]
        return hidden[self.numpy.arange(len(last)), last].astype("float32")

    def _named(self, sequences: list[list[int]]) -> list[list[str]]:
        return [[self.names[token] for token in ids] for ids in sequences]
