"""What scoring costs inside the model: the tree engine and transformers, on the same token ids.

    python benchmarks/eval_passes.py [--model smollm2|gpt2] [--threads 1] [--repeats 3] [--budgets 512,1024,2048] [--json]

Random models of the shape of SmolLM2-135M and GPT-2-124M answer made-up requests with the structure of real tasks: choices
without examples, letters after five shared examples, choices after examples of each document's own, windows over long texts.
``transformers`` scores padded batches of whole rows, longest first, with logits and log-softmax at every position, as harnesses
around it do, answers of one token to the same context together. Printed for each: tokens that go through the model, the ideal, CPU seconds (the least of the repeats, which take
turns, so that a busy machine treats all alike), tokens of the requests per CPU second. Needs transformers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import llmasos
from llmasos.api import TreeLM
from llmasos.testing.checkpoints import write_tokenizer
from llmasos_evals.scoring.encoding import Scored
from llmasos_evals.scoring.engine import open_engine
from llmasos_evals.scoring.plan import Plan, PlanSettings, plan_rows

SEED = 20_261_122
BATCH = 8  # rows of a padded batch
LENGTH = 1024  # of a window


def smollm2() -> Any:
    """The shape of SmolLM2-135M."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=49_152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
        )
    )


def gpt2() -> Any:
    """The shape of GPT-2, 124 million parameters."""
    return GPT2LMHeadModel(GPT2Config())


MODELS: dict[str, Callable[[], Any]] = {"smollm2": smollm2, "gpt2": gpt2}


def workloads(vocabulary: int) -> dict[str, list[Scored]]:
    """Requests by the structure of the task."""
    source = random.Random(SEED)

    def ids(count: int) -> list[int]:
        return [source.randrange(vocabulary) for _ in range(count)]

    def choices(context: list[int], lengths: Sequence[int]) -> list[Scored]:
        return [Scored((*context, *ids(length)), length) for length in lengths]

    plain, letters, own = [], [], []
    head = ids(3)
    for _ in range(30):
        answers = [source.randint(1, 12) for _ in range(4)]
        plain += choices([*head, *ids(source.randint(15, 55))], answers)
    head = ids(600)
    for _ in range(24):
        letters += choices([*head, *ids(source.randint(60, 200))], [1, 1, 1, 1])
    for _ in range(2):
        own += choices(ids(900), [source.randint(1, 12) for _ in range(4)])
    windows = [Scored(tuple(ids(LENGTH + 1)), LENGTH) for _ in range(2)]
    return {
        "choices, no examples": plain,
        "letters, 5 shared examples": letters,
        "choices, own examples": own,
        "windows of 1,024": windows,
    }


def padded(model: Any, rows: Sequence[Scored]) -> list[float]:
    """Log-probabilities with transformers, batch after batch."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(tuple(row.ids[:-1]), []).append(i)
    order = iter(sorted(groups, key=len, reverse=True))
    scores = [0.0] * len(rows)
    with torch.inference_mode():
        while batch := list(islice(order, BATCH)):
            inputs = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in batch], batch_first=True)
            table = model(inputs).logits.log_softmax(-1)  # padding is on the right: nothing sees it
            for place, ids in enumerate(batch):
                for i in groups[ids]:
                    targets = rows[i].targets
                    wanted = torch.tensor(rows[i].ids[-targets:])[:, None]
                    found = table[place, len(ids) - targets : len(ids)]
                    scores[i] = float(found.gather(1, wanted).sum())
    return scores


def engine(model: TreeLM, rows: Sequence[Scored], settings: PlanSettings) -> tuple[list[float], Plan]:
    """Log-probabilities with an engine of ours, planning included."""
    units = range(len(rows)) if rows[0].targets == LENGTH else [i // 4 for i in range(len(rows))]
    plan = plan_rows(rows, units=units, settings=settings)
    answers = [a.logprob for shard in plan.shards for a in sorted(open_engine(model, settings).run(shard))]
    return [answers[row] for row in plan.row_of], plan


def measure(
    theirs: Any, ours: TreeLM, rows: list[Scored], budgets: Sequence[int], repeats: int
) -> dict[str, Any]:
    """Seconds of every way, and how far apart their answers are."""
    ways: dict[str, Callable[[], Any]] = {"transformers": lambda: (padded(theirs, rows), None)}
    chosen = {"invariant": PlanSettings(invariant=True)}
    chosen |= {f"tree, {budget}": PlanSettings(budget=budget) for budget in budgets}
    for name, settings in chosen.items():
        ways[name] = lambda settings=settings: engine(ours, rows, settings)
    seconds: dict[str, float] = {}
    results: dict[str, Any] = {}
    for _ in range(repeats):
        for name, way in ways.items():
            begin = time.process_time()
            results[name] = way()
            seconds[name] = min(seconds.get(name, float("inf")), time.process_time() - begin)
    expected = results["transformers"][0]
    requested = sum(len(ids) for ids in {tuple(row.ids[:-1]) for row in rows})
    lines = {}
    for name, (scores, plan) in results.items():
        lines[name] = {
            "cpu_seconds": round(seconds[name], 3),
            "speed_up": round(seconds["transformers"] / seconds[name], 2),
            "tokens": requested if plan is None else plan.counts.tokens,
            "logit_rows": requested if plan is None else plan.counts.logit_rows,
            "max_difference_per_target": max(
                abs(x - y) / row.targets for x, y, row in zip(scores, expected, rows, strict=True)
            ),
        }
    ideal = results[next(reversed(ways))][1].counts
    return {
        "requested_tokens": requested,
        "ideal_tokens": ideal.ideal_tokens,
        "ideal_logit_rows": ideal.ideal_logit_rows,
        "ways": lines,
    }


def main() -> None:
    """Build the model, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=sorted(MODELS), default="smollm2")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--budgets", default="512,1024,2048")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    theirs = MODELS[options.model]().eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        write_tokenizer(Path(folder))
        hub = llmasos.Hub(cache_dir=Path(folder) / "cache", config_dir=Path(folder) / "cache", offline=True)
        ours = hub.load_model(folder, device="cpu").model
    assert isinstance(ours, TreeLM)
    report: dict[str, Any] = {
        "model": options.model,
        "threads": options.threads,
        "machine": {"processor": platform.processor() or platform.machine(), "torch": torch.__version__},
        "workloads": {},
    }
    budgets = [int(text) for text in options.budgets.split(",")]
    for name, rows in workloads(ours.vocab_size).items():
        found = report["workloads"][name] = measure(theirs, ours, rows, budgets, options.repeats)
        if not options.json:
            print(
                f"\n{name}: {found['requested_tokens']:,} tokens requested, ideal {found['ideal_tokens']:,} tokens and "
                f"{found['ideal_logit_rows']:,} rows of logits"
            )
            print(
                f"  {'way':<14}{'tokens':>9}{'logit rows':>12}{'CPU s':>9}{'speed-up':>10}{'max |Δ| nats/target':>22}"
            )
            for way, line in found["ways"].items():
                print(
                    f"  {way:<14}{line['tokens']:>9,}{line['logit_rows']:>12,}{line['cpu_seconds']:>9.2f}"
                    f"{line['speed_up']:>10.2f}{line['max_difference_per_target']:>22.1e}",
                    flush=True,
                )
    if options.json:
        json.dump(report, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
