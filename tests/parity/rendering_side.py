"""The lm-evaluation-harness side of the rendering comparison: what it asks for a task file on given rows.

Run by ``coverage.py`` with the interpreter that has lm-eval; imports nothing of LLMasOS. Arguments: TASKS_FOLDER VARIANTS.json.
Reads jobs from standard input, one JSON object a line, and answers each with one line.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import sys
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", DISABLE_MULTIPROC="1", HF_ALLOW_CODE_EVAL="1")
os.environ.update(LMEVAL_LOG_LEVEL="CRITICAL", TOKENIZERS_PARALLELISM="false", TQDM_DISABLE="1")

import types

import datasets
import evaluate
import numpy as np
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks._yaml_loader import load_yaml


class Script:
    """Stands for a metric script of the hub, which cannot be fetched here: prompts do not depend on it."""

    def compute(self, **_):
        return {"pass@1": 0.0}, {}


evaluate.load = lambda *_, **__: Script()
try:
    import transformers.data.metrics.squad_metrics  # noqa: F401 (gone in transformers 5; stock tasks still import it)
except ImportError:
    stub = types.ModuleType("transformers.data.metrics.squad_metrics")
    sys.modules["transformers.data.metrics"] = types.ModuleType("transformers.data.metrics")
    sys.modules["transformers.data.metrics"].squad_metrics = stub
    sys.modules["transformers.data.metrics.squad_metrics"] = stub

datasets.disable_progress_bars()
datasets.disable_caching()
logging.disable(logging.CRITICAL)


def tags(messages, add_generation_prompt=True):
    """The chat template of the comparison; a begun answer is left open."""
    text = "".join(f"<{message['role']}>{message['content']}</{message['role']}>" for message in messages)
    if add_generation_prompt:
        return text + "<assistant>"
    return text[: -len(f"</{messages[-1]['role']}>")]


def reseed():
    """As ``simple_evaluate`` does before it loads tasks."""
    random.seed(0)
    np.random.seed(1234)


def asked(path: Path, job: dict, shots, chat: bool, turns: bool) -> list:
    reseed()
    config = load_yaml(path)
    for key in ("tag", "group", "task_list"):
        config.pop(key, None)
    rows = {name: datasets.Dataset.from_list(split) for name, split in job["rows"].items()}
    config.update(custom_dataset=lambda **_: rows, dataset_kwargs=None)
    metadata = config.get("metadata")
    config["metadata"] = metadata if isinstance(metadata, dict) else {"_metadata": metadata}
    task = ConfigurableTask(config=config)
    own = task.config.num_fewshot
    if own is None:
        task.set_config("num_fewshot", 0 if shots is None else shots)
    task.set_fewshot_seed(1234)
    reseed()
    task.build_all_requests(
        limit=job["scored"],
        system_instruction=job["system"] if chat else None,
        apply_chat_template=chat,
        fewshot_as_multiturn=turns,
        chat_template=tags if chat else None,
    )
    made, last = [], None
    for instance in task.instances:
        if last is not None and instance.doc_id != last.doc_id:
            made.append(["target", task.doc_to_target(last.doc)])
        last = instance
        if instance.request_type == "generate_until":
            context, options = instance.args
            settings = {"temperature": 0.0, **normalize_gen_kwargs(options)}  # left out, it is 0
            made += [[instance.request_type, context, settings]] * task.config.repeats
        else:
            made.append([instance.request_type, *instance.args])
    made.append(["target", task.doc_to_target(last.doc)])
    return made


def main() -> None:
    folder, variants = Path(sys.argv[1]), json.loads(sys.argv[2])
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # tasks print; standard output is for answers
    for line in sys.stdin:
        job = json.loads(line)
        answer = {"task": job["task"]}
        for name, (shots, chat, turns) in variants.items():
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    answer[name] = asked(folder / job["task"], job, shots, chat, turns)
            except (Exception, SystemExit) as error:
                answer[name] = f"{type(error).__name__}: {error}"
        print(json.dumps(answer, default=str), file=out, flush=True)


if __name__ == "__main__":
    main()
