"""What every tokenizer of this plugin has in common: the vocabulary table, special tokens, templates and the digest."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Self

from llmasos.api import SpecialTokens, TokenizerError
from llmasos_tokenizers.chat import ChatTemplate

ROLES = ("bos", "eos", "unk", "pad", "cls", "sep", "mask")


class Vocabulary:
    """Vocabulary, special tokens, chat template and digest; subclasses encode and decode.

    ``tokens`` is the vocabulary by id, None where an id is not used. ``identity`` is a JSON value that decides what
    ``encode`` and ``decode`` return; the digest is taken over it and over the special tokens.
    """

    def __init__(
        self,
        tokens: Sequence[str | None],
        special: SpecialTokens,
        *,
        adds_bos: bool,
        chat_template: str | None,
        identity: Mapping[str, Any],
    ) -> None:
        self._tokens = tokens
        self.vocab_size = len(tokens)
        self.special = special
        self.adds_bos = adds_bos
        self.chat_template = chat_template
        #: All templates of the model by name, where it has several.
        self.chat_templates: Mapping[str, str] = {}
        # Taken now, for ``identity`` is the whole vocabulary once more, in a larger form.
        self._digest = self._taken_over(identity)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {token: token_id for token_id, token in enumerate(self._tokens) if token is not None}

    @cached_property
    def _template(self) -> ChatTemplate:
        if self.chat_template is None:
            raise TokenizerError(
                "this model has no chat template",
                hint="give the prompt as plain text, without chat formatting",
            )
        return ChatTemplate(self.chat_template)

    def _taken_over(self, identity: Mapping[str, Any]) -> str:
        special = {role: getattr(self.special, role) for role in ROLES}
        whole = {"v": 1, "special": special, "adds_bos": self.adds_bos, **identity}
        text = json.dumps(whole, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    def token(self, token_id: int) -> str:
        """The vocabulary entry as stored. Raises IndexError for an id outside the vocabulary or one it leaves out."""
        if not 0 <= token_id < self.vocab_size:
            raise IndexError(f"token id {token_id} is outside the vocabulary of {self.vocab_size}")
        token = self._tokens[token_id]
        if token is None:
            raise IndexError(f"token id {token_id} is not used by this vocabulary")
        return token

    def token_id(self, token: str) -> int | None:
        """The id of a vocabulary entry, or None."""
        return self._ids.get(token)

    def with_chat_template(self, name: str) -> Self:
        """The same tokenizer with another template. Raises KeyError for a name that is not in ``chat_templates``."""
        other = copy.copy(self)
        other.__dict__.pop("_template", None)
        other.chat_template = self.chat_templates[name]
        return other

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, object] | None = None,
    ) -> str:
        """Render messages with the model's template (see ``llmasos_tokenizers.chat``).

        The template sees ``bos_token``, ``eos_token`` and so on for the special tokens the vocabulary has.
        Raises TokenizerError when there is no template, or when it is refused or fails.
        """
        names: dict[str, object] = {}
        for role in ROLES:
            token_id = getattr(self.special, role)
            if token_id is not None:
                names[f"{role}_token"] = self.token(token_id)
        return self._template.render(
            messages, add_generation_prompt=add_generation_prompt, variables={**names, **(variables or {})}
        )

    def digest(self) -> str:
        """sha256, in hexadecimal, over the rules, the vocabulary and the special tokens (not the chat template)."""
        return self._digest


def checked_text(text: str) -> str:
    """The text itself, if it can be written as UTF-8. Raises TokenizerError for a lone surrogate."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"the text has a lone surrogate U+{ord(text[error.start]):04X} at character {error.start}",
            hint="decode the input with errors='replace', or repair it, before tokenizing",
        ) from None
    return text
