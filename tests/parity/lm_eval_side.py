"""The lm-evaluation-harness side of the parity runs: evaluates tasks and writes what it saw, document by document.

Run by ``lm_eval_parity.py`` with the interpreter that has lm-eval; imports nothing of LLMasOS. One argument: a JSON file with
model (a Hugging Face folder), folder (task files), tasks, limit, bootstrap, settings (arguments of ``simple_evaluate`` and
``max_length``), answers ("model" or "pseudo": by ``pseudo_answers.py``, with the model's tokenizer and no weights), output.
Or model, rows (lists of ids and how many of the last are scored) and output: what float64 says of them.
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
os.environ.setdefault("LMEVAL_LOG_LEVEL", "ERROR")

import lm_eval
import numpy as np
import pseudo_answers
import torch
import transformers
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager


def digest(value) -> str:
    """sha256 over JSON without spaces."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


class Watched(HFLM):
    """The harness's own Hugging Face back end; keeps the ids that each request is scored with."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        #: (task, document, request) -> ids given to the model, the last target included.
        self.ids: dict[tuple, list[int]] = {}
        self._rows: list[tuple[list[int], int]] = []
        #: The same key -> how many of the ids are scored.
        self.targets: dict[tuple, int] = {}
        self._prompts: dict[str, list[int]] = {}

    def loglikelihood(self, requests, disable_tqdm=False):
        self._rows = []
        answers = super().loglikelihood(requests, disable_tqdm=True)
        for request, row in zip(requests, self._rows, strict=True):
            key = request.task_name, request.doc_id, request.idx
            self.ids[key], self.targets[key] = row[0], row[1]
        return answers

    def _loglikelihood_tokens(self, requests, disable_tqdm=False, override_bs=None):
        if requests[0][0] is not None:  # a rolling window has no text
            self._rows = [
                ((context + target)[-(self.max_length + 1) :], len(target)) for _, context, target in requests
            ]
        return self.scores(requests, override_bs)

    def scores(self, requests, override_bs):
        return super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        for request in requests:
            ids = [self.prefix_token_id, *self.tok_encode(request.args[0])]
            self.ids[request.task_name, request.doc_id, request.idx] = ids
        return super().loglikelihood_rolling(requests, disable_tqdm=True)

    def tok_batch_encode(self, strings, **kwargs):
        ids, mask = super().tok_batch_encode(strings, **kwargs)
        for text, row, kept in zip(strings, ids.tolist(), mask.tolist(), strict=True):
            self._prompts[text] = [token for token, one in zip(row, kept, strict=True) if one]
        return ids, mask

    def generate_until(self, requests, disable_tqdm=False):
        answers = super().generate_until(requests, disable_tqdm=True)
        for request in requests:
            self.ids[request.task_name, request.doc_id, request.idx] = self._prompts[request.args[0]]
        return answers


class Pseudo(Watched):
    """Everything of the back end but the model."""

    def __init__(self, folder: str, **kwargs) -> None:
        config = transformers.AutoConfig.from_pretrained(folder)
        for key, value in (
            ("hidden_size", 8),
            ("intermediate_size", 8),
            ("num_hidden_layers", 1),
            ("head_dim", 4),
        ):
            setattr(config, key, value)
        config.num_attention_heads = config.num_key_value_heads = 2
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        super().__init__(transformers.AutoModelForCausalLM.from_config(config), tokenizer=tokenizer, **kwargs)

    def scores(self, requests, override_bs):
        return [
            pseudo_answers.likelihood(context, target, self.max_length) for _, context, target in requests
        ]

    def _model_generate(self, context, max_length, stop, **kwargs):
        (prompt,) = context.tolist()
        text = pseudo_answers.completion(prompt)
        ids = self.tokenizer.encode(text, add_special_tokens=False)[: max_length - len(prompt)]
        return torch.tensor([prompt + ids])


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    np.seterr(over="ignore")
    if "rows" in job:
        Path(job["output"]).write_text(json.dumps(in_float64(job["model"], job["rows"])), encoding="utf-8")
        return
    settings = dict(job["settings"])
    common = {"device": "cpu", "batch_size": 1, "max_length": settings.pop("max_length")}
    if job["answers"] == "pseudo":
        model = Pseudo(job["model"], **common)
    else:
        # Without this option of theirs PyTorch's float32 log-softmax adds about 9e-6 nats to every token of a 49,000-word
        # vocabulary (against float64 on the same logits), which is 5e-4 on 50 tokens; the model itself stays float32.
        model = Watched(job["model"], dtype="float32", softmax_dtype="float64", **common)
    started = time.perf_counter()
    result = lm_eval.simple_evaluate(
        model=model,
        tasks=job["tasks"],
        task_manager=TaskManager(include_path=job["folder"], include_defaults=False),
        limit=job["limit"],
        bootstrap_iters=job["bootstrap"],
        log_samples=True,
        **settings,
    )
    seconds = time.perf_counter() - started
    report = {
        "tasks": {
            name: task_report(name, result, model, rows=job["answers"] == "model")
            for name in result["samples"]
        },
        "groups": {name: split_scores(scores) for name, scores in result.get("groups", {}).items()},
        "versions": {
            "lm_eval": lm_eval.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "seconds": round(seconds, 1),
    }
    output = Path(job["output"])
    output.with_suffix(".part").write_text(json.dumps(report, default=str), encoding="utf-8")
    output.with_suffix(".part").rename(output)


def in_float64(folder: str, rows: list) -> list[list[float]]:
    """[log-likelihood of the last ids of a row by the same weights in float64, how far float32 is from it at worst].

    Float32 in the batches the harness would make of it with other batch sizes: several rows, padded on the right.
    """
    models = [
        transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        for dtype in (torch.float64, torch.float32)
    ]

    def nats(model, ids, count, batch, padding):
        tokens = torch.tensor([ids])
        inputs = torch.nn.functional.pad(tokens[:, :-1], (0, padding)).expand(batch, -1)
        table = model(inputs).logits[0, len(ids) - 1 - count : len(ids) - 1].double().log_softmax(-1)
        return float(table.gather(1, tokens[0, -count:, None]).sum())

    found = []
    with torch.inference_mode():
        for ids, count in rows:
            exact = nats(models[0], ids, count, 1, 0)
            shapes = [(1, 0), *((batch, padding) for batch in (2, 4, 8, 16) for padding in (0, 3, 12, 40))]
            found.append([exact, max(abs(nats(models[1], ids, count, *shape) - exact) for shape in shapes)])
    return found


def split_scores(scores: dict) -> dict:
    """Values and standard errors; what the harness gives none for is None."""
    names = sorted(key for key in scores if "," in key and "_stderr" not in key)
    stderr = {key: scores[key.replace(",", "_stderr,", 1)] for key in names}
    return {
        "results": {key: float(scores[key]) for key in names},
        "stderr": {key: float(value) if isinstance(value, float) else None for key, value in stderr.items()},
    }


def task_report(task: str, result: dict, model: Watched, rows: bool) -> dict:
    """Scores of a task and what each document was asked and answered; ``rows``: with the ids themselves."""
    scores = split_scores(result["results"][task])
    names = {key.split(",")[0] for key in scores["results"]}
    documents: dict[int, dict] = {}
    for sample in result["samples"][task]:
        index = sample["doc_id"]
        if index not in documents:
            asked = [[part for part in args if isinstance(part, str)] for args in sample["arguments"]]
            documents[index] = {
                "prompts": digest(asked)[:16],
                "ids": [digest(model.ids[task, index, number])[:16] for number in range(len(asked))],
                "responses": [answers[0] for answers in sample["resps"]],
                "metrics": {},
            }
            if rows:
                keys = [(task, index, number) for number in range(len(asked))]
                documents[index]["rows"] = [[model.ids[key], model.targets.get(key, 0)] for key in keys]
        for name in sorted(names & sample.keys()):
            documents[index]["metrics"][f"{name},{sample['filter']}"] = sample[name]
    return scores | {
        "n": result["n-samples"][task]["effective"],
        "documents": [documents[index] for index in sorted(documents)],
    }


if __name__ == "__main__":
    main()
