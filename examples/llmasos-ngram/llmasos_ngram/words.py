"""The tokenizer: whole words where they are known, bytes where they are not. Lossless.

A text falls into pieces: a run of word characters or one other character, each with the space in front of it if there is one.
A piece that is in the vocabulary is one token; any other is spelt in UTF-8 bytes. A model directory holds the vocabulary in
``ngram_words.json``::

    {"format": "llmasos-ngram words", "version": 1, "words": [" the", ",", " of"]}

Ids 0 to 255 are bytes, 256 is ``<|text|>``, which stands at both ends of every text, and the words follow in their order.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmasos.api import Checkpoint, Encoding, SpecialTokens, TokenizerError

FILE = "ngram_words.json"
FORMAT = {"format": "llmasos-ngram words", "version": 1}
BOUNDARY, BOUNDARY_TEXT = 256, "<|text|>"
FIRST_WORD = 257
#: Larger files are refused before they are read: bytes.
MAX_FILE_BYTES = 256 << 20
MAX_WORDS = 1 << 22

# Spelt out instead of \w and \s: what Python takes for a word character changes with its Unicode tables.
_WORD = r"[0-9A-Za-z_\x80-\U0010ffff]"
_SPACE = r"[\t-\r ]"
PIECE = re.compile(rf" ?{_WORD}+| ?(?!{_WORD}|{_SPACE})[\0-\x7f]|{_SPACE}")


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often each piece occurs."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(PIECE.findall(text))
    return counts


def choose_words(counts: Mapping[str, int], *, most: int, least_count: int) -> list[str]:
    """The most frequent pieces of more than one byte, those of equal count in alphabetical order."""
    frequent = [word for word, count in counts.items() if count >= least_count and len(word.encode()) > 1]
    return sorted(frequent, key=lambda word: (-counts[word], word))[:most]


def write_words(folder: Path, words: Sequence[str]) -> None:
    """Write ``ngram_words.json``."""
    text = json.dumps({**FORMAT, "words": list(words)}, ensure_ascii=False, indent=0)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


class WordsFormat:
    """The ``words`` contribution."""

    def accepts(self, path: Path) -> bool:
        """A directory with ``ngram_words.json``, or such a file."""
        return _file(path).is_file() and _file(path).name == FILE

    def open(self, path: Path, checkpoint: Checkpoint | None = None) -> WordTokenizer:
        """Read the vocabulary. Raises TokenizerError for anything that is not as this module describes it."""
        file = _file(path)
        if file.stat().st_size > MAX_FILE_BYTES:
            raise TokenizerError(
                f"{file} has {file.stat().st_size} bytes, more than {MAX_FILE_BYTES}",
                hint="train with a smaller --vocabulary",
            )
        try:
            content = json.loads(file.read_bytes().decode("utf-8"))
        except (UnicodeDecodeError, ValueError, RecursionError) as error:
            raise TokenizerError(
                f"{file} is not JSON: {error}", hint="fetch or train the model again"
            ) from None
        return WordTokenizer(_checked(content, file))


def _file(path: Path) -> Path:
    return path / FILE if path.is_dir() else path


def _checked(content: Any, file: Path) -> list[str]:
    """The words of a file's content."""
    hint = "fetch or train the model again"
    if not isinstance(content, dict) or set(content) != {*FORMAT, "words"}:
        raise TokenizerError(f"{file}: expected the keys format, version and words", hint=hint)
    if {key: content[key] for key in FORMAT} != FORMAT:
        raise TokenizerError(
            f"{file}: expected format and version {FORMAT}", hint="install a newer llmasos-ngram"
        )
    words = content["words"]
    if not isinstance(words, list) or len(words) > MAX_WORDS:
        raise TokenizerError(f"{file}: words is not a list of at most {MAX_WORDS}", hint=hint)
    for place, word in enumerate(words):
        if not isinstance(word, str) or PIECE.fullmatch(word) is None or not _is_text(word):
            raise TokenizerError(
                f"{file}: word {place} is {word!r:.60}, which no text can contain", hint=hint
            )
    if len(set(words)) != len(words):
        raise TokenizerError(f"{file}: a word occurs twice", hint=hint)
    return words


def _is_text(word: str) -> bool:
    return not any(0xD800 <= ord(character) <= 0xDFFF for character in word)


class WordTokenizer:
    """A ``Tokenizer``; see the module."""

    adds_bos = True
    chat_template: str | None = None
    special = SpecialTokens(bos=BOUNDARY, eos=BOUNDARY, stop=(BOUNDARY,))

    def __init__(self, words: Sequence[str]) -> None:
        self._words = tuple(words)
        self._ids = {word: FIRST_WORD + place for place, word in enumerate(words)}
        self.vocab_size = FIRST_WORD + len(words)

    def encode(self, text: str, *, add_special_tokens: bool = False, parse_special: bool = True) -> list[int]:
        """Ids of ``text``. Raises TokenizerError for a lone surrogate, which has no bytes."""
        ids = [BOUNDARY] if add_special_tokens else []
        for start, end in _sections(text, parse_special):
            if start == end:
                ids.append(BOUNDARY)
            for piece in PIECE.findall(text, start, end):
                self._append(ids, piece)
        return ids

    def encode_batch(
        self, texts: Sequence[str], *, add_special_tokens: bool = False, parse_special: bool = True
    ) -> list[list[int]]:
        """``encode`` for each text."""
        return [
            self.encode(text, add_special_tokens=add_special_tokens, parse_special=parse_special)
            for text in texts
        ]

    def encode_offsets(self, text: str) -> Encoding:
        """Ids, and the characters each covers: a word's, one character's for a byte, the name of a special token."""
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        for start, end in _sections(text, True):
            if start == end:
                ids.append(BOUNDARY)
                spans.append((start, start + len(BOUNDARY_TEXT)))
            for match in PIECE.finditer(text, start, end):
                if match[0] in self._ids:
                    ids.append(self._ids[match[0]])
                    spans.append(match.span())
                    continue
                for place in range(*match.span()):
                    before = len(ids)
                    self._append(ids, text[place])
                    spans += [(place, place + 1)] * (len(ids) - before)
        return Encoding(tuple(ids), tuple(spans))

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Text of ``ids``; bytes that are not UTF-8 become U+FFFD. Raises TokenizerError outside the vocabulary."""
        parts: list[bytes] = []
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise TokenizerError(f"token id {token} is outside the vocabulary of {self.vocab_size}")
            if token < BOUNDARY:
                parts.append(bytes([token]))
            elif token > BOUNDARY:
                parts.append(self._words[token - FIRST_WORD].encode())
            elif not skip_special_tokens:
                parts.append(BOUNDARY_TEXT.encode())
        return b"".join(parts).decode("utf-8", errors="replace")

    def token(self, token_id: int) -> str:
        """The word, ``<0x41>`` for a byte. Raises IndexError outside the vocabulary."""
        if not 0 <= token_id < self.vocab_size:
            raise IndexError(f"token id {token_id} is outside the vocabulary of {self.vocab_size}")
        if token_id < BOUNDARY:
            return f"<0x{token_id:02X}>"
        return BOUNDARY_TEXT if token_id == BOUNDARY else self._words[token_id - FIRST_WORD]

    def token_id(self, token: str) -> int | None:
        """The id of a word, of ``<|text|>`` or of a byte written as ``token`` writes it, or None."""
        byte = re.fullmatch(r"<0x([0-9A-F]{2})>", token)
        if byte is not None:
            return int(byte[1], 16)
        return BOUNDARY if token == BOUNDARY_TEXT else self._ids.get(token)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, object] | None = None,
    ) -> str:
        """Always TokenizerError: an n-gram model has no chat template."""
        raise TokenizerError("an n-gram model has no chat template", hint="give the prompt as plain text")

    def digest(self) -> str:
        """sha256 over the rules for pieces and the words."""
        content = {**FORMAT, "pieces": PIECE.pattern, "words": self._words}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _append(self, ids: list[int], piece: str) -> None:
        """The word's id, or those of its bytes."""
        token = self._ids.get(piece)
        if token is not None:
            ids.append(token)
            return
        try:
            ids.extend(piece.encode("utf-8"))
        except UnicodeEncodeError as error:
            raise TokenizerError(
                f"the text has a lone surrogate U+{ord(piece[error.start]):04X}",
                hint="decode the input with errors='replace' before it is tokenized",
            ) from None


def _sections(text: str, parse_special: bool) -> list[tuple[int, int]]:
    """Ranges of plain text; an empty range stands for the special token that begins there."""
    sections: list[tuple[int, int]] = []
    place = 0
    while parse_special and (found := text.find(BOUNDARY_TEXT, place)) >= 0:
        if found > place:
            sections.append((place, found))
        sections.append((found, found))
        place = found + len(BOUNDARY_TEXT)
    if place < len(text):
        sections.append((place, len(text)))
    return sections
