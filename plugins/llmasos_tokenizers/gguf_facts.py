"""The tokenizer part of a GGUF header, checked before anything is built from it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from llmasos.api import SpecialTokens, TokenizerError
from llmasos_tokenizers.companions import TURN_ENDS

MAX_TOKENS = 1 << 22
MAX_TOKEN_LENGTH = 1 << 16
MAX_TEMPLATE_LENGTH = 1 << 20


class TokenType(IntEnum):
    """Values of ``tokenizer.ggml.token_type``."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


#: Key of each special token's id, and the ids that a model type implies where the file does not say.
SPECIAL_KEYS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "unk": "unknown_token_id",
    "pad": "padding_token_id",
    "cls": "cls_token_id",
    "sep": "seperator_token_id",  # spelt so in the format
    "mask": "mask_token_id",
}
IMPLIED_IDS: dict[str, dict[str, int]] = {
    "llama": {"bos": 1, "eos": 2, "unk": 0},
    "bert": {"cls": 101, "unk": 100, "sep": 102, "pad": 0, "mask": 103},
}


@dataclass(frozen=True, slots=True)
class AddedIds:
    """Entries that are cut out of a text before the algorithm sees it."""

    special: tuple[int, ...]
    literal: tuple[int, ...]


class VocabularyFacts:
    """The tokenizer part of a header, checked."""

    def __init__(self, header: Mapping[str, Any], where: str) -> None:
        self.header = header
        self.where = where
        self.model = self.text("tokenizer.ggml.model") or ""
        if not self.model:
            raise self.error(
                "has no tokenizer (tokenizer.ggml.model is missing)",
                hint="give a directory that holds the file and the model's tokenizer.json",
            )
        self.tokens = self._tokens()
        self.types = self._types()
        self.special = self._special()
        self.chat_template = self.text("tokenizer.chat_template", limit=MAX_TEMPLATE_LENGTH)

    def error(self, message: str, *, hint: str | None = None) -> TokenizerError:
        return TokenizerError(
            f"{self.where}: {message}", hint=hint or "the file is damaged or was converted wrongly"
        )

    def text(self, key: str, *, limit: int = 1024) -> str | None:
        value = self.header.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.error(f"{key} is a {type(value).__name__}, not a string")
        if len(value) > limit:
            raise self.error(f"{key} is {len(value)} characters long, more than {limit}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.header.get(f"tokenizer.ggml.{key}", default)
        if not isinstance(value, bool):
            raise self.error(f"tokenizer.ggml.{key} is {value!r}, not true or false")
        return value

    def token_id(self, key: str) -> int | None:
        value = self.header.get(f"tokenizer.ggml.{key}")
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(self.tokens):
            raise self.error(
                f"tokenizer.ggml.{key} is {value!r}, outside the vocabulary of {len(self.tokens)}"
            )
        return value

    def array(self, key: str, kind: type | tuple[type, ...], length: int | None = None) -> list[Any] | None:
        values = self.header.get(f"tokenizer.ggml.{key}")
        if values is None:
            return None
        if isinstance(values, str | bytes) or not isinstance(values, Sequence):
            raise self.error(f"tokenizer.ggml.{key} is a {type(values).__name__}, not an array")
        if len(values) > MAX_TOKENS:
            raise self.error(f"tokenizer.ggml.{key} has {len(values)} entries, more than {MAX_TOKENS}")
        if length is not None and len(values) != length:
            raise self.error(f"tokenizer.ggml.{key} has {len(values)} entries for {length} tokens")
        listed = list(values)
        for value in listed:
            if not isinstance(value, kind):
                raise self.error(f"tokenizer.ggml.{key} holds {value!r} where another type is due")
        return listed

    def _tokens(self) -> list[str]:
        tokens: list[str] | None = self.array("tokens", str)
        if not tokens:
            raise self.error("tokenizer.ggml.tokens is missing or empty")
        # An empty entry can never be produced; a name keeps it addressable.
        tokens = [token or f"[EMPTY_{token_id}]" for token_id, token in enumerate(tokens)]
        if len(set(tokens)) != len(tokens):
            seen: dict[str, int] = {}
            for token_id, token in enumerate(tokens):
                if token in seen:
                    raise self.error(f"tokens {seen[token]} and {token_id} are both {token!r}")
                seen[token] = token_id
        longest = max(map(len, tokens))
        if longest > MAX_TOKEN_LENGTH:
            raise self.error(f"a token is {longest} characters long, more than {MAX_TOKEN_LENGTH}")
        return tokens

    def _types(self) -> list[int]:
        types = self.array("token_type", int, len(self.tokens))
        return types if types is not None else [int(TokenType.NORMAL)] * len(self.tokens)

    def _special(self) -> SpecialTokens:
        ids: dict[str, int | None] = {}
        for role, key in SPECIAL_KEYS.items():
            ids[role] = self.token_id(key)
            implied = IMPLIED_IDS.get(self.model, {}).get(role)
            if ids[role] is None and implied is not None and implied < len(self.tokens):
                ids[role] = implied
        stop = [ids["eos"], self.token_id("eot_token_id"), self.token_id("eom_token_id")]
        template = self.text("tokenizer.chat_template", limit=MAX_TEMPLATE_LENGTH) or ""
        index = {token: token_id for token_id, token in enumerate(self.tokens)}
        stop += [index.get(text) for text in TURN_ENDS if text in template]
        return SpecialTokens(
            **ids, stop=tuple(sorted({token_id for token_id in stop if token_id is not None}))
        )

    def ids_of(self, *types: TokenType) -> tuple[int, ...]:
        return tuple(token_id for token_id, kind in enumerate(self.types) if kind in types)

    def added(self) -> AddedIds:
        return AddedIds(
            special=self.ids_of(TokenType.CONTROL, TokenType.UNKNOWN),
            literal=self.ids_of(TokenType.USER_DEFINED),
        )

    def hidden(self) -> frozenset[int]:
        """Ids that ``skip_special_tokens`` leaves out."""
        return frozenset(self.added().special)

    def swallows_space(self) -> frozenset[int]:
        """Special tokens that take the white space after them along. GGUF has no place for this fact, so it is known by
        family: Phi-3 published its special tokens that way, except these."""
        name = f"{self.text('general.name') or ''} {self.text('general.architecture') or ''}".lower()
        if "phi-3" not in name and "phi3" not in name:
            return frozenset()
        added = self.added()
        return frozenset(
            token_id
            for token_id in added.special + added.literal
            if self.tokens[token_id] not in ("<unk>", "<s>", "<|endoftext|>")
        )

    def byte_value(self, token_id: int) -> int:
        match = re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", self.tokens[token_id])
        if match is None:
            raise self.error(f"token {token_id} is of the byte type but reads {self.tokens[token_id]!r}")
        return int(match[1], 16)

    def byte_ids(self) -> list[int] | None:
        """The ids of the 256 byte values, or None when the vocabulary does not have them all."""
        found = {self.byte_value(token_id): token_id for token_id in self.ids_of(TokenType.BYTE)}
        return [found[value] for value in range(256)] if len(found) == 256 else None

    def require(self, role: str, reason: str) -> int:
        token_id = getattr(self.special, role)
        if token_id is None:
            raise self.error(f"{reason}, but the file names no {role} token")
        return int(token_id)

    def identity(self, **rules: Any) -> dict[str, Any]:
        """What decides the encoding, for the digest: long lists by their own digest."""
        lists: dict[str, list[Any]] = {"tokens": self.tokens, "types": self.types}
        lists.update((key, value) for key, value in rules.items() if isinstance(value, list))
        short = {key: value for key, value in rules.items() if not isinstance(value, list)}
        return {
            "format": "gguf",
            "model": self.model,
            **short,
            **{key: _list_digest(v) for key, v in lists.items()},
        }


def _list_digest(values: Iterable[Any]) -> str:
    text = json.dumps(list(values), ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()
