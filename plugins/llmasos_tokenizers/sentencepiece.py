"""SentencePiece BPE as GGUF files store it: pieces with scores, no merge list.

The algorithm (byte-pair encoding, Sennrich et al. 2016, as SentencePiece applies it, Kudo and Richardson 2018): start
from single characters and keep joining the adjacent pair whose joined piece has the best score, the leftmost of equals,
until no pair joins to a piece. What is left and is not a piece becomes its UTF-8 bytes. Ranked merge lists cannot express the tie rule, hence this module and not the
``tokenizers`` library.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llmasos.api import Encoding, SpecialTokens, TokenizerError
from llmasos_tokenizers.base import Vocabulary, checked_text
from llmasos_tokenizers.library import ByteDecoder

SPACE = "\u2581"
#: Words are cached up to this length and number; text repeats its words, so nearly all of it is served from here.
CACHED_LENGTH = 64
CACHED_WORDS = 1 << 16


class ScoreMergeTokenizer(Vocabulary):
    """Encodes by score; ``pieces`` maps a piece that may result from joining to (id, score).

    ``added`` maps texts that are cut out before anything else to their ids, ``literal`` the subset that is cut out even
    when special tokens stay text (user-defined pieces). ``strip_after`` are ids that swallow the white space after them.
    Every stretch of text gets a space in front when ``space_prefix`` is set.
    """

    def __init__(
        self,
        tokens: Sequence[str | None],
        special: SpecialTokens,
        *,
        pieces: Mapping[str, tuple[int, float]],
        byte_ids: Sequence[int] | None,
        added: Mapping[str, int],
        literal: Mapping[str, int],
        strip_after: frozenset[int],
        space_prefix: bool,
        adds_bos: bool,
        adds_eos: bool,
        decoder: ByteDecoder,
        chat_template: str | None,
        identity: Mapping[str, Any],
    ) -> None:
        super().__init__(tokens, special, adds_bos=adds_bos, chat_template=chat_template, identity=identity)
        self._pieces = pieces
        self._byte_ids = byte_ids
        self._added = added
        self._patterns = {True: _alternatives(added), False: _alternatives(literal)}
        self._strip_after = strip_after
        self._prefix = SPACE if space_prefix else ""
        self._adds_eos = adds_eos
        self._decoder = decoder
        self._cache: dict[str, tuple[int, ...]] = {}
        # No piece goes on after a space that follows something else, so nothing is ever joined across that boundary:
        # the words on both sides can be encoded on their own.
        self._separable = not any(re.search(f"[^{SPACE}]{SPACE}", piece) for piece in pieces)

    def encode(self, text: str, *, add_special_tokens: bool = False, parse_special: bool = True) -> list[int]:
        """Ids of ``text``. Raises TokenizerError for lone surrogates."""
        ids: list[int] = []
        if add_special_tokens and self.adds_bos and self.special.bos is not None:
            ids.append(self.special.bos)
        for start, end, token_id in self._stretches(checked_text(text), parse_special):
            if token_id is not None:
                ids.append(token_id)
                continue
            for word in self._words(text[start:end]):
                ids.extend(self._word_ids(word))
        if add_special_tokens and self._adds_eos and self.special.eos is not None:
            ids.append(self.special.eos)
        return ids

    def encode_batch(
        self, texts: Sequence[str], *, add_special_tokens: bool = False, parse_special: bool = True
    ) -> list[list[int]]:
        """The same as ``encode`` for each."""
        return [
            self.encode(text, add_special_tokens=add_special_tokens, parse_special=parse_special)
            for text in texts
        ]

    def encode_offsets(self, text: str) -> Encoding:
        """Ids without BOS and EOS and the characters each covers; the space put in front covers none."""
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for start, end, token_id in self._stretches(checked_text(text), True):
            if token_id is not None:
                ids.append(token_id)
                offsets.append((start, end))
                continue
            at = start - len(self._prefix)
            for word in self._words(text[start:end]):
                for piece in self._join(word):
                    covered = (max(at, start), max(at + len(piece), start))
                    at += len(piece)
                    piece_ids = self._piece_ids(piece)
                    ids.extend(piece_ids)
                    offsets.extend([covered] * len(piece_ids))
        return Encoding(ids=tuple(ids), offsets=tuple(offsets))

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Text of ``ids`` without the spaces that encoding put in front. Raises TokenizerError for an unknown id."""
        for token_id in ids:
            if not 0 <= token_id < self.vocab_size:
                raise TokenizerError(f"token id {token_id} is outside the vocabulary of {self.vocab_size}")
        return self._decoder.decode(ids, skip_special_tokens=skip_special_tokens)

    def _stretches(self, text: str, parse_special: bool) -> list[tuple[int, int, int | None]]:
        """(start, end, id) of the parts of ``text``: added tokens with their id, text between them with None."""
        pattern = self._patterns[parse_special]
        parts: list[tuple[int, int, int | None]] = []
        at = 0
        if pattern is not None:
            for match in pattern.finditer(text):
                token_id = self._added[match[0]]
                if match.start() > at:
                    parts.append((at, match.start(), None))
                parts.append((match.start(), match.end(), token_id))
                at = match.end()
                if token_id in self._strip_after:
                    while at < len(text) and text[at] in " \t\n\v\f\r":
                        at += 1
        if at < len(text):
            parts.append((at, len(text), None))
        return parts

    def _words(self, text: str) -> list[str]:
        escaped = self._prefix + text.replace(" ", SPACE)
        return re.findall(f"{SPACE}+[^{SPACE}]*|[^{SPACE}]+", escaped) if self._separable else [escaped]

    def _word_ids(self, word: str) -> tuple[int, ...]:
        cached = self._cache.get(word)
        if cached is not None:
            return cached
        ids = tuple(token_id for piece in self._join(word) for token_id in self._piece_ids(piece))
        if len(word) <= CACHED_LENGTH and len(self._cache) < CACHED_WORDS:
            self._cache[word] = ids
        return ids

    def _piece_ids(self, piece: str) -> tuple[int, ...]:
        entry = self._pieces.get(piece)
        if entry is not None:
            return (entry[0],)
        if self._byte_ids is not None:
            return tuple(self._byte_ids[byte] for byte in piece.encode("utf-8"))
        if self.special.unk is None:
            raise TokenizerError(
                f"no piece covers {piece!r}, and the vocabulary has neither byte pieces nor an unknown token"
            )
        return (self.special.unk,)

    def _join(self, word: str) -> list[str]:
        """The pieces of a word: pairs joined by best score, leftmost first among equals."""
        pieces = self._pieces
        if word in pieces and len(word) == 1:
            return [word]
        ends = list(
            range(1, len(word) + 1)
        )  # ends[i]: where the symbol that starts at i ends; 0 once it is swallowed
        before = list(range(-1, len(word) - 1))  # before[i]: start of the symbol to the left
        heap: list[tuple[float, int, int]] = []

        def offer(left: int, right: int) -> None:
            entry = pieces.get(word[left : ends[right]])
            if entry is not None:
                heapq.heappush(heap, (-entry[1], left, ends[right]))

        for left in range(len(word) - 1):
            offer(left, left + 1)
        while heap:
            _, left, end = heapq.heappop(heap)
            middle = ends[left]
            # Out of date when the left symbol was swallowed or grew, or the right one did.
            if middle == 0 or middle >= end or ends[middle] != end:
                continue
            ends[left], ends[middle] = end, 0
            if end < len(word):
                before[end] = left
                offer(left, end)
            if before[left] >= 0:
                offer(before[left], left)
        symbols = []
        at = 0
        while at < len(word):
            symbols.append(word[at : ends[at]])
            at = ends[at]
        return symbols


def _alternatives(texts: Mapping[str, int]) -> re.Pattern[str] | None:
    """A pattern that finds the leftmost of ``texts``, the longest first among those that start at one place."""
    if not texts:
        return None
    return re.compile(
        "|".join(re.escape(text) for text in sorted(texts, key=lambda text: (-len(text), text)))
    )
