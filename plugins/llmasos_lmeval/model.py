"""Our models as lm-evaluation-harness sees them: an ``lm_eval.api.model.TemplateLM``.

How texts become ids, what a context is, where windows begin and when generations stop is the harness's code or repeats its
Hugging Face back end step by step (version 0.4.13, ``models/huggingface.py``). Only the arithmetic is ours: one row a request.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from llmasos.api import EvaluationError, HubAPI, LoadedModel, PackedBatch, Progress, SamplingParams

#: Rows that are multiplied with the vocabulary at once.
ROW_BLOCK = 512


class HubLM(TemplateLM):
    """A LoadedModel for the harness. ``seed`` is for generations that sample, ``batch_size`` for those that do not."""

    def __init__(
        self, loaded: LoadedModel, hub: HubAPI, *, batch_size: int, seed: int, progress: Progress
    ) -> None:
        super().__init__()
        self._loaded, self._hub, self._progress = loaded, hub, progress
        self._model, self._batch_size, self._seed = loaded.model, batch_size, seed
        self._ours = loaded.tokenizer
        self._device = torch.device(loaded.model.device)
        special = loaded.tokenizer.special
        self._prefix = special.bos if special.bos is not None else special.eos
        if self._prefix is None:
            raise EvaluationError(
                "lm-evaluation-harness needs a tokenizer with a BOS or an EOS token",
                hint="use the engine tree",
            )
        self._prefix_text = loaded.tokenizer.decode([self._prefix])

    # ---- tokens -------------------------------------------------------------------------------------------------------

    @property
    def max_length(self) -> int:
        return self._model.max_length

    @property
    def eot_token_id(self) -> int:
        special = self._ours.special
        return int(special.eos if special.eos is not None else self._prefix)

    @property
    def prefix_token_id(self) -> int:
        return int(self._prefix)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids; BOS where the tokenizer adds it, unless the text begins with it already."""
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self._prefix_text)
        return self._ours.encode(string, add_special_tokens=add_special_tokens)

    # ---- likelihoods --------------------------------------------------------------------------------------------------

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        results = []
        for text, context, continuation in requests:
            if not continuation:
                raise EvaluationError(
                    "a continuation has no tokens of its own, which lm-evaluation-harness cannot score",
                    hint="use the engine tree",
                )
            answer = self._row([*context, *continuation], len(continuation))
            results.append(answer)
            if text is not None:
                self.cache_hook.add_partial("loglikelihood", text, answer)
                self._progress.advance()
        return results

    def _row(self, ids: Sequence[int], targets: int) -> tuple[float, bool]:
        """Nats of the last ``targets`` ids, and whether each is the arg-max."""
        kept = list(ids)[-(self.max_length + 1) :]
        count = min(targets, len(kept) - 1)
        tokens = torch.tensor(kept[:-1], dtype=torch.int64, device=self._device)
        positions = torch.arange(len(kept) - 1, dtype=torch.int64, device=self._device)
        target = torch.tensor(kept[-count:], dtype=torch.int64, device=self._device)
        total, greedy = 0.0, True
        with torch.inference_mode():
            hidden = self._model.hidden(PackedBatch(tokens, positions, (0, len(kept) - 1)))[-count:]
            for start in range(0, count, ROW_BLOCK):
                part = target[start : start + ROW_BLOCK]
                logprob, best = self._model.token_logprobs(hidden[start : start + ROW_BLOCK], part)
                total = math.fsum((total, *logprob.tolist()))
                greedy = greedy and bool((best == part).all())
        return total, greedy

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        results = []
        for request in requests:
            (text,) = request.args
            windows = map(
                make_disjoint_window,
                get_rolling_token_windows(
                    token_list=self.tok_encode(text),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length,
                    context_len=1,
                ),
            )
            scored = self._loglikelihood_tokens([(None, context, target) for context, target in windows])
            results.append(sum(nats for nats, _ in scored))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), results[-1])
            self._progress.advance()
        return results

    # ---- generation ---------------------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        results: list[str] = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(repr(request.args[1]), []).append(place)
        for places in groups.values():
            settings = normalize_gen_kwargs(dict(requests[places[0]].args[1]), 256)
            stops = handle_stop_sequences(
                settings.pop("until", None), eos=self._ours.decode([self.eot_token_id])
            )
            longest = int(settings.pop("max_gen_toks"))
            room = self.max_length - longest
            if room < 1:
                raise EvaluationError(
                    f"a task generates up to {longest} tokens, which leaves no room for a prompt"
                )
            params = _sampling(settings, longest, tuple(stops), self._seed)
            together = self._batch_size if params.temperature == 0 else 1
            for start in range(0, len(places), together):
                batch = places[start : start + together]
                prompts = [self.tok_encode(requests[place].args[0])[-room:] for place in batch]
                for chunk in self._hub.generate(self._loaded, prompts, params, batch_size=len(prompts)):
                    if chunk.done is not None:
                        results[batch[chunk.index]] = postprocess_generated_text(
                            generation=chunk.done.text, stop=stops, think_end_token=None
                        )
                        self._progress.advance()
        for request, text in zip(requests, results, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return results

    # ---- chat ---------------------------------------------------------------------------------------------------------

    @property
    def tokenizer_name(self) -> str:
        return self._ours.digest()

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self._ours.chat_template if chat_template else None

    def apply_chat_template(
        self, chat_history: Sequence[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        if not add_generation_prompt:
            raise EvaluationError(
                "the engine lm-eval cannot leave an answer open in a chat template (`gen_prefix`)",
                hint="use the engine tree",
            )
        return self._ours.apply_chat_template(list(chat_history), add_generation_prompt=True)


def _sampling(settings: dict[str, Any], longest: int, stops: tuple[str, ...], seed: int) -> SamplingParams:
    known = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
    beams = {"num_beams": 1, "length_penalty": 1.0, "early_stopping": False}
    unknown = sorted(set(settings) - set(known) - set(beams) - {"do_sample"})
    if unknown:
        raise EvaluationError(f"generation setting {unknown[0]!r} is not supported")
    numbers = {name: type(default)(settings.get(name, default) or default) for name, default in known.items()}
    if settings.get("do_sample") is False:
        numbers["temperature"] = 0.0
    searched = {name: settings.get(name, default) for name, default in beams.items()}
    return SamplingParams(max_new_tokens=longest, stop=stops, seed=seed, **numbers, **searched)
