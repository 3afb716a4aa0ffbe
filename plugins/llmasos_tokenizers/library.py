"""Tokenizers that run inside the ``tokenizers`` library."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from tokenizers import Tokenizer as LibraryTokenizer

from llmasos.api import Encoding, SpecialTokens, TokenizerError
from llmasos_tokenizers.base import Vocabulary, checked_text
from llmasos_tokenizers.segments import Segments, is_divisible, is_long


@contextmanager
def library_errors(doing: str) -> Iterator[None]:
    """Turn whatever the library raises into a TokenizerError.

    A panic in its native code arrives as ``pyo3_runtime.PanicException``, which derives from BaseException and so slips
    through ``except Exception``; the class cannot be imported, only recognised by name.
    """
    try:
        yield
    except (TokenizerError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(
            f"{doing} failed: {error}", hint="the tokenizer file is damaged, or was made for a newer library"
        ) from None


class Build(Protocol):
    """Makes the library object, with or without the special tokens among its entries."""

    def __call__(self, *, parse_special: bool) -> LibraryTokenizer: ...


class CompiledTokenizer(Vocabulary):
    """A tokenizer that the library runs, with truncation and padding switched off.

    ``build(parse_special=...)`` makes the library object. It is called a second time, with False, when special tokens in
    a text must stay text for the first time: which entries there are is fixed in an object, and objects are shared
    between threads. Without ``decoder`` the library's own is used.
    """

    def __init__(
        self,
        build: Build,
        tokens: Sequence[str | None],
        special: SpecialTokens,
        *,
        adds_bos: bool,
        chat_template: str | None,
        identity: Mapping[str, Any],
        decoder: ByteDecoder | None = None,
    ) -> None:
        super().__init__(tokens, special, adds_bos=adds_bos, chat_template=chat_template, identity=identity)
        self._build = build
        self._parsing = self._make(parse_special=True)
        self._literal: LibraryTokenizer | None = None
        #: For each of the two library objects: how long texts are divided, or None where they may not be.
        self._segments: dict[bool, Segments | None] = {}
        self._lock = threading.Lock()
        self._decoder = decoder

    def _make(self, *, parse_special: bool) -> LibraryTokenizer:
        with library_errors("building the tokenizer"):
            made = self._build(parse_special=parse_special)
            made.no_truncation()
            made.no_padding()
            made.encode_special_tokens = not parse_special
        return made

    def _runner(self, parse_special: bool) -> LibraryTokenizer:
        if parse_special:
            return self._parsing
        with self._lock:
            if self._literal is None:
                self._literal = self._make(parse_special=False)
            return self._literal

    def encode(self, text: str, *, add_special_tokens: bool = False, parse_special: bool = True) -> list[int]:
        """Ids of ``text``. Raises TokenizerError for lone surrogates and failures inside the library."""
        runner = self._runner(parse_special)
        with library_errors("encoding"):
            return list(runner.encode(checked_text(text), add_special_tokens=add_special_tokens).ids)

    def encode_batch(
        self, texts: Sequence[str], *, add_special_tokens: bool = False, parse_special: bool = True
    ) -> list[list[int]]:
        """The same as ``encode`` for each, in parallel."""
        runner = self._runner(parse_special)
        checked = [checked_text(text) for text in texts]
        with library_errors("encoding"):
            if any(map(is_long, checked)):
                if parse_special not in self._segments:
                    self._segments[parse_special] = Segments(runner) if is_divisible(runner) else None
                segments = self._segments[parse_special]
                if segments is not None:
                    return segments.encode_batch(checked, add_special_tokens=add_special_tokens)
            encodings = runner.encode_batch_fast(checked, add_special_tokens=add_special_tokens)
            return [list(encoding.ids) for encoding in encodings]

    def encode_offsets(self, text: str) -> Encoding:
        """Ids without added special tokens, and the characters of ``text`` each covers (tokens that share a character,
        as the bytes of an emoji do, have the same range)."""
        with library_errors("encoding"):
            encoding = self._parsing.encode(checked_text(text), add_special_tokens=False)
            return Encoding(ids=tuple(encoding.ids), offsets=tuple(encoding.offsets))

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Text of ``ids``; bytes that are not UTF-8 become U+FFFD. Raises TokenizerError for an unknown id."""
        for token_id in ids:
            if not 0 <= token_id < self.vocab_size:
                raise TokenizerError(f"token id {token_id} is outside the vocabulary of {self.vocab_size}")
        if self._decoder is not None:
            return self._decoder.decode(ids, skip_special_tokens=skip_special_tokens)
        with library_errors("decoding"):
            return str(self._parsing.decode(list(ids), skip_special_tokens=skip_special_tokens))


class ByteDecoder:
    """Decoding by a table: each id stands for some bytes.

    ``special`` ids can be left out. ``strip_first_space`` undoes the space that SentencePiece puts in front of a text and
    after every token in ``breaks``.
    """

    def __init__(
        self,
        pieces: Sequence[bytes],
        special: frozenset[int],
        *,
        breaks: frozenset[int] = frozenset(),
        strip_first_space: bool = False,
    ) -> None:
        self._pieces = pieces
        self._special = special
        self._breaks = breaks
        self._strip_first_space = strip_first_space

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Text of ``ids`` (all inside the vocabulary)."""
        parts: list[bytes] = []
        at_break = self._strip_first_space
        for token_id in ids:
            if not (skip_special_tokens and token_id in self._special):
                piece = self._pieces[token_id]
                broken = token_id in self._breaks
                parts.append(piece[1:] if at_break and not broken and piece.startswith(b" ") else piece)
            at_break = self._strip_first_space and token_id in self._breaks
        return b"".join(parts).decode("utf-8", "replace")
