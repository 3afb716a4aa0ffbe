"""Tokenizers rebuilt from the vocabulary inside a GGUF file.

The keys are those of the GGUF specification ("tokenizer" section): ``tokenizer.ggml.model`` says which algorithm,
``tokens``, ``scores``, ``token_type`` and ``merges`` are the vocabulary, ``pre`` names the word-splitting rule of
byte-level BPE. Whatever the file says is checked before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as LibraryTokenizer

from llmasos.api import Checkpoint, Tokenizer, TokenizerError
from llmasos_tokenizers.byte_alphabet import BYTE_OF_CHARACTER
from llmasos_tokenizers.gguf_facts import TokenType, VocabularyFacts
from llmasos_tokenizers.library import ByteDecoder, CompiledTokenizer
from llmasos_tokenizers.literal import merges_without
from llmasos_tokenizers.pretokenizers import PreTokenizer, pretokenizer
from llmasos_tokenizers.sentencepiece import SPACE, ScoreMergeTokenizer


class GgufFormat:
    """The ``gguf`` contribution."""

    def accepts(self, path: Path) -> bool:
        """A file that begins with the GGUF magic, or a directory that holds exactly one such file."""
        if path.is_dir():
            found = sorted(path.glob("*.gguf"))
            return len(found) == 1 and _has_magic(found[0])
        return _has_magic(path)

    def open(self, path: Path, checkpoint: Checkpoint | None = None) -> Tokenizer:
        """Build the tokenizer from the open file's header. Raises TokenizerError on anything malformed."""
        if checkpoint is None or not checkpoint.header:
            raise TokenizerError(
                f"the tokenizer of {path} is inside the weight file, which is not open",
                hint="open the weights first: the vocabulary is read from the checkpoint's header",
            )
        return from_header(checkpoint.header, where=str(path))


def _has_magic(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False


def from_header(header: Mapping[str, Any], *, where: str) -> Tokenizer:
    """The tokenizer a GGUF header describes. ``where`` is named in errors. Raises TokenizerError."""
    facts = VocabularyFacts(header, where)
    builders: dict[str, Callable[[VocabularyFacts], Tokenizer]] = {
        "gpt2": _byte_level,
        "gemma4": _byte_level,
        "llama": _score_merge,
        "bert": _wordpiece,
    }
    build = builders.get(facts.model)
    if build is None:
        raise facts.error(
            f"tokenizer.ggml.model is {facts.model!r}, which is not supported",
            hint=f"supported: {', '.join(sorted(builders))}; or a directory with the file and the model's tokenizer.json",
        )
    return build(facts)


def _add_tokens(made: LibraryTokenizer, facts: VocabularyFacts, *, parse_special: bool) -> None:
    added = facts.added()
    strip = facts.swallows_space()

    def entries(ids: Sequence[int], special: bool) -> list[AddedToken]:
        return [
            AddedToken(facts.tokens[token_id], special=special, normalized=False, rstrip=token_id in strip)
            for token_id in ids
        ]

    if parse_special:
        made.add_special_tokens(entries(added.special, True))
    made.add_tokens(entries(added.literal, False))


def _template(
    facts: VocabularyFacts, front: str | None, back: str | None
) -> processors.TemplateProcessing | None:
    """BOS and EOS (by role) around a text, or None when there is neither."""
    names = []
    for role in (front, back):
        if role is not None:
            names.append((role, facts.require(role, f"the tokenizer adds {role} to every text")))
    if not names:
        return None
    single = " ".join(([front] if front else []) + ["$A"] + ([back] if back else []))
    return processors.TemplateProcessing(single=single, pair=None, special_tokens=sorted(set(names)))


# ---- byte-level BPE -------------------------------------------------------------------------------------------------


def _byte_level(facts: VocabularyFacts) -> Tokenizer:
    name = "gemma4" if facts.model == "gemma4" else facts.text("tokenizer.ggml.pre") or "default"
    rule = pretokenizer(name)
    merges = _merges(facts)
    # Gemma 4 files are known to carry a wrong add_bos_token = false; the family always begins with BOS.
    adds_bos = facts.model == "gemma4" or facts.flag("add_bos_token", rule.add_bos)
    adds_eos = facts.flag("add_eos_token", False)
    around = _template(facts, "bos" if adds_bos else None, "eos" if adds_eos else None)
    vocabulary = {token: token_id for token_id, token in enumerate(facts.tokens)}

    def build(*, parse_special: bool) -> LibraryTokenizer:
        gone = set() if parse_special else {facts.tokens[token_id] for token_id in facts.added().special}
        model = models.BPE(
            vocab={token: token_id for token, token_id in vocabulary.items() if token not in gone},
            merges=merges_without(merges, gone),
            ignore_merges=rule.ignore_merges,
            byte_fallback=rule.encoding == "metaspace",
        )
        made = LibraryTokenizer(model)
        if rule.encoding == "metaspace":
            made.normalizer = normalizers.Replace(" ", SPACE)
        splits: list[Any] = [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in rule.split
        ]
        if rule.encoding == "bytes":
            splits.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
        if splits:
            made.pre_tokenizer = pre_tokenizers.Sequence(splits)
        if around is not None:
            made.post_processor = around
        _add_tokens(made, facts, parse_special=parse_special)
        return made

    return CompiledTokenizer(
        build,
        facts.tokens,
        facts.special,
        adds_bos=adds_bos,
        chat_template=facts.chat_template,
        decoder=ByteDecoder([_bpe_bytes(facts, rule, i) for i in range(len(facts.tokens))], facts.hidden()),
        identity=facts.identity(
            merges=merges,
            split=",".join(rule.split),
            ignore_merges=rule.ignore_merges,
            encoding=rule.encoding,
            adds_eos=adds_eos,
        ),
    )


def _merges(facts: VocabularyFacts) -> list[tuple[str, str]]:
    """The merge list as pairs, best first; a pair named twice keeps its first rank."""
    lines: list[str] | None = facts.array("merges", str)
    if lines is None:
        raise facts.error("tokenizer.ggml.merges is missing, and byte-level BPE needs it")
    pairs: dict[tuple[str, str], None] = {}
    for number, line in enumerate(lines):
        # Either half may itself begin with a space, so the separator is looked for after the first character.
        cut = line.find(" ", 1)
        if cut < 0 or cut + 1 >= len(line):
            raise facts.error(f"merge {number} is {line!r}, not two parts with a space between")
        pairs.setdefault((line[:cut], line[cut + 1 :]))
    return list(pairs)


def _bpe_bytes(facts: VocabularyFacts, rule: PreTokenizer, token_id: int) -> bytes:
    """The bytes an entry stands for."""
    token, kind = facts.tokens[token_id], facts.types[token_id]
    if kind == TokenType.BYTE:
        return bytes([facts.byte_value(token_id)])
    if kind in (TokenType.NORMAL, TokenType.UNUSED):
        if rule.encoding == "metaspace":
            return token.replace(SPACE, " ").encode("utf-8", "surrogatepass")
        try:
            return bytes([BYTE_OF_CHARACTER[character] for character in token])
        except KeyError:
            pass  # an entry outside the byte alphabet stands for itself
    return token.encode("utf-8", "surrogatepass")


# ---- SentencePiece BPE ------------------------------------------------------------------------------------------------


def _score_merge(facts: VocabularyFacts) -> Tokenizer:
    scores = facts.array("scores", (int, float), len(facts.tokens))
    if scores is None:
        raise facts.error("tokenizer.ggml.scores is missing, and SentencePiece needs it")
    if any(score != score for score in scores):
        raise facts.error("tokenizer.ggml.scores holds a NaN")
    adds_bos = facts.flag("add_bos_token", True)
    adds_eos = facts.flag("add_eos_token", False)
    for role, adds in (("bos", adds_bos), ("eos", adds_eos)):
        if adds:
            facts.require(role, f"the tokenizer adds {role} to every text")
    space_prefix = facts.flag("add_space_prefix", True)
    added = facts.added()
    joinable = facts.ids_of(TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.UNUSED)
    literal = {facts.tokens[token_id]: token_id for token_id in added.literal}
    pieces = []
    for token_id, token in enumerate(facts.tokens):
        kind = facts.types[token_id]
        if kind == TokenType.BYTE:
            pieces.append(bytes([facts.byte_value(token_id)]))
        else:
            plain = token.replace(SPACE, " ") if kind in (TokenType.NORMAL, TokenType.UNUSED) else token
            pieces.append(plain.encode("utf-8", "surrogatepass"))
    strip_after = facts.swallows_space()
    return ScoreMergeTokenizer(
        facts.tokens,
        facts.special,
        pieces={facts.tokens[token_id]: (token_id, float(scores[token_id])) for token_id in joinable},
        byte_ids=facts.byte_ids(),
        added={**literal, **{facts.tokens[token_id]: token_id for token_id in added.special}},
        literal=literal,
        strip_after=strip_after,
        space_prefix=space_prefix,
        adds_bos=adds_bos,
        adds_eos=adds_eos,
        decoder=ByteDecoder(
            pieces,
            facts.hidden(),
            breaks=frozenset(added.special + added.literal),
            strip_first_space=space_prefix,
        ),
        chat_template=facts.chat_template,
        identity=facts.identity(
            scores=[float(score).hex() for score in scores],
            space_prefix=space_prefix,
            adds_eos=adds_eos,
            strip_after=",".join(map(str, sorted(strip_after))),
        ),
    )


# ---- WordPiece --------------------------------------------------------------------------------------------------------


def _wordpiece(facts: VocabularyFacts) -> Tokenizer:
    """GGUF marks the beginning of a word with U+2581 and leaves continuations bare; BERT's files do the opposite."""
    lowercase = facts.flag("normalizer.lowercase", True)
    strip_accents = facts.flag("normalizer.strip_accents", lowercase)
    vocabulary: dict[str, int] = {}
    for token_id, token in enumerate(facts.tokens):
        if facts.types[token_id] != TokenType.NORMAL:
            stored = token
        elif token.startswith(SPACE):
            stored = token[1:]
        else:
            stored = "##" + token
        if stored in vocabulary:
            raise facts.error(
                f"tokens {vocabulary[stored]} and {token_id} are both {stored!r} in BERT's notation"
            )
        vocabulary[stored] = token_id
    unknown = facts.tokens[facts.require("unk", "WordPiece needs an unknown token")]
    facts.require("cls", "the tokenizer begins every text with it")
    around = _template(facts, "cls", "sep")

    def build(*, parse_special: bool) -> LibraryTokenizer:
        gone = (
            set()
            if parse_special
            else {facts.tokens[token_id] for token_id in facts.added().special} - {unknown}
        )
        entries = {token: token_id for token, token_id in vocabulary.items() if token not in gone}
        made = LibraryTokenizer(models.WordPiece(vocab=entries, unk_token=unknown))
        made.normalizer = normalizers.BertNormalizer(
            clean_text=True, handle_chinese_chars=True, strip_accents=strip_accents, lowercase=lowercase
        )
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece(prefix="##")
        made.post_processor = around
        _add_tokens(made, facts, parse_special=parse_special)
        return made

    return CompiledTokenizer(
        build,
        facts.tokens,
        facts.special,
        adds_bos=False,
        chat_template=facts.chat_template,
        identity=facts.identity(lowercase=lowercase, strip_accents=strip_accents),
    )
