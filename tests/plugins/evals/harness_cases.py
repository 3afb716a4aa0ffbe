"""Tasks on which our runner is compared with lm-evaluation-harness 0.4.13.

A case names a stock task file of that harness, fields of our own that ask the same questions, or both. Imported by the
tests and, in an environment with lm-evaluation-harness, by ``refresh_goldens.py``, which makes ``goldens.json``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
#: The data described in the shared folder beside the checkout; tests that need it skip without it.
SHARED = HERE.parents[2].parent / "shared" / "data"
LIMIT = 50

_QUESTION = "Question: {{question}}\nAnswer:"
_ACC = [{"metric": "acc"}, {"metric": "acc_norm"}]
_LETTERS = (
    "{{question.strip()}}\n"
    + "".join(f"{x}. {{{{choices[{i}]}}}}\n" for i, x in enumerate("ABCD"))
    + "Answer:"
)
_GSM8K = {
    "output_type": "generate_until",
    "training_split": "train",
    "fewshot_split": "train",
    "test_split": "test",
    "doc_to_text": _QUESTION,
    "doc_to_target": "{{answer}}",
    "metric_list": [
        {
            "metric": "exact_match",
            "ignore_case": True,
            "ignore_punctuation": False,
            "regexes_to_ignore": [",", "\\$", "(?s).*#### ", "\\.$"],
        }
    ],
    "generation_kwargs": {
        "until": ["Question:", "</s>", "<|im_end|>"],
        "do_sample": False,
        "temperature": 0.0,
    },
    "num_fewshot": 5,
    "filter_list": [
        {
            "name": "strict-match",
            "filter": [
                {"function": "regex", "regex_pattern": "#### (\\-?[0-9\\.\\,]+)"},
                {"function": "take_first"},
            ],
        },
        {
            "name": "flexible-extract",
            "filter": [
                {"function": "regex", "group_select": -1, "regex_pattern": "(-?[$0-9.,]{2,})|(-?[0-9]+)"},
                {"function": "take_first"},
            ],
        },
    ],
}


@dataclass(frozen=True)
class Case:
    """``files``: split -> path under the shared data, or under this folder when it begins with ``own/``."""

    name: str
    files: dict[str, str]
    stock: str | None = None
    fields: dict[str, Any] | None = None
    #: Keys set on top of either: splits without data are null.
    overrides: dict[str, Any] = field(default_factory=dict)
    shots: int | None = None
    limit: int = LIMIT

    def paths(self) -> dict[str, Path]:
        return {
            split: HERE / "data" / path.removeprefix("own/") if path.startswith("own/") else SHARED / path
            for split, path in self.files.items()
        }

    def variants(self) -> list[str]:
        return [name for name, there in (("stock", self.stock), ("own", self.fields)) if there]

    def write(self, folder: Path, variant: str, stock_folder: Path | None) -> Path:
        """The task file of this case, for either harness."""
        config: dict[str, Any] = {"task": self.name}
        if variant == "stock":
            assert stock_folder is not None
            assert self.stock is not None
            config["include"] = str(stock_folder / self.stock)
        else:
            assert self.fields is not None
            config |= self.fields
        data_files = {split: str(path) for split, path in self.paths().items()}
        config |= {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": data_files}}
        config |= self.overrides
        path = folder / f"{self.name}-{variant}.yaml"
        text = json.dumps(config, indent=1, ensure_ascii=False)  # JSON is YAML
        for word in json.dumps(config, ensure_ascii=False).split('"'):
            if word.startswith("!function "):
                text = text.replace(f'"{word}"', word)
        path.write_text(text, encoding="utf-8")
        for code in (HERE / "data").glob("*.py"):
            (folder / code.name).write_bytes(code.read_bytes())
        return path


_TEST_ONLY = {"training_split": None, "validation_split": None}
_VALIDATION_ONLY = {"training_split": None}
_ARC = {
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": _QUESTION,
    "doc_to_target": "{{choices.label.index(answerKey)}}",
    "doc_to_choice": "{{choices.text}}",
    "metric_list": _ACC,
}
_PIQA = {
    "output_type": "multiple_choice",
    "validation_split": "validation",
    "doc_to_text": "Question: {{goal}}\nAnswer:",
    "doc_to_target": "label",
    "doc_to_choice": "{{[sol1, sol2]}}",
    "metric_list": _ACC,
}
_BOOLQ = {
    "output_type": "multiple_choice",
    "validation_split": "validation",
    "doc_to_text": "{{passage}}\nQuestion: {{question}}?\nAnswer:",
    "doc_to_target": "label",
    "doc_to_choice": ["no", "yes"],
    "metric_list": [{"metric": "acc"}],
}
_WINOGRANDE = {
    "output_type": "multiple_choice",
    "validation_split": "validation",
    "doc_to_text": "!function blanks.option_number",
    "doc_to_target": "!function blanks.after_blank",
    "doc_to_choice": "!function blanks.filled",
    "metric_list": [{"metric": "acc"}],
}
_MMLU = {
    "output_type": "multiple_choice",
    "test_split": "test",
    "fewshot_split": "dev",
    "fewshot_config": {"sampler": "first_n"},
    "doc_to_text": _LETTERS,
    "doc_to_choice": ["A", "B", "C", "D"],
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc"}],
}
_SUBJECT = "The following are multiple choice questions (with answers) about professional law.\n\n"
_LAW = {"test": "mmlu/test/professional_law.jsonl", "dev": "mmlu/dev/professional_law.jsonl"}
_PLANTS = {"test": "own/plants.jsonl"}
_PLANT_TASK = {
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "options",
    "doc_to_target": "right",
}

CASES = [
    Case("arc_easy", {"test": "evals/arc_easy.jsonl"}, "arc/arc_easy.yaml", _ARC, _TEST_ONLY),
    Case("arc_easy_5shot", {"test": "evals/arc_easy.jsonl"}, "arc/arc_easy.yaml", _ARC, _TEST_ONLY, shots=5),
    Case("piqa", {"validation": "evals/piqa.jsonl"}, "piqa/piqa.yaml", _PIQA, _VALIDATION_ONLY),
    Case(
        "piqa_3shot", {"validation": "evals/piqa.jsonl"}, "piqa/piqa.yaml", _PIQA, _VALIDATION_ONLY, shots=3
    ),
    Case(
        "blimp_adjunct_island",
        {"train": "evals/blimp_adjunct_island.jsonl"},
        "blimp/adjunct_island.yaml",
        {
            "output_type": "multiple_choice",
            "validation_split": "train",
            "doc_to_text": "",
            "doc_to_target": 0,
            "doc_to_choice": "{{[sentence_good, sentence_bad]}}",
            "num_fewshot": 0,
            "metric_list": [{"metric": "acc"}],
        },
    ),
    Case(
        "lambada",
        {"test": "evals/lambada.jsonl"},
        "lambada/lambada_openai.yaml",
        {
            "output_type": "loglikelihood",
            "test_split": "test",
            "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
            "doc_to_target": "{{' '+text.split(' ')[-1]}}",
            "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
        },
    ),
    Case("wikitext", {"test": "evals/wikitext.jsonl"}, "wikitext/wikitext.yaml", None, _TEST_ONLY),
    Case(
        "wikitext_as_is",
        {"test": "evals/wikitext.jsonl"},
        None,
        {
            "output_type": "loglikelihood_rolling",
            "test_split": "test",
            "doc_to_text": "",
            "doc_to_target": "page",
        },
    ),
    Case(
        "gsm8k",
        {"train": "evals/gsm8k_train.jsonl", "test": "evals/gsm8k_test.jsonl"},
        "gsm8k/gsm8k.yaml",
        _GSM8K,
    ),
    Case(
        "winogrande",
        {"validation": "evals/winogrande.jsonl"},
        "winogrande/default.yaml",
        _WINOGRANDE,
        _VALIDATION_ONLY,
    ),
    Case(
        "winogrande_5shot",
        {"validation": "evals/winogrande.jsonl"},
        "winogrande/default.yaml",
        _WINOGRANDE,
        _VALIDATION_ONLY,
        shots=5,
    ),
    Case(
        "boolq",
        {"validation": "evals/boolq.jsonl"},
        "super_glue/boolq/default.yaml",
        _BOOLQ,
        _VALIDATION_ONLY,
    ),
    Case(
        "boolq_2shot",
        {"validation": "evals/boolq.jsonl"},
        "super_glue/boolq/default.yaml",
        _BOOLQ,
        _VALIDATION_ONLY,
        shots=2,
    ),
    Case(
        "mmlu_professional_law_5shot",
        _LAW,
        "mmlu/default/_default_template_yaml",
        _MMLU,
        {"description": _SUBJECT},
        shots=5,
    ),
    Case(
        "openbookqa_2shot",
        {"test": "evals/openbookqa.jsonl"},
        "openbookqa/openbookqa.yaml",
        None,
        _TEST_ONLY,
        shots=2,
    ),
    Case("truthfulqa_mc1", {"validation": "evals/truthfulqa_mc1.jsonl"}, "truthfulqa/truthfulqa_mc1.yaml"),
    Case(
        "boolq_all_metrics",
        {"validation": "evals/boolq.jsonl"},
        None,
        {
            **_BOOLQ,
            "metric_list": [
                {"metric": name}
                for name in (
                    "acc",
                    "acc_norm",
                    "acc_bytes",
                    "exact_match",
                    "f1",
                    "mcc",
                    "brier_score",
                    "acc_mutual_info",
                )
            ],
        },
    ),
    Case(
        "e2e_generation",
        {"test": "gem/e2e_nlg.jsonl"},
        None,
        {
            "output_type": "generate_until",
            "test_split": "test",
            "doc_to_text": "Facts: {{input}}\nText:",
            "doc_to_target": "{{references[0]}}",
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 64},
            "metric_list": [{"metric": name} for name in ("exact_match", "bleu", "chrf", "chrf++", "ter")],
        },
        limit=40,
    ),
    # Our own twelve questions, so that these run everywhere.
    Case("plants", _PLANTS, None, _PLANT_TASK),
    Case(
        "plants_description_prefix",
        _PLANTS,
        None,
        {
            **_PLANT_TASK,
            "description": "Topic: {{topic}}.\n",
            "doc_to_text": "Q: {{question}}",
            "gen_prefix": "A:",
            "target_delimiter": "\n",
            "fewshot_delimiter": "\n---\n",
            "fewshot_split": "test",
            "metric_list": [{"metric": "acc", "aggregation": "median"}, {"metric": "acc_norm"}],
        },
        shots=3,
    ),
    Case(
        "plants_first_n_own_pool",
        _PLANTS,
        None,
        {
            **_PLANT_TASK,
            "fewshot_split": "test",
            "fewshot_config": {
                "sampler": "first_n",
                "doc_to_text": "Known: {{question}}",
                "doc_to_target": "{{options[right] | upper}}",
                "fewshot_delimiter": "\n",
                "target_delimiter": " -> ",
            },
        },
        shots=2,
    ),
    Case(
        "plants_several_right",
        _PLANTS,
        None,
        {
            "output_type": "generate_until",
            "test_split": "test",
            "doc_to_text": "Question: {{question}}",
            "doc_to_target": "{{accepted}}",
            "generation_kwargs": {"until": ["\n\n"]},
            "repeats": 3,
            "filter_list": [
                {
                    "name": "vote",
                    "filter": [
                        {"function": "regex", "regex_pattern": "([0-9]+)"},
                        {"function": "majority_vote"},
                        {"function": "take_first"},
                    ],
                },
                {
                    "name": "letters",
                    "filter": [
                        {"function": "take_first_k", "k": 2},
                        {"function": "remove_whitespace"},
                        {"function": "lowercase"},
                        {"function": "take_first"},
                    ],
                },
                {
                    "name": "mapped",
                    "filter": [
                        {"function": "regex", "regex_pattern": "(\\d)"},
                        {"function": "map", "mapping_dict": {"1": "3", "2": "4"}, "default_value": "none"},
                        {"function": "take_first"},
                    ],
                },
            ],
            "metric_list": [{"metric": "exact_match", "ignore_punctuation": True, "ignore_numbers": False}],
        },
        shots=2,
    ),
    Case(
        "plants_code",
        _PLANTS,
        None,
        {
            "output_type": "loglikelihood",
            "test_split": "test",
            "process_docs": "!function blanks.only_even",
            "doc_to_text": "{{question}}",
            "doc_to_target": "{{' ' + options[right]}}",
            "process_results": "!function blanks.results",
            "metric_list": [
                {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
                {"metric": "nats", "aggregation": "!function blanks.largest", "higher_is_better": False},
                {"metric": "length", "aggregation": "nanmean", "higher_is_better": True},
            ],
        },
    ),
]
BY_NAME = {case.name: case for case in CASES}
