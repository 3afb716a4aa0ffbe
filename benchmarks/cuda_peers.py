"""What ``cuda.py`` measures beside the CUDA back end: kernels of torch, torch.compile and Liger, and engines in workers.

Run as a program it is a worker: ``python cuda_peers.py ENGINE FOLDER DTYPE`` reads lines from stdin and answers each with one.
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

ENGINES = ("llmasos", "transformers", "transformers compiled", "vllm")
PROMPT, NEW, SCORED = 64, 128, (32, 512)

# ---- kernels ------------------------------------------------------------------------------------------------------------


def peers_of(case: str, make: Any) -> dict[str, Callable[[], object]]:
    """What does the same as a case of the catalogue, on inputs of the same shapes; nothing for most quantised ones."""
    import torch
    import torch.nn.functional as F

    peers: dict[str, Callable[[], object]] = {}

    def both(call: Callable[[], object]) -> None:
        peers["torch"] = call
        peers["torch.compile"] = torch.compile(call)

    n, d, inner = 4096, 4096, 14336
    if case in ("rms_norm", "add_rms_norm"):
        x, delta, weight = make(n, d), make(n, d), make(d)
        added = case == "add_rms_norm"
        both(lambda: F.rms_norm(x + delta if added else x, (d,), weight, 1e-5))
    elif case == "layer_norm":
        x, weight = make(n, d), make(d)
        both(lambda: F.layer_norm(x, (d,), weight, weight, 1e-5))
    elif case == "swiglu":
        gate, up = make(n, 2 * inner).chunk(2, dim=1)
        both(lambda: F.silu(gate) * up)
    elif case == "geglu":
        gate, up = make(n, 2 * inner).chunk(2, dim=1)
        both(lambda: F.gelu(gate, approximate="tanh") * up)
    elif case in ("attention.half.128", "attention.half.64"):
        heads, keys, width = (32, 8, 128) if case.endswith("128") else (12, 12, 64)
        q, k = make(1, heads, n, width), make(1, keys, n, width)
        peers["torch"] = lambda: F.scaled_dot_product_attention(
            q, k, k, is_causal=True, enable_gqa=heads != keys
        )
    elif case == "decode.half.128":
        q, k = make(64, 32, 1, 128), make(64, 8, 4096, 128)
        peers["torch"] = lambda: F.scaled_dot_product_attention(q, k, k, enable_gqa=True)
    elif case == "logprobs.half":
        x, weight = make(1024, d), make(128_256, d)
        target = torch.arange(1024, device="cuda")
        both(lambda: F.linear(x, weight).float().log_softmax(-1).gather(1, target[:, None]))
    elif case.startswith("int") and case.endswith("half"):
        rows = int(case.split(".")[1])
        x, weight = make(rows, d), make(inner, d)
        peers["torch, bfloat16 weights"] = lambda: F.linear(x, weight)
    if case in ("rms_norm", "swiglu"):
        with contextlib.suppress(ImportError):
            peers["liger"] = _liger(case, make)
    return peers


def _liger(case: str, make: Any) -> Callable[[], object]:
    from liger_kernel.ops.rms_norm import LigerRMSNormFunction
    from liger_kernel.ops.swiglu import LigerSiLUMulFunction

    if case == "rms_norm":
        x, weight = make(4096, 4096), make(4096)
        return lambda: LigerRMSNormFunction.apply(x, weight, 1e-5)
    gate, up = make(4096, 14336), make(4096, 14336)
    return lambda: LigerSiLUMulFunction.apply(gate, up)


# ---- engines ------------------------------------------------------------------------------------------------------------


class Worker:
    """An engine in a process of its own, asked again and again."""

    def __init__(self, name: str, folder: str, dtype: str) -> None:
        self.name = name
        self._child = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, name, folder, dtype],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self) -> dict[str, Any]:
        """Its figures of one round, or the ``problem``."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.write("go\n")
            self._child.stdin.flush()
            for line in self._child.stdout:
                if line.startswith("{"):
                    return dict(json.loads(line))
        return {"problem": f"the process ended with {self._child.wait()}"}

    def stop(self) -> None:
        """End of its input is the end of a worker."""
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.close()
        self._child.wait()


def prompts(count: int, length: int, vocabulary: int) -> list[list[int]]:
    """The same tokens for every engine."""
    draw = random.Random(length)
    return [[draw.randrange(min(vocabulary, 1000), vocabulary) for _ in range(length)] for _ in range(count)]


class Llmasos:
    def __init__(self, folder: str, dtype: str, device: str = "cuda") -> None:
        from llmasos import Hub

        self._device = device
        self._hub = Hub()
        self._model = self._hub.load_model(folder, device=self._device, dtype=dtype).model
        self.vocabulary = self._model.vocab_size

    def decode(self, given: list[list[int]]) -> list[list[int]]:
        import torch

        from llmasos.api import PackedBatch

        count = len(given)
        cache = self._model.new_cache(count, PROMPT + NEW)
        slots, found = tuple(range(count)), [list[int]() for _ in given]
        tokens = torch.tensor([token for prompt in given for token in prompt], device=self._device)
        starts = tuple(range(0, count * PROMPT + 1, PROMPT))
        positions = torch.arange(PROMPT, device=self._device).repeat(count)
        with torch.inference_mode():
            for step in range(NEW):
                batch = PackedBatch(tokens=tokens, positions=positions, starts=starts, slots=slots)
                hidden = self._model.hidden(batch, cache)
                last = hidden[torch.tensor(starts[1:], device=self._device) - 1]
                tokens = self._model.logits(last).argmax(dim=-1)
                for row, token in zip(found, tokens.tolist(), strict=True):
                    row.append(token)
                starts = tuple(range(count + 1))
                positions = torch.full((count,), PROMPT + step, device=self._device)
        return found

    def score(self, given: list[list[int]]) -> None:
        import torch

        from llmasos.api import PackedBatch

        length = len(given[0])
        tokens = torch.tensor([token for one in given for token in one], device=self._device)
        starts = tuple(range(0, len(tokens) + 1, length))
        positions = torch.arange(length, device=self._device).repeat(len(given))
        with torch.inference_mode():
            batch = PackedBatch(tokens=tokens, positions=positions, starts=starts)
            logprobs, _ = self._model.token_logprobs(self._model.hidden(batch), tokens.roll(-1))
            logprobs.sum().item()


class Transformers:
    def __init__(self, folder: str, dtype: str, *, compiled: bool) -> None:
        import torch
        import transformers

        torch.set_grad_enabled(False)
        transformers.logging.set_verbosity_error()
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), attn_implementation="sdpa", local_files_only=True
        )
        self._model = self._model.to("cuda").eval()
        self._cache = "static" if compiled else None
        self.vocabulary = self._model.config.vocab_size

    def decode(self, given: list[list[int]]) -> list[list[int]]:
        import torch

        ids = torch.tensor(given, device="cuda")
        found = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            do_sample=False,
            pad_token_id=0,
            cache_implementation=self._cache,
        )
        return found[:, ids.shape[1] :].tolist()  # type: ignore[no-any-return]

    def score(self, given: list[list[int]]) -> None:
        import torch

        ids = torch.tensor(given, device="cuda")
        logits = self._model(ids[:, :-1], use_cache=False).logits.float()
        chosen = logits.gather(-1, ids[:, 1:, None]).squeeze(-1) - logits.logsumexp(-1)
        chosen.sum().item()


class Vllm:
    def __init__(self, folder: str, dtype: str) -> None:
        import vllm

        self._vllm = vllm
        self._model = vllm.LLM(model=folder, dtype=dtype, skip_tokenizer_init=True)
        self.vocabulary = self._model.llm_engine.model_config.get_vocab_size()

    def _run(self, given: list[list[int]], **settings: Any) -> list[Any]:
        params = self._vllm.SamplingParams(temperature=0.0, detokenize=False, **settings)
        return self._model.generate([{"prompt_token_ids": one} for one in given], params, use_tqdm=False)  # type: ignore[no-any-return]

    def decode(self, given: list[list[int]]) -> list[list[int]]:
        found = self._run(given, max_tokens=NEW, min_tokens=NEW, ignore_eos=True)
        return [list(one.outputs[0].token_ids) for one in found]

    def score(self, given: list[list[int]]) -> None:
        self._run(given, max_tokens=1, prompt_logprobs=0)


def opened(name: str, folder: str, dtype: str) -> Any:
    """The engine. Raises ImportError for one that is not installed."""
    if name == "llmasos":
        return Llmasos(folder, dtype)
    if name == "vllm":
        return Vllm(folder, dtype)
    return Transformers(folder, dtype, compiled=name.endswith("compiled"))


def work() -> None:
    """The worker's loop. The first round also compiles and captures what there is to, before it is timed."""
    name, folder, dtype = sys.argv[1:4]
    engine: Any = None
    problem = ""
    try:
        engine = opened(name, folder, dtype)
    except ImportError as error:
        problem = f"not installed: {error}"
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    warm = False
    for _ in sys.stdin:
        if problem:
            answer: dict[str, Any] = {"problem": problem}
        else:
            answer = {}
            one, many = (prompts(count, PROMPT, engine.vocabulary) for count in (1, 64))
            scored = prompts(*SCORED, engine.vocabulary)
            if not warm:
                for given in (one, many):
                    engine.decode(given)
                engine.score(scored)
                warm = True
            for figure, given in (("decode_1", one), ("decode_64", many)):
                begin = time.perf_counter()
                tokens = engine.decode(given)
                answer[figure] = len(given) * NEW / (time.perf_counter() - begin)
                answer.setdefault("tokens", tokens)
            begin = time.perf_counter()
            engine.score(scored)
            answer["score"] = SCORED[0] * SCORED[1] / (time.perf_counter() - begin)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    work()
