"""From requests to answers as a run scores them: encoding rules of lm-evaluation-harness, what does not fit, independence of
batches. With the reference engine, whose model gets each row as it is; the tree engine is held to it in test_tree_engine.py."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scripted_model import BOS, EOS, ByteTokenizer, ScriptedHub, ScriptedModel

from llmasos.api import EvalRequest, EvaluationError, InputError, Request, Response
from llmasos.pipelines.evaluate import Silence
from llmasos_evals.scoring import reference as engine_module
from llmasos_evals.scoring.generation import GenerationPlan, generation_plan
from llmasos_evals.scoring.prompts import ROUNDS
from llmasos_evals.scoring.session import ScoringSession
from llmasos_evals.scoring.windows import rolling_windows
from llmasos_evals.tasks.planning import PlannedDocument


def ids(text: str) -> list[int]:
    return list(text.encode())


def likelihood(context: str, continuation: str, document: int = 0, number: int = 0) -> Request:
    return Request("loglikelihood", ("task", document, number), context, continuation)


class Scorer:
    """A run's session, asked for bare requests: those of one document are the requests whose keys say so."""

    def __init__(self, hub: ScriptedHub, folder: Path, *, batch_size: int, seed: int) -> None:
        self.hub, self.folder = hub, folder
        self.asked = EvalRequest("m", ("task",), batch_size=batch_size, seed=seed, engine="reference")

    def session(self) -> ScoringSession:
        return ScoringSession(self.asked, self.hub.prepare_model("m"), self.hub)

    def score(self, requests: Sequence[Request]) -> Iterator[Response]:
        planned = tuple(
            PlannedDocument(index, {}, None, tuple(group), "")
            for index, group in groupby(requests, key=lambda request: request.key[1])
        )
        run: Any = SimpleNamespace(task=SimpleNamespace(name="task"), planned=planned)
        origin = {"plugins": [], "environment": {"libraries": {}}}
        for document in self.session().answer(
            [run], {"task": {}}, folder=self.folder, context="", origin=origin, progress=Silence()
        ):
            yield from document.responses


def make(tmp_path, *, max_length=64, adds_bos=False, bos=BOS, eos=EOS, batch_size=2, seed=1):
    hub = ScriptedHub(tmp_path, ScriptedModel(max_length), ByteTokenizer(adds_bos=adds_bos, bos=bos, eos=eos))
    return Scorer(hub, tmp_path / "work", batch_size=batch_size, seed=seed), hub


def one(scorer, request):
    (response,) = scorer.score([request])
    assert response.key == request.key
    return response


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize(
    ("context", "continuation", "expected_context", "expected_continuation"),
    [
        ("ab", " cd", "ab", " cd"),
        ("ab ", "cd", "ab", " cd"),  # spaces at the end of the context belong to the continuation
        ("ab \n", "cd", "ab", " \ncd"),
        ("<s>ab", "cd", "<s>ab", "cd"),  # no second BOS
        ("", "cd", "<s>", "cd"),  # BOS stands for an empty context
        ("  ", "cd", "<s>", "  cd"),
        ("", "<s>cd", "<s>", "cd"),  # the continuation brings its own BOS
    ],
)
def test_encoding(tmp_path, adds_bos, context, continuation, expected_context, expected_continuation):
    scorer, hub = make(tmp_path, adds_bos=adds_bos)
    front = hub.tokenizer.encode(expected_context)
    if adds_bos and front[0] != BOS:
        front = [BOS, *front]
    back = hub.tokenizer.encode(expected_continuation)
    response = one(scorer, likelihood(context, continuation))
    total, greedy = hub.model.answer(front, back)
    assert response.token_ids == (*front, *back)
    assert response.logprob == pytest.approx(total, abs=1e-5)
    assert response.is_greedy is greedy
    assert (response.tokens, response.truncated, response.unscored) == (len(back), 0, 0)


def test_eos_stands_in_for_a_missing_bos(tmp_path):
    scorer, _ = make(tmp_path, bos=None)
    assert one(scorer, likelihood("", "x")).token_ids == (EOS, ord("x"))


def test_no_bos_and_no_eos_is_an_error_only_when_needed(tmp_path):
    scorer, _ = make(tmp_path, bos=None, eos=None)
    assert one(scorer, likelihood("a", "b")).tokens == 1
    with pytest.raises(EvaluationError, match="neither a BOS nor an EOS") as caught:
        list(scorer.score([likelihood("", "b")]))
    assert caught.value.hint


def test_greedy_is_true_only_when_every_token_is_the_best(tmp_path):
    scorer, hub = make(tmp_path)
    hub.model.table[:, 128:] = -100.0  # ASCII is best, so that the best continuation is a text
    best: list[int] = []
    for _ in range(3):
        best.append(int(hub.model.table[hub.model.states([*ids("abc"), *best])[-1]].argmax()))
    assert one(scorer, likelihood("abc", bytes(best).decode())).is_greedy is True
    for place in range(3):
        wrong = [*best]
        wrong[place] = (wrong[place] + 1) % 128
        assert one(scorer, likelihood("abc", bytes(wrong).decode())).is_greedy is False


@pytest.mark.parametrize("context", ["", "abc"])
def test_an_empty_continuation_is_certain_and_costs_nothing(tmp_path, context):
    scorer, hub = make(tmp_path)
    response = one(scorer, likelihood(context, ""))
    assert (response.logprob, response.is_greedy, response.tokens) == (0.0, True, 0)
    assert hub.model.batches == []


def test_a_context_that_does_not_fit_is_cut_on_the_left_and_counted(tmp_path):
    scorer, hub = make(tmp_path, max_length=8)
    response = one(scorer, likelihood("abcdefghij", "xyz"))
    kept = ids("efghij")  # 8 inputs are 6 of context and 2 of the continuation
    assert response.token_ids == (*kept, *ids("xyz"))
    assert (response.truncated, response.unscored, response.tokens) == (4, 0, 3)
    assert response.logprob == pytest.approx(hub.model.answer(kept, ids("xyz"))[0], abs=1e-5)


def test_a_sequence_one_longer_than_the_model_still_fits(tmp_path):
    scorer, _ = make(tmp_path, max_length=8)
    assert one(scorer, likelihood("abcdef", "xyz")).truncated == 0


@pytest.mark.parametrize(("length", "unscored"), [(8, 0), (9, 1), (20, 12)])
def test_a_continuation_longer_than_the_model_is_counted(tmp_path, length, unscored):
    scorer, hub = make(tmp_path, max_length=8)
    text = "abcdefghijklmnopqrstuvwxyz"[:length]
    response = one(scorer, likelihood("Q", text))
    assert response.unscored == unscored
    assert response.tokens == 8
    # The context fits only while the whole continuation does.
    assert response.truncated == (1 if unscored else 0)
    whole = ids("Q" + text)[-9:]
    assert response.token_ids == tuple(whole)
    assert response.logprob == pytest.approx(hub.model.answer(whole[:1], whole[1:])[0], abs=1e-5)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 16, 17, 50])
def test_rolling_scores_every_token_once(tmp_path, length):
    scorer, hub = make(tmp_path, max_length=8)
    text = ("the quick brown fox jumps over the lazy dog " * 2)[:length]
    response = one(scorer, Request("loglikelihood_rolling", ("task", 0, 0), text))
    windows = rolling_windows(ids(text), prefix=BOS, max_length=8)
    expected = sum(hub.model.answer(w.context, w.targets)[0] for w in windows)
    assert response.logprob == pytest.approx(expected, abs=1e-4)
    assert response.tokens == length
    assert response.token_ids == (BOS, *ids(text))


def test_a_tokenizer_that_adds_bos_has_it_scored_as_the_harness_does(tmp_path):
    scorer, hub = make(tmp_path, adds_bos=True)
    response = one(scorer, Request("loglikelihood_rolling", ("task", 0, 0), "ab"))
    assert response.tokens == 3
    assert response.logprob == pytest.approx(hub.model.answer([BOS], [BOS, *ids("ab")])[0], abs=1e-5)


def requests_of(documents: int) -> list[Request]:
    return [
        likelihood(
            f"question {document} " * (document % 4 + 1), f" answer {choice}" * (choice + 1), document, choice
        )
        for document in range(documents)
        for choice in range(3)
    ]


def test_documents_never_share_a_forward_pass(tmp_path):
    scorer, hub = make(tmp_path)
    requests = requests_of(5)
    responses = {response.key: response for response in scorer.score(requests)}
    assert responses.keys() == {request.key for request in requests}
    assert [batch.size for batch in hub.model.batches] == [3] * 5
    # A run that is resumed asks for fewer documents: the passes it runs are the same.
    again, other = make(tmp_path, batch_size=7)
    list(again.score([r for r in requests if r.key[1] in (1, 4)]))
    for mine, theirs in zip(other.model.batches, [hub.model.batches[1], hub.model.batches[4]], strict=True):
        assert mine.starts == theirs.starts
        assert mine.tokens.tolist() == theirs.tokens.tolist()


def test_the_plan_names_what_changes_last_bits(tmp_path):
    scorer, hub = make(tmp_path, batch_size=5)
    plan = scorer.session().plan()
    assert (plan["mode"], plan["generation"]["batch"]) == ("reference", 5)
    assert plan["threads"] >= 1
    prepared = hub.prepare_model("m")
    prepared.facts["device"] = "cuda:0"
    assert ScoringSession(scorer.asked, prepared, hub).plan()["threads"] is None


def test_a_document_over_the_token_budget_is_split_longest_first(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_module, "TOKEN_BUDGET", 12)
    monkeypatch.setattr(engine_module, "ROW_BLOCK", 2)
    scorer, hub = make(tmp_path)
    requests = [likelihood("abcd", " x" * n, 0, n) for n in (1, 2, 3)]
    responses = {response.key[2]: response for response in scorer.score(requests)}
    assert [batch.starts[-1] for batch in hub.model.batches] == [9, 12]
    for n in (1, 2, 3):
        assert responses[n].logprob == pytest.approx(
            hub.model.answer(ids("abcd"), ids(" x" * n))[0], abs=1e-5
        )


def test_nan_scores_are_an_error(tmp_path):
    scorer, hub = make(tmp_path)
    hub.model.table[:] = math.nan
    with pytest.raises(EvaluationError, match="not numbers"):
        list(scorer.score([likelihood("a", "b")]))


# ---- generation ------------------------------------------------------------------------------------------------------


def generation(document: int, context: str, **options) -> Request:
    return Request("generate_until", ("task", document, 0), context, options={"max_gen_toks": 6, **options})


def test_greedy_generations_run_together(tmp_path):
    scorer, hub = make(tmp_path, batch_size=1)
    responses = {r.key[1]: r for r in scorer.score([generation(n, f"prompt {n}") for n in (2, 0, 1, 4, 3)])}
    assert [len(prompts) for prompts in hub.generated] == [ROUNDS, 5 - ROUNDS]  # a shard at a time
    assert responses.keys() == {0, 1, 2, 3, 4}
    for n, response in responses.items():
        assert response.token_ids == tuple(ids(f"prompt {n}"))
        assert response.tokens == 6
        assert len(response.text) == 6


def test_text_is_cut_at_each_stop_in_turn(tmp_path):
    scorer, hub = make(tmp_path)
    whole = one(scorer, generation(0, "prompt")).text
    cut = one(scorer, generation(0, "prompt", until=[whole[4], whole[2], ""])).text
    assert cut == whole.split(whole[4], 1)[0].split(whole[2], 1)[0]
    assert len(cut) <= 2
    assert hub.params[-1].stop == (whole[4], whole[2])


def test_a_prompt_that_leaves_no_room_is_cut_on_the_left_and_counted(tmp_path):
    scorer, hub = make(tmp_path, max_length=10)
    response = one(scorer, generation(0, "abcdefgh"))
    assert hub.generated == [[tuple(ids("efgh"))]]
    assert response.truncated == 4


def test_more_tokens_than_the_model_holds_is_an_error(tmp_path):
    scorer, _ = make(tmp_path, max_length=6)
    with pytest.raises(EvaluationError, match="leaves no room for a prompt") as caught:
        list(scorer.score([generation(0, "abc")]))
    assert "max_gen_toks" in caught.value.hint


def test_sampled_generations_have_seeds_of_their_own(tmp_path):
    def seeds(documents, seed=1, batch_size=4):
        folder = tmp_path / f"{documents}{seed}"
        scorer, hub = make(folder, batch_size=batch_size, seed=seed)
        list(scorer.score([generation(n, f"p{n}", do_sample=True, temperature=0.7) for n in documents]))
        assert all(len(prompts) == 1 for prompts in hub.generated)
        return {prompt: params.seed for (prompt,), params in zip(hub.generated, hub.params, strict=True)}

    first = seeds([0, 1, 2])
    assert len(set(first.values())) == 3
    some = seeds([2, 1], batch_size=1)
    assert len(some) == 2
    assert some.items() < first.items()
    assert not set(seeds([0, 1, 2], seed=2).values()) & set(first.values())


def test_beams_are_searched_together_and_not_seeded(tmp_path):
    scorer, hub = make(tmp_path, batch_size=4)
    asked = {"num_beams": 10, "length_penalty": 0.5, "max_gen_toks": 8}
    list(scorer.score([generation(n, f"p{n}", **asked) for n in range(3)]))
    assert [len(prompts) for prompts in hub.generated] == [3]
    (params,) = hub.params
    assert (params.num_beams, params.length_penalty, params.temperature) == (10, 0.5, 0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, GenerationPlan((), 256)),
        ({"until": ["\n", ""], "max_gen_toks": 5}, GenerationPlan(("\n",), 5)),
        ({"do_sample": False, "temperature": 0.8}, GenerationPlan((), 256, temperature=0.0)),
        ({"temperature": 0.8, "top_p": 0.9, "top_k": 3}, GenerationPlan((), 256, 0.8, 3, 0.9)),
        ({"num_beams": 1, "repetition_penalty": "1.5"}, GenerationPlan((), 256, repetition_penalty=1.5)),
        ({"num_beams": "4"}, GenerationPlan((), 256, num_beams=4)),
        ({"num_beams": 1, "length_penalty": 2, "early_stopping": True}, GenerationPlan((), 256)),
        (
            {"num_beams": 3, "length_penalty": 0.5, "early_stopping": "never"},
            GenerationPlan((), 256, num_beams=3, length_penalty=0.5, early_stopping="never"),
        ),
    ],
)
def test_generation_settings(options, expected):
    assert generation_plan(options, where="t") == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_q": 1}, "unknown generation setting 'top_q'"),
        ({"num_beams": 0}, "num_beams is 0"),
        ({"num_beams": 2.5}, "num_beams is 2.5"),
        ({"num_beams": 4, "do_sample": True, "temperature": 1}, "num_beams 4 with temperature 1"),
        ({"num_beams": 4, "num_return_sequences": 2}, "num_return_sequences 2 is not supported"),
        ({"num_beams": 4, "early_stopping": "soon"}, "early_stopping is 'soon'"),
        ({"do_sample": True}, "the temperature is 0"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
    ],
)
def test_bad_generation_settings(options, message):
    with pytest.raises(InputError, match=message) as caught:
        generation_plan(options, where="task t")
    assert caught.value.hint
