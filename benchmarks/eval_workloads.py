"""What ``eval.py`` evaluates: task files over local data, and the two models as Hugging Face folders.

Needs nothing of either harness; making the models needs transformers and, for the real one, gguf.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Longest input on both sides. SmolLM2 allows 8,192; whole pages of wikitext at that length are logits of 1.6 GB each.
CONTEXT = 2048
SEED = 20_260_822


@dataclass(frozen=True, slots=True)
class Workload:
    """Tasks that one run evaluates, documents of each, and lm-eval batch sizes worth trying."""

    name: str
    tasks: tuple[str, ...]
    limit: int
    quick: int
    batches: tuple[int, ...] = (1, 4, 16)
    shots: int | None = None


WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload("arc_challenge 0-shot", ("bench_arc_challenge",), 60, 10),
        Workload("4 long endings 0-shot", ("bench_endings",), 30, 6),
        Workload("mmlu 5-shot", ("bench_mmlu_a", "bench_mmlu_b"), 32, 6, batches=(1, 4), shots=5),
        Workload("10-shot fixed, 4 endings", ("bench_endings_10",), 8, 2, batches=(1, 4), shots=10),
        Workload("wikitext", ("bench_wikitext",), 3, 1, batches=(1, 2, 4)),
        Workload("gsm8k generation", ("bench_gsm8k",), 8, 2, batches=(1, 4, 8)),
    )
}

ENDINGS = {
    "task": "bench_endings",
    "dataset_path": "json",
    "test_split": "test",
    "training_split": "train",
    "fewshot_split": "train",
    "fewshot_config": {"sampler": "first_n"},
    "output_type": "multiple_choice",
    "doc_to_text": "{{context}}",
    "doc_to_choice": "{{endings}}",
    "doc_to_target": "label",
    "metric_list": [
        {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")
    ],
}


def write_tasks(folder: Path, *, stock: Path, data: Path) -> None:
    """The task files. ``stock`` is the ``lm_eval/tasks`` folder, whose files are included unmodified."""
    folder.mkdir(parents=True, exist_ok=True)
    _endings(folder, data)
    local = {"dataset_path": "json", "dataset_name": None}
    subjects = ("high_school_geography", "miscellaneous")
    files: dict[str, dict[str, Any]] = {
        "bench_arc_challenge": {
            "include": str(stock / "arc/arc_challenge.yaml"),
            **local,
            "dataset_kwargs": {"data_files": {"test": str(data / "evals/arc_challenge.jsonl")}},
            "training_split": None,
            "validation_split": None,
        },
        "bench_wikitext": {
            "include": str(stock / "wikitext/wikitext.yaml"),
            **local,
            "dataset_kwargs": {"data_files": {"test": str(data / "evals/wikitext.jsonl")}},
            "training_split": None,
            "validation_split": None,
        },
        "bench_gsm8k": {
            "include": str(stock / "gsm8k/gsm8k.yaml"),
            **local,
            "dataset_kwargs": {
                "data_files": {name: str(data / f"evals/gsm8k_{name}.jsonl") for name in ("train", "test")}
            },
            # One question and answer fit the prompt of the smaller context too.
            "num_fewshot": 4,
        },
        "bench_endings": {**ENDINGS, "dataset_kwargs": _endings_files(folder)},
        "bench_endings_10": {**ENDINGS, "dataset_kwargs": _endings_files(folder)},
    }
    for letter, subject in zip("ab", subjects, strict=True):
        files[f"bench_mmlu_{letter}"] = {
            "include": str(stock / f"mmlu/default/mmlu_{subject}.yaml"),
            **local,
            "dataset_kwargs": {
                "data_files": {name: str(data / f"mmlu/{name}/{subject}.jsonl") for name in ("dev", "test")}
            },
        }
    for name, fields in files.items():
        # JSON is YAML.
        (folder / f"{name}.yaml").write_text(json.dumps({**fields, "task": name}, indent=1), encoding="utf-8")


def _endings_files(folder: Path) -> dict[str, Any]:
    return {"data_files": {name: str(folder / f"endings_{name}.jsonl") for name in ("train", "test")}}


def _endings(folder: Path, data: Path) -> None:
    """HellaSwag-like documents out of LAMBADA passages: the first half, then its own end or that of three others."""
    texts = [
        json.loads(line)["text"].split() for line in (data / "evals/lambada.jsonl").open(encoding="utf-8")
    ]
    halves = [(" ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])) for words in texts]
    rows = []
    for number, (context, _) in enumerate(halves[:400]):
        others = [halves[(number * 7 + 401 + step * 97) % len(halves)][1] for step in range(3)]
        label = number % 4
        endings = [*others[:label], halves[number][1], *others[label:]]
        rows.append({"context": context, "endings": endings, "label": label})
    for name, part in (("train", rows[:50]), ("test", rows[50:])):
        (folder / f"endings_{name}.jsonl").write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part), encoding="utf-8"
        )


# ---- models -----------------------------------------------------------------------------------------------------------


def make_models(python: Path, gguf: Path, work: Path) -> dict[str, Path]:
    """Folders of both models, made by the interpreter that has transformers when they are not there."""
    models = {"SmolLM2-135M": work / "smollm2", "GPT-2-124M random": work / "gpt2"}
    if not all((folder / "model.safetensors").exists() for folder in models.values()):
        command = [str(python), __file__, str(gguf), *map(str, models.values())]
        subprocess.run(command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True)
    return models


def _make(gguf: Path, smollm2: Path, gpt2: Path) -> None:
    import torch
    from tokenizers import pre_tokenizers
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
    )

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    # The file asks for a rule that the conversion leaves out: each digit is a piece of its own.
    rules = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(rules)
    loaded = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    settings: Mapping[str, Any] = {
        key: value
        for key, value in loaded.config.to_dict().items()
        if key not in ("quantization_config", "_name_or_path", "dtype", "torch_dtype")
    }
    model = LlamaForCausalLM(LlamaConfig(**{**settings, "max_position_embeddings": CONTEXT})).to(
        torch.float32
    )
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(smollm2)
    tokenizer.save_pretrained(smollm2)

    torch.manual_seed(SEED)
    config = GPT2Config(
        vocab_size=50257,
        n_positions=CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    random = GPT2LMHeadModel(config).to(torch.float32)
    with torch.no_grad():  # so that scores differ: fresh weights give nearly the same score to every token
        random.transformer.wte.weight.mul_(3)
    random.save_pretrained(gpt2)
    tokenizer.save_pretrained(gpt2)


if __name__ == "__main__":
    _make(*(Path(argument) for argument in sys.argv[1:4]))
