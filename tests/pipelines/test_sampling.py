"""Filters and penalties process scores as transformers' do; draws follow the distribution and the seed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from llmasos.contracts.model import SamplingParams
from llmasos.errors import UsageError
from llmasos.pipelines import sampling

ROWS, VOCABULARY = 7, 301


def random_scores(spread=3.0, seed=0):
    return torch.randn(ROWS, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * spread


def theirs(params, scores, history):
    steps = LogitsProcessorList()
    if params.repetition_penalty != 1:
        steps.append(RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    if params.temperature != 1:
        steps.append(TemperatureLogitsWarper(params.temperature))
    if params.top_k:
        steps.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        steps.append(TopPLogitsWarper(params.top_p))
    if params.min_p:
        steps.append(MinPLogitsWarper(params.min_p))
    return steps(history, scores.clone())


def ours(params, scores, history):
    seen = torch.zeros_like(scores, dtype=torch.bool).scatter(1, history, True)
    return sampling.filtered(sampling.penalised(scores, seen, params.repetition_penalty), params)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.7},
        {"temperature": 2.5},
        {"top_k": 1},
        {"top_k": 40},
        {"top_k": 1000},
        {"top_p": 0.9},
        {"top_p": 0.05},
        {"top_p": 0.999},
        {"min_p": 0.1},
        {"min_p": 1.0},
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 0.6},
        {"temperature": 0.8, "top_k": 50, "top_p": 0.95, "min_p": 0.02, "repetition_penalty": 1.1},
        {"temperature": 1.4, "top_k": 5, "top_p": 0.5},
    ],
    ids=str,
)
def test_processed_scores_equal_transformers(changes, seed):
    params = SamplingParams(**{"temperature": 1.0, **changes})
    scores = random_scores(seed=seed)
    history = torch.randint(0, VOCABULARY, (ROWS, 23), generator=torch.Generator().manual_seed(seed + 9))
    found, expected = ours(params, scores, history), theirs(params, scores, history)
    assert torch.equal(found.isinf(), expected.isinf())
    torch.testing.assert_close(found.softmax(-1), expected.softmax(-1), rtol=0, atol=1e-6)


def test_ties_with_the_kth_best_stay():
    scores = torch.tensor([[1.0, 2.0, 2.0, 0.0, 2.0]])
    kept = sampling.filtered(scores, SamplingParams(temperature=1.0, top_k=2))
    assert kept.isfinite().tolist() == [[False, True, True, False, True]]


def test_draws_follow_the_distribution():
    scores = torch.log(torch.tensor([0.5, 0.25, 0.0, 0.2, 0.05]))
    generator = torch.Generator().manual_seed(5)
    draws = torch.tensor([sampling.draw(scores, generator) for _ in range(4000)])
    share = torch.bincount(draws, minlength=5) / 4000
    assert share[2] == 0
    # three standard errors of a share of one half are 0.024
    torch.testing.assert_close(share, scores.exp(), rtol=0, atol=0.03)


def test_the_only_token_left_is_drawn():
    scores = torch.full((50,), -torch.inf)
    scores[17] = -80.0
    assert sampling.draw(scores, torch.Generator().manual_seed(0)) == 17


def test_a_stream_depends_on_seed_prompt_and_repetition():
    def first(*arguments):
        return torch.rand(3, generator=sampling.row_generator(*arguments)).tolist()

    streams = [
        first(1, [4, 5], 0),
        first(2, [4, 5], 0),
        first(1, [4, 6], 0),
        first(1, [45], 0),
        first(1, [4, 5], 1),
    ]
    assert first(1, [4, 5], 0) == streams[0]
    assert len({tuple(s) for s in streams}) == len(streams)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"min_p": -0.1}, "min_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"stop": ("x", "")}, "empty stop string"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense(changes, named):
    with pytest.raises(UsageError, match=named) as error:
        sampling.check(replace(SamplingParams(), **changes))
    assert error.value.hint
