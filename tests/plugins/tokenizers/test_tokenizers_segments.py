"""Long texts in pieces: the same ids as in one go, for every rule we know, and only where that is certain."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from llmasos_tokenizers import segments
from llmasos_tokenizers.library import CompiledTokenizer
from llmasos_tokenizers.pretokenizers import _rules
from llmasos_tokenizers.segments import Segments, is_divisible, pieces

RULES = sorted({rule.split: rule.names[0] for rule in _rules().values() if rule.encoding == "bytes"}.items())
#: Rules of models that everybody uses: those must be divided, or evaluation gets slow.
COMMON = {_rules()[name].split for name in ("default", "gpt-2", "llama-bpe", "qwen2", "gpt-4o", "smollm")} | {
    ()
}
TEXT = (
    "it is said that the quick brown fox didn't jump over 1234 lazy dogs; he'd rather've slept.\n"
    "  What's more: they'll say A b C d, déjà vu, and  more\t than   that!\n\n漢字 and émigrés ate 12 kg.\r\n"
)
#: What expressions distinguish: cases, digits, contractions, kinds of space, punctuation, marks that combine.
PARTS = [
    "a",
    "bc",
    "the",
    "X",
    "Yz",
    "é",
    "e\u0301",
    "ﬁ",
    "漢",
    "'s",
    "'LL",
    "'",
    "1",
    "23",
    "456",
    " ",
    "  ",
    "\n",
    "\r\n",
]
PARTS += ["\t", ".", "!?", "-", "_", "$", "<|end|>", "<|", "🙂", "\u00a0", "\u200d"]


def make(split, *, normalizer=None, added=(), around=None) -> Tokenizer:
    """A byte-level BPE tokenizer with a few merges."""
    made = Tokenizer(models.BPE())
    steps = [pre_tokenizers.Split(Regex(expression), behavior="isolated") for expression in split]
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not split)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    )
    if normalizer is not None:
        made.normalizer = normalizer
    made.add_special_tokens(["<|end|>"])
    made.add_tokens(list(added))
    if around is not None:
        made.post_processor = around
    return made


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch):
    monkeypatch.setattr(segments, "PIECE", 3)


@pytest.mark.parametrize("split", [(), *(split for split, _ in RULES)], ids=["gpt2", *(n for _, n in RULES)])
def test_pieces_have_the_ids_of_the_whole(split):
    runner = make(split)
    divided = Segments(runner) if is_divisible(runner) else None
    assert divided is not None or split not in COMMON

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=40).map("".join))
    def same(text):
        (ids,) = divided.encode_batch([text], add_special_tokens=False)
        assert ids == runner.encode(text, add_special_tokens=False).ids

    if divided is not None:
        same()
        assert len(pieces(TEXT)) > 5


def test_what_stands_around_a_text_stands_around_the_whole():
    runner = make(
        (), around=processors.TemplateProcessing(single="<|end|> $A <|end|>", special_tokens=[("<|end|>", 0)])
    )
    texts = [
        "the first text is long",
        "",
        "another one <|end|> with something inside",
        "the first text is short",
    ]
    for special in (True, False):
        found = Segments(runner).encode_batch(texts, add_special_tokens=special)
        assert found == [runner.encode(text, add_special_tokens=special).ids for text in texts]


def test_texts_that_begin_alike_share_their_first_pieces():
    runner = make(())
    divided = Segments(runner)
    head = "one two three four five six seven eight nine ten "
    divided.encode_batch([head + "left"], add_special_tokens=False)
    known = set(divided._known)
    divided.encode_batch([head + "right hand"], add_special_tokens=False)
    assert len(set(divided._known) - known) < len(pieces(head + "right hand")) / 2


def test_the_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(segments, "KEPT", 10)
    runner = make(())
    divided = Segments(runner)
    for number in range(30):
        text = f"number {number} has some words of its own"
        assert divided.encode_batch([text], add_special_tokens=False) == [runner.encode(text).ids]
        assert len(divided._known) < 10 + len(pieces(text))


@pytest.mark.parametrize(
    "runner",
    [
        make((), normalizer=normalizers.Lowercase()),
        make((), normalizer=normalizers.Prepend("x")),
        make((), added=[AddedToken("new york", normalized=False)]),
        make((), added=[AddedToken("so ", normalized=False)]),
        make((), added=[AddedToken("<mask>", lstrip=True)]),
        make((), added=[AddedToken("word", single_word=True)]),
        make(("[a-z]+ [a-z]+|.",)),
    ],
    ids=[
        "lowercase",
        "prepend",
        "token with a space",
        "token that ends in one",
        "lstrip",
        "single word",
        "expression",
    ],
)
def test_what_might_look_across_words_is_not_divided(runner):
    assert not is_divisible(runner)


def test_other_models_are_not_divided():
    assert not is_divisible(Tokenizer(models.WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]")))
    assert not is_divisible(Tokenizer(models.BPE({"a": 0}, [])))
    no_words = Tokenizer(models.BPE({"a": 0}, []))
    no_words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    assert not is_divisible(no_words)


def test_the_tokenizer_divides_long_texts_by_itself(monkeypatch):
    runner = make(())
    tokens = [runner.id_to_token(number) for number in range(runner.get_vocab_size())]
    from llmasos.api import SpecialTokens

    tokenizer = CompiledTokenizer(
        lambda *, parse_special: make(()),
        tokens,
        SpecialTokens(),
        adds_bos=False,
        chat_template=None,
        identity={},
    )
    texts = ["a short one", "the long one goes on and on and on <|end|> until it is over"]
    for parse_special in (True, False):
        found = tokenizer.encode_batch(texts, parse_special=parse_special)
        assert found == [tokenizer.encode(text, parse_special=parse_special) for text in texts]
    assert set(tokenizer._segments) == {True, False}
    assert tokenizer._segments[True] is not None
