"""The bridge with the real package: run by ``test_lmeval_real.py`` with an interpreter that has lm-eval and LLMasOS.

One argument: an empty folder. Writes JSON to standard output.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import llmasos
from llmasos.testing.checkpoints import write_checkpoint
from llmasos_evals.tasks.names import Names

CLASSES = """
import datasets
from lm_eval.api.instance import Instance
from lm_eval.tasks.squad_completion.task import SQUADCompletion

ROWS = [{"text": f"The capital of land {n} is", "value": "a" if n % 2 else "zebra crossing"} for n in range(9)]


class Local(SQUADCompletion):
    def download(self, *args, **kwargs):
        self.dataset = datasets.DatasetDict({"validation": datasets.Dataset.from_list(ROWS)})


class Both(Local):
    def construct_requests(self, doc, ctx, **kwargs):
        for name in ("chat_template", "apply_chat_template"):
            kwargs.pop(name, None)
        return [
            Instance("generate_until", doc, (ctx, {"until": ["\\n"], "max_gen_toks": 5}), 0, **kwargs),
            Instance("loglikelihood", doc, (ctx, " " + doc["value"]), 1, **kwargs),
        ]

    def process_results(self, doc, results):
        text, (nats, greedy) = results
        return {"length": len(text), "nats": nats, "worst": (nats, len(text))}

    def aggregation(self):
        from lm_eval.api.metrics import mean

        return {"length": mean, "nats": mean, "worst": lambda items: min(nats for nats, _ in items)}

    def higher_is_better(self):
        return {"length": True, "nats": True, "worst": True}
"""
COMMON = {
    "dataset_path": "json",
    "test_split": "test",
    "training_split": "train",
    "fewshot_split": "train",
    "doc_to_text": "{{question}}",
}
TASKS: dict[str, dict[str, Any]] = {
    "b_choice": {
        **COMMON,
        "output_type": "multiple_choice",
        "doc_to_choice": "{{options}}",
        "doc_to_target": "right",
        "num_fewshot": 2,
        "metric_list": [{"metric": name} for name in ("acc", "acc_norm", "brier_score")],
    },
    "b_word": {
        **COMMON,
        "output_type": "loglikelihood",
        "doc_to_target": "{{options[right]}}",
        "metric_list": [{"metric": name} for name in ("acc", "perplexity")],
    },
    "b_story": {
        **COMMON,
        "output_type": "generate_until",
        "doc_to_target": "{{options[0]}}",
        "generation_kwargs": {"until": ["."], "max_gen_toks": 7},
        "metric_list": [{"metric": "exact_match"}],
    },
    "b_prose": {
        **{key: value for key, value in COMMON.items() if key != "fewshot_split"},
        "doc_to_text": "",
        "output_type": "loglikelihood_rolling",
        "doc_to_target": "{{(question ~ ' ') * 40}}",
        "metric_list": [{"metric": name} for name in ("word_perplexity", "bits_per_byte")],
    },
    "b_group": {
        "group": "b_group",
        "task": ["b_choice", "b_word"],
        "aggregate_metric_list": [{"metric": "acc"}],
    },
}


def write_tasks(folder: Path) -> None:
    draw = random.Random(4)
    words = ["red", "green", "blue", "stone", "river", "cloud", "apple", "bird"]
    rows = [
        {
            "question": " ".join(draw.choice(words) for _ in range(draw.randrange(4, 60))) + "?",
            "options": draw.sample(words, 3),
            "right": n % 3,
        }
        for n in range(24)
    ]
    for name, part in (("train", rows[:10]), ("test", rows[10:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    files = {name: str(folder / f"{name}.jsonl") for name in ("train", "test")}
    for name, fields in TASKS.items():
        extra = {} if "group" in fields else {"task": name, "dataset_kwargs": {"data_files": files}}
        (folder / f"{name}.yaml").write_text(json.dumps({**fields, **extra}))
    (folder / "classes.py").write_text(CLASSES)
    for name, kind in (("b_completion", "Local"), ("b_both", "Both")):
        (folder / f"{name}.yaml").write_text(f"task: {name}\nclass: !function classes.{kind}\n")


def scores(result: Any) -> dict[str, dict[str, list[float | None]]]:
    sections = [*result.record["tasks"], *result.record["groups"]]
    return {
        one["name"]: {f"{s['metric']},{s['filter']}": [s["value"], s["stderr"]] for s in one["scores"]}
        for one in sections
    }


def main() -> None:
    root = Path(sys.argv[1])
    (root / "tasks").mkdir()
    write_tasks(root / "tasks")
    write_checkpoint(
        root / "model", "llama", max_position_embeddings=320, hidden_size=32, intermediate_size=48
    )
    hub = llmasos.Hub(cache_dir=root / "cache", config_dir=root / "cache", offline=True)
    names = [*("b_group", "b_story", "b_prose"), *("b_completion", "b_both")]
    found: dict[str, Any] = {"entries": len(list(Names((), hub).entries()))}
    for engine in ("tree", "lm-eval"):
        result = hub.evaluate(
            str(root / "model"),
            names,
            include=(root / "tasks",),
            allow_task_code=True,
            compat="lm-eval",
            engine=engine,
            bootstrap=100,
            output=root / engine,
        )
        found[engine] = scores(result)
    found["oracle"] = json.loads((root / "lm-eval" / "oracle.json").read_text())
    found["written"] = sorted(path.name for path in (root / "lm-eval").glob("*.json*"))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
