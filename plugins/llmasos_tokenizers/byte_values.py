"""The simplest tokenizer: the 256 byte values, and special tokens after them.

For tests, tiny models and byte-level models. A directory asks for it with a file ``byte_tokenizer.json``::

    {"special_tokens": ["<pad>", "<bos>", "<eos>"], "pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>",
     "add_bos_token": true}

Id b is byte b; special tokens have the ids from 256 on, in their order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmasos.api import Checkpoint, Encoding, SpecialTokens, Tokenizer, TokenizerError
from llmasos_tokenizers.base import ROLES, Vocabulary, checked_text
from llmasos_tokenizers.companions import Companions, read_object
from llmasos_tokenizers.library import ByteDecoder

FILE = "byte_tokenizer.json"
KEYS = {"special_tokens", "add_bos_token", "add_eos_token", *(f"{role}_token" for role in ROLES)}
MAX_SPECIAL = 1 << 16


class ByteFormat:
    """The ``bytes`` contribution."""

    def accepts(self, path: Path) -> bool:
        """A directory with a byte_tokenizer.json, or such a file."""
        return _file(path).is_file() and _file(path).name == FILE

    def open(self, path: Path, checkpoint: Checkpoint | None = None) -> Tokenizer:
        """Read the file. Raises TokenizerError for unknown keys, duplicate tokens and roles that name no token."""
        file = _file(path)
        spec = read_object(file)
        unknown = sorted(set(spec) - KEYS)
        if unknown:
            raise TokenizerError(
                f"{file}: unknown key {unknown[0]!r}", hint=f"known keys: {', '.join(sorted(KEYS))}"
            )
        names = spec.get("special_tokens", [])
        if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
            raise TokenizerError(
                f"{file}: special_tokens is not a list of texts", hint='for example ["<bos>", "<eos>"]'
            )
        if len(set(names)) != len(names) or len(names) > MAX_SPECIAL:
            raise TokenizerError(
                f"{file}: special_tokens names a token twice, or more than {MAX_SPECIAL}",
                hint="name each once",
            )
        return ByteTokenizer(
            names,
            roles={role: _role(spec, role, names, file) for role in ROLES},
            add_bos=bool(spec.get("add_bos_token", False)),
            add_eos=bool(spec.get("add_eos_token", False)),
            chat_template=Companions.read(file.parent).chat_template(),
        )


def _file(path: Path) -> Path:
    return path / FILE if path.is_dir() else path


def _role(spec: dict[str, Any], role: str, names: list[str], file: Path) -> int | None:
    name = spec.get(f"{role}_token")
    if name is None:
        return None
    if name not in names:
        raise TokenizerError(
            f"{file}: {role}_token is {name!r}, which is not among special_tokens", hint="add it there"
        )
    return 256 + names.index(name)


class ByteTokenizer(Vocabulary):
    """Ids 0 to 255 are bytes of UTF-8, ids from 256 on are ``names``."""

    def __init__(
        self,
        names: Sequence[str],
        *,
        roles: dict[str, int | None],
        add_bos: bool = False,
        add_eos: bool = False,
        chat_template: str | None = None,
    ) -> None:
        eos = roles.get("eos")
        super().__init__(
            [f"<0x{value:02X}>" for value in range(256)] + list(names),
            SpecialTokens(**roles, stop=() if eos is None else (eos,)),
            adds_bos=add_bos and roles.get("bos") is not None,
            chat_template=chat_template,
            identity={"format": "bytes", "names": list(names), "add_eos": add_eos},
        )
        self._adds_eos = add_eos and eos is not None
        self._pattern = (
            re.compile("|".join(re.escape(n) for n in sorted(names, key=len, reverse=True)))
            if names
            else None
        )
        pieces = [bytes([value]) for value in range(256)] + [name.encode("utf-8") for name in names]
        self._decoder = ByteDecoder(pieces, frozenset(range(256, len(pieces))))

    def encode(self, text: str, *, add_special_tokens: bool = False, parse_special: bool = True) -> list[int]:
        """Bytes of ``text``. Raises TokenizerError for lone surrogates."""
        ids, _ = self._encode(checked_text(text), parse_special)
        front = [self.special.bos] if add_special_tokens and self.adds_bos else []
        back = [self.special.eos] if add_special_tokens and self._adds_eos else []
        return [token_id for token_id in (*front, *ids, *back) if token_id is not None]

    def encode_batch(
        self, texts: Sequence[str], *, add_special_tokens: bool = False, parse_special: bool = True
    ) -> list[list[int]]:
        """The same as ``encode`` for each."""
        return [
            self.encode(text, add_special_tokens=add_special_tokens, parse_special=parse_special)
            for text in texts
        ]

    def encode_offsets(self, text: str) -> Encoding:
        """Ids, and for each byte the character it belongs to."""
        ids, offsets = self._encode(checked_text(text), True)
        return Encoding(ids=tuple(ids), offsets=tuple(offsets))

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Text of ``ids``. Raises TokenizerError for an unknown id."""
        for token_id in ids:
            if not 0 <= token_id < self.vocab_size:
                raise TokenizerError(f"token id {token_id} is outside the vocabulary of {self.vocab_size}")
        return self._decoder.decode(ids, skip_special_tokens=skip_special_tokens)

    def _encode(self, text: str, parse_special: bool) -> tuple[list[int], list[tuple[int, int]]]:
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []

        def plain(start: int, end: int) -> None:
            for at in range(start, end):
                encoded = text[at].encode("utf-8")
                ids.extend(encoded)
                offsets.extend([(at, at + 1)] * len(encoded))

        at = 0
        if self._pattern is not None and parse_special:
            for match in self._pattern.finditer(text):
                plain(at, match.start())
                ids.append(self._ids[match[0]])
                offsets.append((match.start(), match.end()))
                at = match.end()
        plain(at, len(text))
        return ids, offsets
