"""Tokenizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from llmasos.contracts.base import Contribution

if TYPE_CHECKING:
    from llmasos.contracts.model import Checkpoint


@dataclass(frozen=True, slots=True)
class Encoding:
    """Token ids and, for each, the half-open range of characters of the input that it covers."""

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Ids of the tokens with a role; None where the vocabulary has no such token."""

    bos: int | None = None
    eos: int | None = None
    unk: int | None = None
    pad: int | None = None
    cls: int | None = None
    sep: int | None = None
    mask: int | None = None
    #: Every token that may end a generation (``eos`` and, for chat models, the end of a turn).
    stop: tuple[int, ...] = ()


class Tokenizer(Protocol):
    """Text to ids and back. Deterministic and safe to share between threads."""

    vocab_size: int
    special: SpecialTokens
    #: Whether ``encode(..., add_special_tokens=True)`` puts the BOS token in front.
    adds_bos: bool
    #: Jinja source of the chat template, if the model has one.
    chat_template: str | None

    def encode(self, text: str, *, add_special_tokens: bool = False, parse_special: bool = True) -> list[int]:
        """Ids of ``text``. With ``parse_special`` False, text that looks like a special token stays text."""

    def encode_batch(
        self, texts: Sequence[str], *, add_special_tokens: bool = False, parse_special: bool = True
    ) -> list[list[int]]:
        """The same as ``encode`` for each, faster."""

    def encode_offsets(self, text: str) -> Encoding:
        """Ids without special tokens, and the characters each covers."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Text of ``ids``; bytes that are not valid UTF-8 become U+FFFD."""

    def token(self, token_id: int) -> str:
        """The vocabulary entry as stored. Raises IndexError outside the vocabulary."""

    def token_id(self, token: str) -> int | None:
        """The id of a vocabulary entry, or None."""

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, object] | None = None,
    ) -> str:
        """Render role/content messages with the model's template, in a sandbox.

        Raises TokenizerError when the model has no template or the template is refused.
        """

    def digest(self) -> str:
        """sha256 over everything that decides ``encode`` and ``decode``: the same for the same tokenizer."""


@runtime_checkable
class NamedChatTemplates(Protocol):
    """What a tokenizer has besides when its model comes with several chat templates."""

    #: Jinja sources by name; ``default`` is the one in ``chat_template``.
    chat_templates: Mapping[str, str]

    def with_chat_template(self, name: str) -> Tokenizer:
        """The same tokenizer with another template. Raises KeyError for a name that is not among them."""


class TokenizerFormat(Protocol):
    """Factory object of a TokenizerDef contribution."""

    def accepts(self, path: Path) -> bool:
        """Whether this model directory or file holds a tokenizer of this format, judged by names and magic bytes."""

    def open(self, path: Path, checkpoint: Checkpoint | None = None) -> Tokenizer:
        """Build the tokenizer. Raises TokenizerError on anything malformed.

        ``checkpoint`` is the open weight file when there is one; formats that live inside it (GGUF) read its ``header``.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerDef(Contribution):
    """A tokenizer format. ``priority`` orders formats that accept the same directory (higher first)."""

    kind: ClassVar[str] = "tokenizer"

    priority: int = 0
