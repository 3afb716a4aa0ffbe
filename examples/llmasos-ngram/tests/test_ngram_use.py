"""Training, scoring, sampling, the metric, and the contracts that LLMasOS checks."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import PACKAGE

from llmasos.api import EvaluationError, RollingOutcome, SamplingParams, UsageError
from llmasos_ngram.metric import BitsPerCharacter
from llmasos_ngram.words import WordsFormat


def llmasos(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llmasos", "--plugin", PACKAGE, *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=120)


def test_it_keeps_the_contracts_of_tokenizers_models_and_plugins(wide: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rs"]
    command += ["--llmasos-conformance", str(PACKAGE), "--llmasos-sample", str(wide), "-c", "/dev/null"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=wide)
    assert done.returncode == 0, done.stdout
    assert "declared to have no positions" in done.stdout


def test_a_model_trained_on_the_command_line_is_evaluated_and_generates(corpus: Path, tmp_path: Path) -> None:
    made = tmp_path / "model"
    done = llmasos("ngram", "train", corpus, "-o", made, "--order", 3, "--license", "CC0-1.0", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ngrams"][0] == json.loads(done.stdout)["vocab_size"]
    assert tomllib.loads((made / "llmasos.toml").read_text()) == {
        "manifest": 1,
        "requires": ["llmasos-ngram>=0.1,<1"],
        "architecture": "llmasos-ngram/kneser-ney",
    }
    assert 'license: "CC0-1.0"' in (made / "README.md").read_text()
    again = llmasos("ngram", "train", corpus, "-o", made)
    assert (again.returncode, again.stderr.splitlines()[0]) == (2, f"error: {made} exists")
    tasks = ["quickstart_prose", "quickstart_blimp", "ngram_weather"]
    done = llmasos("eval", made, *tasks, "--json", "--output", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    scores = {task["name"]: task["scores"] for task in json.loads(done.stdout)["tasks"]}
    assert sorted(scores) == sorted(tasks)
    done = llmasos("generate", made, "The cat", "--max-new-tokens", 8, "--json")
    assert done.returncode == 0, done.stderr


def test_a_longer_memory_fits_the_training_text_better(cats, corpus: Path, tmp_path: Path) -> None:
    from conftest import Silence

    from llmasos_ngram.train import Recipe, train

    likelihood = []
    for order in (2, 3, 4):
        train([corpus], tmp_path / str(order), Recipe(order=order, least_count=1), Silence())
        loaded = cats.load_model(str(tmp_path / str(order)))
        params = SamplingParams(max_new_tokens=20, logprobs=True, ignore_eos=True)
        done = [c.done for c in cats.generate(loaded, ["The cat"], params) if c.done]
        likelihood.append(sum(done[0].logprobs))
    assert likelihood == sorted(likelihood)


def test_other_precisions_are_refused(cats, folder: Path) -> None:
    with pytest.raises(UsageError, match="float32"):
        cats.load_model(str(folder), dtype="fast")


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("the cat", ["the", " cat"]),
        ("  the", [" ", " the"]),
        ("cat,\tdog", ["cat", ",", "\t", "dog"]),
        ("naïve 東京", ["naïve", " 東京"]),
    ],
)
def test_pieces(text: str, pieces: list[str]) -> None:
    from llmasos_ngram.words import PIECE

    assert PIECE.findall(text) == pieces


def test_unknown_words_are_spelt(folder: Path) -> None:
    tokenizer = WordsFormat().open(folder)
    assert tokenizer.encode("The zebra") == [tokenizer.token_id("The"), *b" zebra"]
    assert tokenizer.decode(tokenizer.encode("The zebra")) == "The zebra"


def test_bits_per_character() -> None:
    metric = BitsPerCharacter()
    items = [
        metric.item(RollingOutcome(-2 * math.log(2), "é")),
        metric.item(RollingOutcome(-4 * math.log(2), "abcd")),
    ]
    assert items == [[2.0, 1], [4.0, 4]]
    assert metric.aggregate(items) == 6 / 5
    # leaving one out: 4/4 and 2/1, whose jackknife deviation is sqrt(1/2 * (0.5^2 + 0.5^2))
    assert metric.stderr(items, bootstrap=1) == pytest.approx(0.5)
    assert metric.stderr(items[:1], bootstrap=1) is None
    with pytest.raises(EvaluationError, match="no characters"):
        metric.aggregate([])
    with pytest.raises(EvaluationError, match="loglikelihood_rolling"):
        metric.item(object())


def test_the_task_reports_the_metric(cats, folder: Path, tmp_path: Path) -> None:
    result = cats.evaluate(str(folder), ["ngram_weather"], output=tmp_path / "run")
    (task,) = result.record["tasks"]
    found = {entry["metric"]: entry for entry in task["scores"]}
    assert set(found) == {"llmasos-ngram/bits_per_character", "bits_per_byte"}
    # the texts are ASCII, so the two metrics agree
    values = [entry["value"] for entry in found.values()]
    assert values[0] == pytest.approx(values[1])
