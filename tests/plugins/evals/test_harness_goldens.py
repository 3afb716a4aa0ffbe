"""Prompts, filters, metrics and standard errors equal those of lm-evaluation-harness 0.4.13 (goldens.json)."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path

import oracle_answers
import pytest
from harness_cases import BY_NAME, HERE, Case

from llmasos import Hub
from llmasos.api import Request, Response
from llmasos_evals.tasks.library import select

GOLDENS = json.loads((HERE / "goldens.json").read_text(encoding="utf-8"))
RUNS = [(case.name, variant) for case in BY_NAME.values() for variant in case.variants()]


def stock_folder() -> Path | None:
    """The task files of an installed lm-evaluation-harness; they are never part of this project."""
    spec = importlib.util.find_spec("lm_eval")
    return Path(next(iter(spec.submodule_search_locations or [])), "tasks") if spec else None


def answer(request: Request) -> Response:
    if request.kind == "loglikelihood":
        logprob, greedy = oracle_answers.loglikelihood(request.context, request.continuation)
        return Response(request.key, logprob=logprob, is_greedy=greedy)
    if request.kind == "loglikelihood_rolling":
        return Response(request.key, logprob=oracle_answers.rolling(request.context))
    return Response(request.key, text=oracle_answers.generation(request.context))


def written(case: Case, variant: str, folder: Path) -> Path:
    missing = [path for path in case.paths().values() if not path.is_file()]
    if missing:
        pytest.skip(f"no data file {missing[0].name}")
    stock = stock_folder() if variant == "stock" else None
    if variant == "stock" and stock is None:
        pytest.skip("lm-evaluation-harness is not installed")
    return case.write(folder, variant, stock)


@pytest.mark.parametrize(("name", "variant"), RUNS)
def test_equal_prompts_and_scores(name: str, variant: str, tmp_path: Path) -> None:
    case, golden = BY_NAME[name], GOLDENS["cases"][name]
    path = written(case, variant, tmp_path)
    (task,) = select([str(path)], include=[], hub=Hub(), allow_task_code=True).tasks

    asked: list[list[str]] = []
    items: dict[tuple[str, str], list[object]] = {}
    for planned in task.plan(limit=case.limit, num_fewshot=case.shots, seed=1234, compat="lm-eval"):
        for request in planned.requests:
            asked.append(
                [request.context, request.continuation]
                if request.kind == "loglikelihood"
                else [request.context]
            )
        answers = [answer(request) for request in reversed(planned.requests)]
        for key, item in task.items(planned, answers).items():
            items.setdefault(key, []).append(item)

    assert asked[0] == golden["first"]
    assert len(asked) == golden["requests"]
    digest = hashlib.sha256(json.dumps(asked, ensure_ascii=False).encode()).hexdigest()
    assert digest == golden["sha256"]

    read_back = {key: json.loads(json.dumps(values)) for key, values in items.items()}
    scores = task.aggregate(read_back, bootstrap=GOLDENS["bootstrap"], compat="lm-eval")
    made = {
        f"{score.metric},{score.filter}": {"value": score.value, "stderr": score.stderr} for score in scores
    }
    assert made == golden["scores"]
    assert task.aggregate(items, bootstrap=GOLDENS["bootstrap"], compat="lm-eval") == scores


def test_goldens_cover_every_case() -> None:
    assert set(GOLDENS["cases"]) == set(BY_NAME)
    assert GOLDENS["lm_eval"] == "0.4.13"
