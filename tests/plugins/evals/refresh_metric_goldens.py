"""Make ``metric_goldens.json``: what scikit-learn, seqeval and lm-evaluation-harness make of ``metric_cases.py``.

Run in an environment that has them, with NLTK's punkt_tab: ``python tests/plugins/evals/refresh_metric_goldens.py [FILE]``.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", LMEVAL_LOG_LEVEL="ERROR")
import langdetect
import numpy as np
from lm_eval.tasks.ifeval import utils
from metric_cases import INSTRUCTIONS, LABELS, PROMPT, label_sets, pairs, responses, tags
from seqeval.metrics import f1_score as entity_f1
from seqeval.metrics import precision_score as entity_precision
from seqeval.metrics import recall_score as entity_recall
from seqeval.scheme import IOB2, IOBES
from sklearn.metrics import f1_score, hamming_loss, jaccard_score
from sklearn.preprocessing import MultiLabelBinarizer

warnings.filterwarnings("ignore")
langdetect.DetectorFactory.seed = 0


def classes():
    out = {}
    for seed, labels in ((1, LABELS), (2, [0, 1, 2, 3, 4]), (3, ["a", "b"])):
        right, given = zip(*pairs(seed, 80, labels), strict=True)
        out[str(seed)] = {
            kind: f1_score(right, given, average=kind) for kind in ("micro", "macro", "weighted")
        }
    return out


def sets():
    found = label_sets(4, 60)
    coder = MultiLabelBinarizer(classes=sorted(LABELS)).fit([LABELS])
    right, given = (coder.transform([pair[side] for pair in found]) for side in (0, 1))
    each = jaccard_score(right, given, average="samples", zero_division=1)
    return {
        "multilabel_match": float(np.mean((right == given).all(axis=1))),
        "hamming_loss": float(hamming_loss(right, given)),
        "multilabel_f1_micro": f1_score(right, given, average="micro"),
        "multilabel_f1_macro": f1_score(right, given, average="macro"),
        "multilabel_jaccard": float(each),
    }


def entities():
    out = {}
    for scheme, rule in (("IOB2", IOB2), ("IOBES", IOBES)):
        found = tags(5, 120, scheme)
        right, given = [pair[0] for pair in found], [pair[1] for pair in found]
        for mode in ("default", "strict"):
            settings = {} if mode == "default" else {"mode": "strict", "scheme": rule}
            for average in ("micro", "macro", "weighted"):
                out[f"{scheme} {mode} {average}"] = [
                    float(score(right, given, average=average, **settings))
                    for score in (entity_precision, entity_recall, entity_f1)
                ]
    return out


def instructions():
    texts = responses(6, 160)
    out = {}
    for name, variants in INSTRUCTIONS.items():
        for number, given in enumerate(variants):
            example = utils.InputExample(1, [name], PROMPT, [given])
            out[f"{name} {number}"] = [
                "".join(str(int(test(example, text).follow_instruction_list[0])) for text in texts)
                for test in (utils.test_instruction_following_strict, utils.test_instruction_following_loose)
            ]
    return out


def main():
    goldens = {
        "versions": {
            name: version(name) for name in ("lm_eval", "scikit-learn", "seqeval", "langdetect", "nltk")
        },
        "classes": classes(),
        "sets": sets(),
        "entities": entities(),
        "instructions": instructions(),
    }
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("metric_goldens.json")
    file.write_text(json.dumps(goldens, indent=1) + "\n", encoding="utf-8")


main()
