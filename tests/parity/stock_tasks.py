"""The stock lm-evaluation-harness tasks that local data can feed, and the settings both harnesses run them with.

Each task becomes a small YAML file that includes the stock file, unmodified, from an installed or unpacked ``lm_eval``
package and replaces only where the documents come from. Both harnesses read the very same generated files. Files of data
are named relative to the shared data folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Put before every task name so that no name of the stock package or of a suite can be meant by accident.
PREFIX = "parity_"
#: The MMLU group of the stock package; its members are found through the tags of the stock task files.
MMLU = "mmlu"

MMLU_AREAS = {
    "stem": "abstract_algebra anatomy astronomy college_biology college_chemistry college_computer_science "
    "college_mathematics college_physics computer_security conceptual_physics electrical_engineering "
    "elementary_mathematics high_school_biology high_school_chemistry high_school_computer_science "
    "high_school_mathematics high_school_physics high_school_statistics machine_learning",
    "other": "business_ethics clinical_knowledge college_medicine global_facts human_aging management marketing "
    "medical_genetics miscellaneous nutrition professional_accounting professional_medicine virology",
    "social_sciences": "econometrics high_school_geography high_school_government_and_politics "
    "high_school_macroeconomics high_school_microeconomics high_school_psychology human_sexuality "
    "professional_psychology public_relations security_studies sociology us_foreign_policy",
    "humanities": "formal_logic high_school_european_history high_school_us_history high_school_world_history "
    "international_law jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy prehistory "
    "professional_law world_religions",
}
SUBJECTS = tuple(sorted(subject for area in MMLU_AREAS.values() for subject in area.split()))
BLIMP = (
    "adjunct_island",
    "anaphor_number_agreement",
    "determiner_noun_agreement_1",
    "npi_present_1",
    "regular_plural_subject_verb_agreement_1",
    "wh_island",
)


@dataclass(frozen=True, slots=True)
class StockTask:
    """A stock file below ``lm_eval/tasks``, the data file for each split, and the splits the data does not have."""

    stock: str
    data: dict[str, str]
    absent: tuple[str, ...] = ()


TASKS: dict[str, StockTask] = {
    # A set of its own stands in for the training split that the data lacks, so that examples can be drawn.
    "arc_easy": StockTask(
        "arc/arc_easy.yaml",
        {"train": "evals/arc_challenge.jsonl", "test": "evals/arc_easy.jsonl"},
        ("validation_split",),
    ),
    # Here nothing stands in: both harnesses draw examples from the test split.
    "arc_challenge": StockTask(
        "arc/arc_challenge.yaml",
        {"test": "evals/arc_challenge.jsonl"},
        ("training_split", "validation_split"),
    ),
    "boolq": StockTask(
        "super_glue/boolq/default.yaml", {"validation": "evals/boolq.jsonl"}, ("training_split",)
    ),
    "piqa": StockTask("piqa/piqa.yaml", {"validation": "evals/piqa.jsonl"}, ("training_split",)),
    "winogrande": StockTask(
        "winogrande/default.yaml", {"validation": "evals/winogrande.jsonl"}, ("training_split",)
    ),
    "openbookqa": StockTask(
        "openbookqa/openbookqa.yaml",
        {"test": "evals/openbookqa.jsonl"},
        ("training_split", "validation_split"),
    ),
    "lambada_openai": StockTask("lambada/lambada_openai.yaml", {"test": "evals/lambada.jsonl"}),
    "gsm8k": StockTask(
        "gsm8k/gsm8k.yaml", {"train": "evals/gsm8k_train.jsonl", "test": "evals/gsm8k_test.jsonl"}
    ),
    "wikitext": StockTask(
        "wikitext/wikitext.yaml", {"test": "evals/wikitext.jsonl"}, ("training_split", "validation_split")
    ),
    "truthfulqa_mc1": StockTask(
        "truthfulqa/truthfulqa_mc1.yaml", {"validation": "evals/truthfulqa_mc1.jsonl"}
    ),
    **{
        f"blimp_{name}": StockTask(f"blimp/{name}.yaml", {"train": f"evals/blimp_{name}.jsonl"})
        for name in BLIMP
    },
    **{
        f"mmlu_{subject}": StockTask(
            f"mmlu/default/mmlu_{subject}.yaml",
            {"dev": f"mmlu/dev/{subject}.jsonl", "test": f"mmlu/test/{subject}.jsonl"},
        )
        for subject in SUBJECTS
    },
}
MMLU_TASKS = tuple(name for name in TASKS if name.startswith("mmlu_"))
SMALL_TASKS = tuple(name for name in TASKS if name not in MMLU_TASKS)
#: Files that the stock files need beside them.
COMPANIONS = (
    "blimp/_template_yaml",
    "wikitext/preprocess_wikitext.py",
    "winogrande/preprocess_winogrande.py",
    "mmlu/default/_default_template_yaml",
)


@dataclass(frozen=True, slots=True)
class Case:
    """Tasks and groups that one call of each harness evaluates with the same settings."""

    name: str
    tasks: tuple[str, ...]
    shots: int | None = None
    #: Whether the model's chat template is applied; then its system prompt and whether examples are turns of their own.
    chat: bool = False
    system: str | None = None
    multiturn: bool = False
    #: A shorter context than the model's, so that prompts are cut and texts need many windows.
    max_length: int | None = None

    def settings(self) -> dict[str, Any]:
        """For the lm-eval side, as JSON."""
        return {
            "num_fewshot": self.shots,
            "apply_chat_template": self.chat,
            "system_instruction": self.system,
            "fewshot_as_multiturn": self.multiturn,
            "max_length": self.max_length,
        }


_SYSTEM = "You are a careful assistant. Answer the question."
_FEW = tuple(name for name in SMALL_TASKS if name not in ("wikitext", "truthfulqa_mc1", "gsm8k"))
_TALKATIVE = ("arc_challenge", "boolq", "winogrande", "gsm8k", "mmlu_anatomy", "mmlu_philosophy")

CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case("stock", SMALL_TASKS),
        Case("mmlu", (MMLU,)),
        Case("5-shot", _FEW, shots=5),
        Case("mmlu-5-shot", (MMLU,), shots=5),
        Case("chat", ("arc_easy", "openbookqa", "lambada_openai", "truthfulqa_mc1", *_TALKATIVE), chat=True),
        Case("chat-turns", _TALKATIVE, shots=5, chat=True, system=_SYSTEM, multiturn=True),
        Case("chat-one-turn", _TALKATIVE, shots=5, chat=True, system=_SYSTEM),
        Case("system", ("arc_challenge", "mmlu_anatomy"), shots=2, system=_SYSTEM),
        Case("short-context", ("boolq", "lambada_openai", "wikitext", "blimp_wh_island"), max_length=96),
    )
}


def members(names: Iterable[str]) -> tuple[str, ...]:
    """The tasks that names of tasks and of the MMLU group stand for."""
    return tuple(member for name in names for member in (MMLU_TASKS if name == MMLU else (name,)))


def write_task_file(name: str, *, stock_root: Path, data: Path, folder: Path) -> Path:
    """Write ``folder/parity_NAME.yaml``. ``stock_root`` is the ``lm_eval/tasks`` folder, ``data`` the shared data folder."""
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


def write_case(names: Sequence[str], *, stock_root: Path, data: Path, folder: Path) -> None:
    """Write the files of the tasks, and those of the MMLU groups where they are asked for."""
    for name in members(names):
        write_task_file(name, stock_root=stock_root, data=data, folder=folder)
    if MMLU not in names:
        return
    for group, listed in (
        (MMLU, [f"{PREFIX}mmlu_{area}" for area in MMLU_AREAS]),
        *((f"mmlu_{area}", [f"mmlu_{area}_tasks"]) for area in MMLU_AREAS),
    ):
        text = {
            "group": PREFIX + group,
            "task": listed,
            "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
            "metadata": {"version": 2},
        }
        (folder / f"_{PREFIX}{group}.yaml").write_text(json.dumps(text, indent=1), encoding="utf-8")
