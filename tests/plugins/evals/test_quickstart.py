"""The suite that ships with the plugin."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from oracle_answers import generation, loglikelihood, rolling
from task_files import plans, run

import llmasos_evals
from llmasos import Hub
from llmasos.api import Request, Response
from llmasos_evals.plugin import TASKS
from llmasos_evals.tasks.library import select
from llmasos_evals.tasks.task import Task

SUITE = Path(llmasos_evals.__file__).parent / "suites" / "quickstart"
SHARED = Path(__file__).parents[3].parent / "shared" / "data"


@pytest.fixture(scope="module")
def tasks() -> dict[str, Task]:
    selection = select(["quickstart"], include=[], hub=Hub(), allow_task_code=False)
    return {task.name: task for task in selection.tasks}


def answer(request: Request) -> Response:
    if request.kind == "loglikelihood":
        logprob, greedy = loglikelihood(request.context, request.continuation)
        return Response(request.key, logprob=logprob, is_greedy=greedy)
    if request.kind == "loglikelihood_rolling":
        return Response(request.key, logprob=rolling(request.context))
    return Response(request.key, text=generation(request.context))


def test_every_shipped_file_exists_and_loads(tasks: dict[str, Task]) -> None:
    assert set(tasks) == set(TASKS) - {"quickstart"}
    for path in TASKS.values():
        assert (SUITE.parent / path).is_file()


def test_it_asks_and_scores(tasks: dict[str, Task]) -> None:
    metrics = {}
    for task in tasks.values():
        planned = plans(task)
        assert len(planned) == task.size()
        metrics[task.name] = [f"{score.metric},{score.filter}" for score in run(task, answer)]
    assert metrics == {
        "quickstart_blimp": ["acc,none"],
        "quickstart_everyday": ["acc,none", "acc_norm,none"],
        "quickstart_gsm8k": ["exact_match,strict-match", "exact_match,flexible-extract"],
        "quickstart_prose": ["word_perplexity,none", "byte_perplexity,none", "bits_per_byte,none"],
        "quickstart_rewrite": [
            f"{name},none" for name in ("bleu", "chrf", "ter", "rouge1", "rouge2", "rougeL", "rougeLsum")
        ],
    }


def test_right_answers_score_full_marks(tasks: dict[str, Task]) -> None:
    targets = {
        (name, planned.index): planned.target for name, task in tasks.items() for planned in plans(task)
    }

    def perfect(request: Request) -> Response:
        target = targets[request.key[0], request.key[1]]
        if request.kind == "generate_until":
            return Response(request.key, text=f" {target}\n")
        return Response(request.key, logprob=-1.0 - (request.key[2] != target) * 99.0, is_greedy=True)

    for name in ("quickstart_blimp", "quickstart_everyday", "quickstart_gsm8k", "quickstart_rewrite"):
        for score in run(tasks[name], perfect):
            best = {"bleu": 100.0, "chrf": 100.0, "ter": 0.0}.get(score.metric, 1.0)
            assert score.value == pytest.approx(best), (name, score)


def test_no_example_gives_a_question_away(tasks: dict[str, Task]) -> None:
    for name in ("quickstart_gsm8k", "quickstart_rewrite"):
        for planned in plans(tasks[name]):
            question = planned.doc.get("question") or planned.doc["present"]
            assert planned.requests[0].context.count(question) == 1


def test_small_enough_for_a_first_look(tasks: dict[str, Task]) -> None:
    longest = sum(
        request.options["max_gen_toks"]
        for task in tasks.values()
        for planned in plans(task)
        for request in planned.requests
        if request.kind == "generate_until"
    )
    assert longest <= 1600
    assert sum(path.stat().st_size for path in SUITE.iterdir() if path.is_file()) < 100_000


def test_every_data_file_says_where_it_comes_from(tasks: dict[str, Task]) -> None:
    text = (SUITE / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for path in SUITE.glob("*.jsonl"):
        rows = path.read_text(encoding="utf-8").count("\n")
        assert f"| `{path.name}` | {rows} |" in text
    assert all(task.attribution for task in tasks.values())


def test_slices_are_unchanged_rows_of_their_sources() -> None:
    if not SHARED.is_dir():
        pytest.skip("no shared data")

    def rows(path: Path) -> list[dict[str, object]]:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]

    test, train = rows(SHARED / "evals" / "gsm8k_test.jsonl"), rows(SHARED / "evals" / "gsm8k_train.jsonl")
    numbers = [1, 3, 23, 24, 33, 50, 60, 82, 83, 91]
    ours = rows(SUITE / "gsm8k_test.jsonl")
    assert ours == [test[number] for number in numbers[: len(ours)]]
    assert rows(SUITE / "gsm8k_shots.jsonl") == [train[number] for number in (1, 4, 14)]
    for row in rows(SUITE / "blimp.jsonl"):
        source = rows(SHARED / "evals" / f"blimp_{row['UID']}.jsonl")[int(str(row["pairID"]))]
        assert row.items() <= source.items()
    for row in rows(SUITE / "prose.jsonl"):
        name = str(row["title"]).lower().replace(" and ", "").replace(" ", "")
        novel = (SHARED / "text" / f"austen_{name}.txt").read_text(encoding="utf-8")
        assert str(row["text"]) in " ".join(novel.split())
