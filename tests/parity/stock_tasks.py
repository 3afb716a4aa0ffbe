"""The six stock lm-evaluation-harness tasks of the parity runs, pointed at local files.

Each entry becomes a small YAML file that includes the stock file, unmodified, from an installed or unpacked ``lm_eval``
package and replaces only where the documents come from. Both harnesses read the very same generated files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

#: Put before every task name so that no name of the stock package or of a suite can be meant by accident.
PREFIX = "parity_"


@dataclass(frozen=True, slots=True)
class StockTask:
    """A stock file below ``lm_eval/tasks``, the data file for each split, and the splits the data does not have."""

    stock: str
    data: dict[str, str]
    absent: tuple[str, ...] = ()


TASKS: dict[str, StockTask] = {
    "blimp_adjunct_island": StockTask("blimp/adjunct_island.yaml", {"train": "blimp_adjunct_island.jsonl"}),
    "arc_easy": StockTask(
        "arc/arc_easy.yaml", {"test": "arc_easy.jsonl"}, ("training_split", "validation_split")
    ),
    "piqa": StockTask("piqa/piqa.yaml", {"validation": "piqa.jsonl"}, ("training_split",)),
    "lambada_openai": StockTask("lambada/lambada_openai.yaml", {"test": "lambada.jsonl"}),
    "gsm8k": StockTask("gsm8k/gsm8k.yaml", {"train": "gsm8k_train.jsonl", "test": "gsm8k_test.jsonl"}),
    "wikitext": StockTask(
        "wikitext/wikitext.yaml", {"test": "wikitext.jsonl"}, ("training_split", "validation_split")
    ),
}


def write_task_file(name: str, *, stock_root: Path, data: Path, folder: Path) -> Path:
    """Write ``folder/parity_NAME.yaml``. ``stock_root`` is the ``lm_eval/tasks`` folder, ``data`` the JSONL folder."""
    task = TASKS[name]
    # JSON strings are YAML strings, so paths with odd characters stay what they are.
    lines = [
        f"include: {json.dumps(str(stock_root / task.stock))}",
        f"task: {PREFIX}{name}",
        "dataset_path: json",
        "dataset_name: null",
        "dataset_kwargs:",
        "  data_files:",
    ]
    lines += [f"    {split}: {json.dumps(str(data / file))}" for split, file in task.data.items()]
    lines += [f"{split}: null" for split in task.absent]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{PREFIX}{name}.yaml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
