"""A small model and a small suite of every kind of request, and a run of it that may kill itself.

As a program: ``flow_suite.py FOLDER OUTPUT SETTINGS KILL_AFTER`` runs the suite of ``FOLDER`` and kills its own process, as
SIGKILL does, when so many documents are written (0: never). ``SETTINGS`` are fields of EvalRequest as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import llmasos
from llmasos.api import EvalResult
from llmasos.testing.checkpoints import write_checkpoint

TASKS = {
    # A prompt long enough that its beginning is shared in chunks; some questions are there twice.
    "colours": """
output_type: multiple_choice
num_fewshot: 3
fewshot_split: test
description: "Questions about the colours of things and their answers. Choose the one that fits best. "
doc_to_text: "{{question}}"
doc_to_choice: [red, green, blue, "light blue"]
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    # The same questions: its prompts begin as those of the other task do.
    "again": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: [red, green, blue, "light blue"]
doc_to_target: "{{answer}}"
metric_list: [{metric: acc_mutual_info}]
""",
    "last_word": """
output_type: loglikelihood
doc_to_text: "{{question}} It is"
doc_to_target: " green"
metric_list: [{metric: acc}, {metric: perplexity}]
""",
    "prose": """
output_type: loglikelihood_rolling
doc_to_target: "{{question}} {{question}} {{page}}"
metric_list: [{metric: word_perplexity}]
""",
    "story": """
output_type: generate_until
doc_to_text: "A story. {{question}} Because"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["!"], max_gen_toks: 6}
metric_list: [{metric: exact_match}]
""",
    "dream": """
output_type: generate_until
repeats: 2
doc_to_text: "A dream. {{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["!"], max_gen_toks: 5, do_sample: true, temperature: 0.8}
metric_list: [{metric: exact_match}]
""",
}
DATA = """
dataset_path: json
dataset_kwargs: {data_files: {test: documents.jsonl}}
test_split: test
"""
WORDS = ("tree", "house", "river", "stone", "cloud", "bird", "apple", "water", "sand", "night")


def write_suite(folder: Path, *, documents: int = 12, length: int = 512, seed: int = 3) -> Path:
    """Model, tasks and documents below ``folder``."""
    write_checkpoint(
        folder / "model", "llama", max_position_embeddings=length, hidden_size=32, intermediate_size=48
    )
    tasks = folder / "tasks"
    tasks.mkdir()
    for name, text in TASKS.items():
        (tasks / f"{name}.yaml").write_text(f"task: {name}{DATA}{text.lstrip()}")
    chance = random.Random(seed)
    rows = [
        {
            "question": f"What is the colour of the {chance.choice(WORDS)} near the {chance.choice(WORDS)}?",
            "page": " ".join(chance.choice(WORDS) for _ in range(chance.randrange(20, 160))),
            "answer": number % 4,
        }
        for number in range(documents)
    ]
    (tasks / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run_suite(
    folder: Path,
    output: Path,
    names: tuple[str, ...] = tuple(TASKS),
    *,
    shard_tokens: int = 700,
    **settings: Any,
) -> EvalResult:
    """Run the suite with shards of a few documents."""
    with (
        llmasos.Hub(cache_dir=folder / "cache", config_dir=folder / "cache", offline=True) as hub,
        patch("llmasos_evals.scoring.session.SHARD_TOKENS", shard_tokens),
        patch("llmasos_evals.scoring.prompts.ROUNDS", 1),
    ):
        settings = {"bootstrap": 50, "batch_invariant": True, **settings}
        return hub.evaluate(
            str(folder / "model"), names, include=(folder / "tasks",), output=output, **settings
        )


def run_apart(folder: Path, output: Path, *, kill_after: int = 0, **settings: Any) -> int:
    """``run_suite`` in a process of its own; returns its exit code."""
    arguments = [str(folder), str(output), json.dumps(settings), str(kill_after)]
    done = subprocess.run(
        [sys.executable, __file__, *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def samples(output: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Every line of the samples by task and number."""
    return {
        (path.stem.removeprefix("samples_"), line["index"]): line
        for path in sorted(output.glob("samples_*.jsonl"))
        for line in map(json.loads, path.read_text(encoding="utf-8").splitlines())
    }


def _main() -> None:
    from llmasos_evals.records.store import SampleStore

    left = int(sys.argv[4])
    append = SampleStore.append

    def dying(self: SampleStore, task: str, sample: Any) -> tuple[int, int]:
        nonlocal left
        place = append(self, task, sample)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return place

    with patch.object(SampleStore, "append", dying):
        run_suite(Path(sys.argv[1]), Path(sys.argv[2]), **json.loads(sys.argv[3]))


if __name__ == "__main__":
    _main()
