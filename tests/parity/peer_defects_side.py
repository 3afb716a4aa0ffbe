"""What lm-evaluation-harness 0.4.13 itself does where it has known defects, as JSON on standard output.

Run by ``test_peer_oracle.py`` with the interpreter that has lm-eval; imports nothing of LLMasOS. One argument: a folder with a
tokenizer and a Llama configuration (``convert_gguf.py GGUF FOLDER tokenizer``).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.update(
    HF_HUB_OFFLINE="1",
    DISABLE_MULTIPROC="1",
    TOKENIZERS_PARALLELISM="false",
    LMEVAL_LOG_LEVEL="CRITICAL",
    TQDM_DISABLE="1",
)

import lm_eval
import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, CachingLM
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

ROWS = [{"question": f"What is {n} plus {n}?", "answer": str(2 * n)} for n in range(1, 41)]


class Constant(LM):
    """Says the same of everything."""

    def __init__(self, nats: float) -> None:
        super().__init__()
        self.nats = nats

    def loglikelihood(self, requests):
        return [(self.nats, False) for _ in requests]

    def loglikelihood_rolling(self, requests):
        return [self.nats for _ in requests]

    def generate_until(self, requests):
        return ["" for _ in requests]


def likelihood(context: str, continuation: str, number: int = 0) -> Instance:
    return Instance("loglikelihood", {}, (context, continuation), number, ("t", number, 1))


def task(folder: Path, name: str = "sums", **fields):
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    config = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "loglikelihood",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "num_fewshot": 3,
        "metric_list": [{"metric": "acc"}, {"metric": "perplexity"}],
        **fields,
    }
    (folder / f"{name}.yaml").write_text(json.dumps(config))
    loaded = TaskManager(include_path=str(folder), include_defaults=False).load([name])["tasks"][name]
    loaded.set_fewshot_seed(1234)
    return loaded


def prompts(loaded, rank: int = 0, world: int = 1) -> dict[int, str]:
    loaded.build_all_requests(rank=rank, world_size=world)
    return {instance.doc_id: instance.args[0] for instance in loaded.instances}


def response_cache(folder: Path) -> dict:
    """#4063, #2715: the second model gets the answers of the first."""
    request = [likelihood("a", " b")]
    first = CachingLM(Constant(-1.0), str(folder / "cache.db")).loglikelihood(request)
    second = CachingLM(Constant(-2.0), str(folder / "cache.db")).loglikelihood(request)
    return {"first": first[0][0], "second": second[0][0]}


def fewshot_by_rank(folder: Path) -> dict:
    """#1719, #1751: prompts of two ranks against those of one."""
    one = prompts(task(folder))
    two = {key: text for rank in range(2) for key, text in prompts(task(folder), rank, 2).items()}
    return {"documents": len(one), "different": sum(one[key] != two[key] for key in one)}


def leak(folder: Path) -> dict:
    """#4145: prompts that hold the question they ask among their examples."""
    found = prompts(task(folder))
    return {"leaking": sum(text.count(ROWS[key]["question"]) > 1 for key, text in found.items())}


def fewshot_indices(folder: Path) -> dict:
    """Accepted and never used."""
    plain = prompts(task(folder))
    chosen = prompts(task(folder, "chosen", fewshot_config={"fewshot_indices": [0, 1, 2]}))
    return {"same": sum(plain[key] == chosen[key] for key in plain), "documents": len(plain)}


def no_shots(folder: Path) -> dict:
    """A 0 in the task file cannot be overridden."""
    task(folder, "none", num_fewshot=0)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model=Constant(-1.0), tasks=["none"], task_manager=manager, num_fewshot=3, limit=2, bootstrap_iters=0
    )
    return {"asked": 3, "shots": found["n-shot"]["none"]}


def class_with_shots(folder: Path) -> dict:
    """Its own Python classes take one argument where 0.4.13 gives two."""
    from lm_eval.tasks.squad_completion.task import SQUADCompletion

    return failure(lambda: SQUADCompletion.doc_to_text(object.__new__(SQUADCompletion), {"text": "x"}, None))


def overflow(_: Path) -> dict:
    """exp of a large mean, after everything was computed."""
    from lm_eval.api.metrics import perplexity

    return failure(lambda: perplexity([-1e6, -1e6]))


def failure(act) -> dict:
    try:
        return {"value": act()}
    except Exception as error:
        return {"error": type(error).__name__}


def templates(_: Path) -> dict:
    """Compilations of one template for 50 documents."""
    from lm_eval import utils

    count = 0
    original = utils.env.from_string

    def counting(*args, **kwargs):
        nonlocal count
        count += 1
        return original(*args, **kwargs)

    utils.env.from_string = counting
    try:
        for row in ROWS:
            utils.apply_template("{{question}}", row)
    finally:
        utils.env.from_string = original
    return {"documents": len(ROWS), "compiled": count}


# ---- with a model -----------------------------------------------------------------------------------------------------


def backend(folder: str, batch: int = 1, width: int = 64) -> HFLM:
    torch.manual_seed(5)
    config = transformers.AutoConfig.from_pretrained(folder)
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = width, 2 * width, 3
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 4, 2, width // 4
    config.initializer_range = 0.3
    model = transformers.AutoModelForCausalLM.from_config(config).to(torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return HFLM(model, tokenizer=tokenizer, device="cpu", batch_size=batch)


def mixed_lengths(folder: str) -> dict:
    """#2984, #2987, what is left of them: one text, split in two places."""
    model = backend(folder)
    pairs = [("The red", " apple tree"), ("The red apple", " tree")]
    alone = [model.loglikelihood([likelihood(*pair)], disable_tqdm=True)[0][0] for pair in pairs]
    together = model.loglikelihood(
        [likelihood(*pair, number) for number, pair in enumerate(pairs)], disable_tqdm=True
    )
    return {"alone": alone, "together": [nats for nats, _ in together]}


def empty_continuation(folder: str) -> dict:
    """#1297, #3336: the continuation merges into its context."""
    model = backend(folder)
    return failure(lambda: model.loglikelihood([likelihood("The ap", "ple")], disable_tqdm=True)[0][0])


def batch_size(folder: str) -> dict:
    """#335, #704, #879, #1645, #2077: the same requests in batches of 1 and of 8, in float32."""
    requests = [likelihood("The " + "very " * (n % 9) + "red", f" apple number {n}", n) for n in range(48)]
    one = backend(folder, 1, 384).loglikelihood(requests, disable_tqdm=True)
    eight = backend(folder, 8, 384).loglikelihood(requests, disable_tqdm=True)
    return {
        "requests": len(requests),
        "different": sum(a[0] != b[0] for a, b in zip(one, eight, strict=True)),
        "largest": max(abs(a[0] - b[0]) for a, b in zip(one, eight, strict=True)),
    }


def softmax(_: str) -> dict:
    """PR #2921: errors of log-softmax in the dtype of the model, in nats a token, over a vocabulary of 49,152."""
    draw = torch.Generator().manual_seed(1)
    logits = torch.randn(256, 49_152, generator=draw) * 3
    out = {}
    for dtype in (torch.float32, torch.bfloat16):
        rows = logits.to(dtype)
        error = rows.log_softmax(-1)[:, 0].double() - rows.double().log_softmax(-1)[:, 0]
        out[str(dtype).removeprefix("torch.")] = {
            "mean": float(error.mean()),
            "largest": float(error.abs().max()),
        }
    return out


def main() -> None:
    folder = sys.argv[1]
    found = {}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for act in (
            response_cache,
            fewshot_by_rank,
            leak,
            fewshot_indices,
            no_shots,
            class_with_shots,
            overflow,
            templates,
        ):
            with tempfile.TemporaryDirectory() as scratch:
                found[act.__name__] = act(Path(scratch))
        for act in (mixed_lengths, empty_continuation, batch_size, softmax):
            found[act.__name__] = act(folder)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
