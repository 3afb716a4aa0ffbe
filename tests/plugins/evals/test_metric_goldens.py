"""Metrics of our own equal scikit-learn, seqeval and the harness's IFEval checks on generated inputs."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from metric_cases import INSTRUCTIONS, LABELS, label_sets, pairs, responses, tags

from llmasos.api import EvaluationError, GenerationOutcome, InputError, MissingDependency
from llmasos_evals.metrics.classification import AveragedF1
from llmasos_evals.metrics.ifeval import InstructionLoose, InstructionStrict, PromptStrict
from llmasos_evals.metrics.instructions import CHECKS, follows, splitter
from llmasos_evals.metrics.multilabel import HammingLoss, Jaccard, MacroSetF1, MicroSetF1, SetMatch
from llmasos_evals.metrics.spans import EntityF1, EntityPrecision, EntityRecall

HERE = Path(__file__).parent
GOLDENS = json.loads((HERE / "metric_goldens.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_goldens_are_what_the_packages_say(tmp_path: Path) -> None:
    python = os.environ.get("LLMASOS_METRICS_ORACLE_PYTHON")
    if python is None:
        pytest.skip("LLMASOS_METRICS_ORACLE_PYTHON names no Python with scikit-learn, seqeval and lm-eval")
    made = tmp_path / "goldens.json"
    subprocess.run([python, HERE / "refresh_metric_goldens.py", made], check=True)
    fresh = json.loads(made.read_text(encoding="utf-8"))
    assert {**fresh, "versions": None} == {**GOLDENS, "versions": None}


@pytest.mark.parametrize(("seed", "labels"), [(1, LABELS), (2, [0, 1, 2, 3, 4]), (3, ["a", "b"])])
@pytest.mark.parametrize("average", ["micro", "macro", "weighted"])
def test_averages_of_f1_equal_scikit_learn(seed: int, labels: list[Any], average: str) -> None:
    expected = GOLDENS["classes"][str(seed)][average]
    assert AveragedF1(average).value(pairs(seed, 80, labels)) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("metric", [SetMatch, Jaccard, HammingLoss, MicroSetF1, MacroSetF1])
def test_label_sets_equal_scikit_learn(metric: Any) -> None:
    made = metric(labels=LABELS, separator=";")
    items = [
        made.item(GenerationOutcome("; ".join(given), (" ;".join(right),)))
        for right, given in label_sets(4, 60)
    ]
    assert made.aggregate(items) == pytest.approx(GOLDENS["sets"][made.name], rel=1e-14)


@pytest.mark.parametrize("average", ["micro", "macro", "weighted"])
@pytest.mark.parametrize("mode", ["default", "strict"])
@pytest.mark.parametrize("scheme", ["IOB2", "IOBES"])
def test_entities_equal_seqeval(scheme: str, mode: str, average: str) -> None:
    expected = GOLDENS["entities"][f"{scheme} {mode} {average}"]
    found = []
    for metric in (EntityPrecision, EntityRecall, EntityF1):
        made = metric(scheme=scheme, mode=mode, average=average)
        items = [
            made.item(GenerationOutcome(" ".join(given), (" ".join(right),)))
            for right, given in tags(5, 120, scheme)
        ]
        found.append(made.aggregate(items))
    assert found == pytest.approx(expected, rel=1e-13)


# ---- IFEval ---------------------------------------------------------------------------------------------------------

TEXTS = responses(6, 160)


def answers(metric: Any, name: str, given: dict[str, Any]) -> str:
    doc = {"instruction_id_list": [name], "kwargs": [{**given, "unused": None}], "prompt": ""}
    return "".join(str(metric.item(GenerationOutcome(text, ("",), doc=doc))[0]) for text in TEXTS)


def test_all_25_instructions_are_compared() -> None:
    assert set(CHECKS) == set(INSTRUCTIONS)
    assert len(CHECKS) == 25
    for name in INSTRUCTIONS:  # each check says yes and no, in some variant
        strict = "".join(GOLDENS["instructions"][f"{name} {n}"][0] for n in range(len(INSTRUCTIONS[name])))
        assert set(strict) == {"0", "1"}, name


@pytest.mark.parametrize(
    ("name", "number"), [(name, number) for name in INSTRUCTIONS for number in range(len(INSTRUCTIONS[name]))]
)
def test_checks_equal_the_harnesss(name: str, number: int) -> None:
    expected = GOLDENS["instructions"][f"{name} {number}"]
    given = INSTRUCTIONS[name][number]
    assert answers(InstructionStrict(), name, given) == expected[0]
    assert answers(InstructionLoose(), name, given) == expected[1]


def test_the_trained_sentence_model_equals_the_harnesss() -> None:
    try:
        splitter("punkt")
    except MissingDependency as error:
        pytest.skip(error.message)
    for name in ("length_constraints:number_sentences", "change_case:capital_word_frequency"):
        for number, given in enumerate(INSTRUCTIONS[name]):
            strict = answers(InstructionStrict(sentences="punkt"), name, given)
            assert strict == GOLDENS["instructions"][f"{name} {number}"][0]


def test_sentences_without_a_trained_model() -> None:
    split = splitter("rule")
    assert len(split("Dr. Smith, e.g. from the U.S. office, left at 5 p.m. on Monday. He was late!")) == 2
    assert split("One. Two? Three") == ["One.", "Two?", "Three"]
    assert split("") == []


def test_prompts_and_instructions() -> None:
    doc = {
        "instruction_id_list": ["punctuation:no_comma", "startend:quotation"],
        "kwargs": [{}, {}],
        "prompt": "p",
    }
    outcome = GenerationOutcome("no comma", ("",), doc=doc)
    assert InstructionStrict().item(outcome) == [1, 0]
    assert PromptStrict().item(outcome) == 0.0
    assert InstructionStrict().aggregate([[1, 0], [1], [1, 1, 0]]) == 4 / 6
    assert PromptStrict().item(GenerationOutcome('"no comma"', ("",), doc=doc)) == 1.0
    assert InstructionStrict().item(GenerationOutcome(" \n", ("",), doc=doc)) == [0, 0]


@pytest.mark.parametrize(
    ("doc", "message"),
    [
        ({}, "lacks instruction_id_list"),
        ({"instruction_id_list": ["a"], "kwargs": []}, "1 instructions and 0 kwargs"),
        ({"instruction_id_list": ["a:b"], "kwargs": [{}]}, "unknown instruction 'a:b'"),
        ({"instruction_id_list": ["keywords:existence"], "kwargs": [{}]}, "lacks its argument 'keywords'"),
        ({"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": ["("]}]}, "unterminated"),
        (
            {
                "instruction_id_list": ["length_constraints:number_words"],
                "kwargs": [{"num_words": 1, "relation": "about"}],
            },
            "unknown relation",
        ),
    ],
)
def test_odd_documents_are_errors(doc: dict[str, Any], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        InstructionStrict().item(GenerationOutcome("text", ("",), doc=doc))


def test_a_letter_to_count_may_be_any_character() -> None:
    given = {"letter": "#", "let_frequency": 2, "let_relation": "at least"}
    assert follows("keywords:letter_frequency", given, "# a #", splitter("rule"))
    assert not follows("keywords:letter_frequency", given, "# a", splitter("rule"))


def test_the_language_of_a_short_text_is_the_same_every_time() -> None:
    given = {"language": "fi"}
    split = splitter("rule")
    seen = {follows("language:response_language", given, "hello you", split) for _ in range(20)}
    assert len(seen) == 1


def test_options_of_ifeval() -> None:
    with pytest.raises(InputError, match="neither rule nor punkt"):
        PromptStrict(sentences="spacy")
