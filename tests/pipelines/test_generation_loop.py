"""The generation loop, on stand-ins: what it asks of a model, how rows begin and end, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llmasos.contracts.evaluation import LoadedModel
from llmasos.contracts.model import GenerationChunk, ResolvedModel, SamplingParams
from llmasos.errors import UsageError
from llmasos.pipelines.generate import complete, generate
from llmasos.testing.doubles import ByteTokenizer, ScriptedCache, ScriptedModel


def loaded(model: Any = None, tokenizer: Any = None) -> LoadedModel:
    resolved = ResolvedModel(ref="double", path=Path("double"), source="path")
    return LoadedModel(resolved, model or ScriptedModel(), tokenizer or ByteTokenizer(), {})


def says(text: str, *, then: int = 257, **settings: Any) -> LoadedModel:
    """A model that writes ``text`` after any prompt that ends with ``>``, then the token ``then``."""
    answer = [*text.encode(), then]

    def script(tokens: tuple[int, ...], positions: tuple[int, ...]) -> int:
        assert list(positions) == list(range(len(tokens)))
        if ord(">") not in tokens:
            return 0  # within the prompt: nobody asks
        said = tokens[::-1].index(ord(">"))
        return answer[min(said, len(answer) - 1)]

    return loaded(ScriptedModel(258, script, **settings))


def test_greedy_until_the_end_token():
    (done,) = complete(says("héllo"), ["say>"], SamplingParams())
    assert (done.text, done.finish, done.prompt_tokens, done.logprobs) == ("héllo", "eos", 4, None)
    assert bytes(done.tokens).decode() == "héllo"


def test_ignore_eos_goes_on():
    (done,) = complete(says("ab"), ["say>"], SamplingParams(max_new_tokens=5, ignore_eos=True))
    assert done.tokens == (97, 98, 257, 257, 257)
    assert (done.text, done.finish) == ("ab", "length")


def test_end_token_of_the_configuration_counts():
    model = says("ab!cd").model
    model.config = {**model.config, "eos_token_id": [ord("!"), 9999]}
    (done,) = complete(loaded(model), ["say>"], SamplingParams())
    assert (done.text, done.finish) == ("ab", "eos")


def test_stop_strings_end_the_row_and_are_left_out():
    (done,) = complete(says("one, two, three"), [">"], SamplingParams(stop=(" tw", "three")))
    assert (done.text, done.finish) == ("one,", "stop")
    assert bytes(done.tokens) == b"one, tw"


def test_a_special_token_can_be_a_stop_string():
    (done,) = complete(says("ab", then=256), [">"], SamplingParams(stop=("<bos>",)))
    assert (done.text, done.finish, done.tokens) == ("ab", "stop", (97, 98))


def test_length_limit_and_what_was_held_back():
    (done,) = complete(says("abcdef"), [">"], SamplingParams(max_new_tokens=3, stop=("cx",)))
    assert (done.text, done.finish) == ("abc", "length")
    chunks = list(generate(says("abcdef"), [">"], SamplingParams(max_new_tokens=3, stop=("cx",))))
    assert [chunk.text for chunk in chunks] == ["a", "b", "c"]
    (nothing,) = complete(says("abc"), [">"], SamplingParams(max_new_tokens=0))
    assert (nothing.text, nothing.tokens, nothing.finish) == ("", (), "length")


def test_a_full_context_ends_with_length():
    (done,) = complete(says("abcdefgh", max_length=8), ["1234>"], SamplingParams())
    assert (done.text, done.finish) == ("abc", "length")
    (full,) = complete(says("abc", max_length=5), ["1234>"], SamplingParams())
    assert (full.text, full.finish) == ("", "length")


def test_a_prompt_over_the_context_is_refused_before_anything_runs():
    with pytest.raises(UsageError, match=r"prompt 2 has 6 tokens, the model's context holds 5") as error:
        generate(says("abc", max_length=5), [">", "12345>"], SamplingParams())
    assert error.value.hint == "shorten it by 1 tokens"


def test_an_empty_prompt_starts_from_bos():
    def script(tokens, positions):
        return 88 if tokens[0] == 256 else 89

    (done,) = complete(loaded(ScriptedModel(258, script)), [""], SamplingParams(max_new_tokens=2))
    assert (done.text, done.prompt_tokens) == ("XX", 1)


def test_an_empty_prompt_without_bos_is_refused():
    tokenizer = ByteTokenizer()
    tokenizer.special = type(tokenizer.special)(eos=257, stop=(257,))
    with pytest.raises(UsageError, match="prompt 1 is empty") as error:
        generate(loaded(tokenizer=tokenizer), [""], SamplingParams())
    assert error.value.hint


def test_text_prompts_get_the_special_tokens_and_ids_do_not():
    tokenizer = ByteTokenizer(adds_bos=True)
    text, ids = complete(loaded(tokenizer=tokenizer), ["ab", [97, 98]], SamplingParams(max_new_tokens=1))
    assert (text.prompt_tokens, ids.prompt_tokens) == (3, 2)


def test_no_prompts_no_chunks():
    assert complete(loaded(), [], SamplingParams()) == []


def test_an_encoder_cannot_generate():
    with pytest.raises(UsageError, match="not a causal language model"):
        generate(loaded(object()), ["x"], SamplingParams())


def test_batch_size_must_be_positive():
    with pytest.raises(UsageError, match="batch_size = 0"):
        generate(loaded(), ["x"], SamplingParams(), batch_size=0)


PROMPTS = ["a", "bcd", "a", "", "efghijklm", "n" * 40, "op", "a", "qrs"]


@pytest.mark.parametrize("temperature", [0.0, 1.3])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_a_completion_does_not_depend_on_its_batch(temperature, batch_size):
    params = SamplingParams(max_new_tokens=9, temperature=temperature, top_p=0.95, seed=4, logprobs=True)
    together = complete(loaded(), PROMPTS, params, batch_size=batch_size)
    assert together == complete(loaded(), PROMPTS, params, batch_size=3)
    for index in (1, 4, 5, 8):
        assert complete(loaded(), [PROMPTS[index]], params) == [together[index]]
    # order of unlike prompts does not matter either
    backwards = complete(loaded(), PROMPTS[::-1], params)
    assert backwards[::-1][4:6] == together[4:6]


def test_equal_prompts_of_one_call_give_different_samples_and_another_seed_others():
    params = SamplingParams(max_new_tokens=12, temperature=1.0, seed=1)
    three = [done.tokens for done in complete(loaded(), ["a", "a", "a"], params)]
    assert len(set(three)) == 3
    assert three == [done.tokens for done in complete(loaded(), ["a", "a", "a"], params, batch_size=1)]
    assert (
        complete(loaded(), ["a"], SamplingParams(max_new_tokens=12, temperature=1.0, seed=2))[0].tokens
        != three[0]
    )


def test_greedy_ignores_the_seed():
    results = [complete(loaded(), ["xy"], SamplingParams(max_new_tokens=8, seed=seed)) for seed in (0, 1)]
    assert results[0] == results[1]


def test_chunks_add_up_and_finish_once():
    params = SamplingParams(max_new_tokens=6, temperature=1.0, logprobs=True)
    chunks: dict[int, list[GenerationChunk]] = {}
    for chunk in generate(loaded(), PROMPTS, params, batch_size=4):
        chunks.setdefault(chunk.index, []).append(chunk)
    assert sorted(chunks) == list(range(len(PROMPTS)))
    for row in chunks.values():
        assert [chunk.done is not None for chunk in row] == [False] * (len(row) - 1) + [True]
        done = row[-1].done
        assert "".join(chunk.text for chunk in row) == done.text
        assert tuple(chunk.token for chunk in row if chunk.token is not None) == done.tokens
        assert tuple(chunk.logprob for chunk in row if chunk.logprob is not None) == done.logprobs


def test_logprobs_are_of_the_model_not_of_the_filters():
    params = SamplingParams(max_new_tokens=5, temperature=0.3, top_k=2, repetition_penalty=1.5, logprobs=True)
    (done,) = complete(loaded(), ["seed"], params)
    model = ScriptedModel()
    history = [(token, i) for i, token in enumerate([*b"seed"])]
    for token, logprob in zip(done.tokens, done.logprobs, strict=True):
        expected = model._row(history).log_softmax(-1)[token].item()
        assert logprob == pytest.approx(expected, abs=1e-5)
        history.append((token, len(history)))


def test_repetition_penalty_covers_prompt_and_continuation():
    """A model that always likes the same token best, a little more than the next one."""

    class Stubborn(ScriptedModel):
        def _row(self, history):
            scores = torch.zeros(self.vocab_size)
            scores[97], scores[98], scores[99] = 2.0, 1.9, 1.8
            return scores

    plain, punished = (
        complete(
            loaded(Stubborn()), ["x", "xa"], SamplingParams(max_new_tokens=3, repetition_penalty=penalty)
        )
        for penalty in (1.0, 1.2)
    )
    assert [done.text for done in plain] == ["aaa", "aaa"]
    assert [done.text for done in punished] == ["abc", "bca"]


def test_rows_retire_early_and_their_slots_are_used_again():
    """With two slots, ten short rows and a long one take no more passes than the long one needs."""
    sizes: list[int] = []

    class Counting(ScriptedModel):
        def hidden(self, batch, cache=None):
            sizes.append(batch.size)
            assert len(cache.lengths) == 2
            return super().hidden(batch, cache)

    def script(tokens, positions):
        return 65 if tokens[0] == ord("L") else 257

    done = complete(
        loaded(Counting(258, script)), ["L", *["s"] * 10], SamplingParams(max_new_tokens=20), batch_size=2
    )
    assert [len(d.tokens) for d in done] == [20, *[0] * 10]
    assert sizes == [2] * 10 + [1] * 10


class Counting(ScriptedModel):
    """Keeps how many tokens each pass computed."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.passes: list[int] = []

    def hidden(self, batch, cache=None):
        self.passes.append(len(batch.tokens))
        return super().hidden(batch, cache)


SHARED = "x" * 40
ALIKE = [f"{SHARED}{end}" for end in ("ab", "ac", "d", "ab", "")]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    ("batch_size", "saved"),
    # The last token of a prompt is always computed. One slot only remembers the prompt before; eight remember all.
    [(1, 41 + 40 + 40 + 39), (8, 41 + 40 + 41 + 39)],
)
def test_a_shared_beginning_is_computed_once(batch_size, saved, temperature):
    params = SamplingParams(max_new_tokens=4, temperature=temperature, seed=3)
    sharing, alone = Counting(), Counting()
    chunks = generate(loaded(alone), ALIKE, params, batch_size=batch_size, share_prefixes=False)
    each = sorted((chunk for chunk in chunks if chunk.done), key=lambda chunk: chunk.index)
    assert complete(loaded(sharing), ALIKE, params, batch_size=batch_size) == [c.done for c in each]
    assert sum(alone.passes) - sum(sharing.passes) == saved


def test_unlike_prompts_share_nothing():
    model = Counting()
    complete(loaded(model), ["a" * 20, "b" * 20], SamplingParams(max_new_tokens=1), batch_size=2)
    assert model.passes == [40]


def test_a_cache_that_cannot_go_back_is_filled_again():
    class Forward(ScriptedCache):
        share = None  # a state after many tokens is not one after fewer

        def rewind(self, slot: int, length: int) -> bool:
            return length == self.lengths[slot]

    class Recurrent(Counting):
        def new_cache(self, slots: int, capacity: int) -> ScriptedCache:
            return Forward(slots, capacity)

    model, params = Recurrent(), SamplingParams(max_new_tokens=3)
    assert complete(loaded(model), ALIKE, params, batch_size=2) == complete(loaded(), ALIKE, params)
    assert sum(model.passes) > sum(map(len, ALIKE))


LONG = "y" * 90
FEW_SHOT = [f"{LONG}{end}" for end in ("ab", "ac", "d", "ae", "f", "")]
OTHERS = [f"{'z' * 80}{end}" for end in "abcd"]


class Watched(ScriptedCache):
    """Keeps what was shared, and can do so without a copy."""

    def __init__(self, slots: int, capacity: int) -> None:
        super().__init__(slots, capacity)
        self.shared: list[int] = []

    def share(self, source, target, length):
        super().share(source, target, length)
        self.shared.append(length)

    def copy(self, source, target):
        raise AssertionError("copied what can be shared")


@pytest.mark.parametrize("batch_size", [1, 2, 8])
@pytest.mark.parametrize("prompts", [FEW_SHOT, OTHERS + FEW_SHOT + OTHERS], ids=len)
def test_a_long_shared_beginning_is_kept_once(prompts, batch_size):
    caches: list[Watched] = []

    class Watching(Counting):
        def new_cache(self, slots, capacity):
            caches.append(Watched(slots, capacity))
            return caches[-1]

    params = SamplingParams(max_new_tokens=4)
    alone = generate(loaded(Counting()), prompts, params, batch_size=batch_size, share_prefixes=False)
    each = sorted((chunk for chunk in alone if chunk.done), key=lambda chunk: chunk.index)
    model = Watching()
    assert complete(loaded(model), prompts, params, batch_size=batch_size) == [c.done for c in each]
    (cache,) = caches
    # One slot goes on from what it held itself.
    assert all(80 <= length <= 91 for length in cache.shared)
    assert len(cache.shared) >= min(batch_size, 3) - 1
    assert sum(model.passes) < sum(map(len, prompts)) - 70 * (len(prompts) - 4)
