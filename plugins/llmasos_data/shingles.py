"""Texts as sets of hashed word n-grams, a batch at a time."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np

#: Scripts written without spaces: kana, CJK ideographs, Hangul. Each character counts as a word.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_HAS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W_{_UNSPACED}]+")

#: Words remembered with their hashes; forgotten all at once when there are more, so memory stays bounded.
_REMEMBERED = 2**20

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)


class WordHashes(dict[str, int]):
    """Hash of a word as it stands between spaces, looked up at C speed. Punctuation does not count; without a letter or
    digit the hash is 0, which is no word.
    """

    def __missing__(self, token: str) -> int:
        if len(self) >= _REMEMBERED:
            self.clear()
        word = "".join(_WORD.findall(token))
        value = 0
        if word:
            digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            value = int.from_bytes(digest, "little") or 1
        self[token] = value
        return value


class Shingler:
    """Hashed n-grams of words. Case and punctuation are ignored; a text shorter than n words is one shingle."""

    def __init__(self, ngram: int) -> None:
        self.ngram = ngram
        self._hashes = WordHashes()

    def words(self, text: str) -> list[int]:
        """Hashes of the words of a text, in order."""
        text = text.casefold()
        if not text.isascii() and _HAS_UNSPACED.search(text):
            tokens = _WORD.findall(text)
        else:
            tokens = text.split()
        hashes = self._hashes
        return [value for token in tokens if (value := hashes[token])]

    def shingles(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(hashes uint64 [S], offsets int64 [len(texts) + 1] into them); repeats within a text are kept."""
        n = self.ngram
        words: list[int] = []
        lengths: list[int] = []
        for text in texts:
            found = self.words(text)
            if 0 < len(found) < n:
                found += [0] * (n - len(found))
            words += found
            lengths.append(len(found))
        flat = np.array(words, dtype=np.uint64)
        total = len(flat)
        mixed = flat[: max(total - n + 1, 0)].copy()
        for k in range(1, n):
            mixed *= _MULTIPLIER
            mixed ^= mixed >> _SHIFT
            mixed += flat[k : k + len(mixed)]
        mixed *= _MULTIPLIER
        mixed ^= mixed >> _SHIFT
        size = np.array(lengths, dtype=np.int64)
        counts = np.maximum(size - n + 1, 0)
        # n-grams that would run from one text into the next are left out.
        inside = np.ones(len(mixed), dtype=bool)
        ends = np.cumsum(size)
        for k in range(1, n):
            at = ends - k
            inside[at[(at >= 0) & (at < len(inside))]] = False
        return mixed[inside], np.concatenate([[0], np.cumsum(counts)])
