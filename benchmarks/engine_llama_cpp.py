"""llama.cpp in ``engine.py``, by the C interface of llama-cpp-python: flash attention on, streams of one batch side by side."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from engine_contract import Unavailable

#: Sequences side by side, and tokens of each.
STREAMS, CONTEXT = 16, 256
#: Rows of logits that fit into a core's cache.
ROWS = 8


class Engine:
    def __init__(self, settings: dict[str, Any]) -> None:
        if settings["encoder"]:
            raise Unavailable("measured on decoders only")
        import llama_cpp
        import numpy

        if not settings["converted"]:
            raise Unavailable("the model could not be converted")
        self.lib, self.numpy, self.threads = llama_cpp, numpy, settings["threads"]
        # Held, or it would be collected while the library still calls it.
        self.silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.silent, None)
        llama_cpp.llama_backend_init()
        path = Path(settings["converted"])
        loading = llama_cpp.llama_model_default_params()
        # Layouts for AMX and wide registers are the default; some compilers break those for AMX.
        loading.use_extra_bufts = settings["variant"] != "plain"
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), loading)
        if not self.model:
            raise RuntimeError(f"llama.cpp does not load {path.name}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max = STREAMS * CONTEXT, STREAMS
        params.n_batch = STREAMS // 4 * CONTEXT
        params.n_threads = params.n_threads_batch = self.threads
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError("llama.cpp makes no context")
        self.width = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(params.n_batch, 0, 1)
        self.pool = ThreadPoolExecutor(self.threads)

    def facts(self) -> dict[str, Any]:
        return {
            "version": self.lib.__version__,
            "system": self.lib.llama_print_system_info().decode(errors="replace").strip(),
        }

    def decode(self, prompts: list[list[int]], new: int) -> tuple[list[list[int]], list[float]]:
        self._clear()
        streams = range(len(prompts))
        logits = self._run([(i, prompts[i], 0, len(prompts[i]) - 1) for i in streams])
        tokens: list[list[int]] = [[] for _ in prompts]
        times: list[float] = []
        while True:
            for i in streams:
                tokens[i].append(int(logits[i].argmax()))
            times.append(time.perf_counter())
            if len(times) == new:
                return tokens, times
            past = len(times) - 1
            logits = self._run([(i, tokens[i][-1:], len(prompts[i]) + past, 0) for i in streams])

    def score(self, sequences: list[list[int]]) -> list[float]:
        self._clear()
        logits = self._run([(i, ids[:-1], 0, 0) for i, ids in enumerate(sequences)])
        targets = self.numpy.array([token for ids in sequences for token in ids[1:]])

        def logprobs(start: int) -> Any:
            part, wanted = logits[start : start + ROWS], targets[start : start + ROWS]
            largest = part.max(axis=1, keepdims=True)
            sums = self.numpy.exp(part - largest).sum(axis=1)
            return part[self.numpy.arange(len(part)), wanted] - largest[:, 0] - self.numpy.log(sums)

        found = self.numpy.concatenate(list(self.pool.map(logprobs, range(0, len(targets), ROWS))))
        lengths = self.numpy.cumsum([len(ids) - 1 for ids in sequences])[:-1]
        return [float(part.sum(dtype="float64")) for part in self.numpy.split(found, lengths)]

    def _clear(self) -> None:
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), False)

    def _run(self, parts: list[tuple[int, list[int], int, int]]) -> Any:
        """Logits [rows, V] after (stream, tokens, position of the first, index of the first whose logits are wanted)."""
        batch, place, wanted = self.batch, 0, 0
        for stream, ids, first, begin in parts:
            for i, token in enumerate(ids):
                batch.token[place], batch.pos[place] = token, first + i
                batch.n_seq_id[place], batch.seq_id[place][0] = 1, stream
                batch.logits[place] = i >= begin
                wanted += i >= begin
                place += 1
        batch.n_tokens = place
        if (failed := self.lib.llama_decode(self.context, batch)) != 0:
            raise RuntimeError(f"llama_decode gave {failed}")
        logits = self.lib.llama_get_logits(self.context)
        return self.numpy.ctypeslib.as_array(logits, (wanted, self.width))
