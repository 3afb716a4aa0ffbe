"""``tokenizer.json`` through the ``tokenizers`` library."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as LibraryTokenizer

from llmasos.api import Checkpoint, Tokenizer
from llmasos_tokenizers.companions import Companions, read_json
from llmasos_tokenizers.library import CompiledTokenizer, library_errors
from llmasos_tokenizers.literal import without_special
from llmasos_tokenizers.safety import check


class HfJsonFormat:
    """The ``hf-json`` contribution."""

    def accepts(self, path: Path) -> bool:
        """A directory with a tokenizer.json, or such a file."""
        return _file(path).is_file() and _file(path).name == "tokenizer.json"

    def open(self, path: Path, checkpoint: Checkpoint | None = None) -> Tokenizer:
        """Check and load the file, with the special tokens and the chat template of the files beside it.

        Truncation and padding that the file switches on are switched off: the pipeline decides about lengths. What is put
        around a text (BOS, EOS) is the file's own rule; ``add_bos_token`` of tokenizer_config.json has no say, as in
        ``transformers``. Raises TokenizerError.
        """
        file = _file(path)
        spec = check(read_json(file), str(file))
        return _Opening(file, spec, Companions.read(file.parent)).tokenizer()


def _file(path: Path) -> Path:
    return path / "tokenizer.json" if path.is_dir() else path


class _Opening:
    def __init__(self, file: Path, spec: dict[str, Any], companions: Companions) -> None:
        self._file = file
        without = {**spec, "padding": None, "truncation": None}
        # Text takes an eighth of the memory; it is parsed again when special tokens must stay text for the first time.
        self._text = json.dumps(without)
        self._companions = companions
        self._roles = companions.role_tokens()
        # A file that pads names its padding token; without another word about it, that is the one.
        padding = spec.get("padding")
        if (
            "pad" not in self._roles
            and isinstance(padding, dict)
            and isinstance(padding.get("pad_token"), str)
        ):
            self._roles["pad"] = padding["pad_token"]
        self._spec: dict[str, Any] | None = without

    def tokenizer(self) -> Tokenizer:
        """The tokenizer; asked for once."""
        with library_errors(f"reading {self._file}"):
            vocabulary: dict[str, int] = self._parsing.get_vocab(with_added_tokens=True)
            front = self._parsing.encode("", add_special_tokens=True).ids[:1]
        tokens: list[str | None] = [None] * (max(vocabulary.values()) + 1)
        for token, token_id in vocabulary.items():
            tokens[token_id] = token
        special = self._companions.special(self._roles, vocabulary.get, len(tokens))
        made = CompiledTokenizer(
            self._library,
            tokens,
            special,
            adds_bos=special.bos is not None and front == [special.bos],
            chat_template=self._companions.chat_template(),
            identity={
                "format": "tokenizer.json",
                "file": self._spec,
                "special_texts": sorted(self._special_texts),
            },
        )
        made.chat_templates = self._companions.chat_templates()
        self._spec = None
        return made

    def _library(self, *, parse_special: bool) -> LibraryTokenizer:
        if parse_special:
            return self._parsing
        spec = json.loads(self._text)
        names = {token["content"] for token in spec.get("added_tokens") or () if token.get("special")}
        return LibraryTokenizer.from_str(json.dumps(without_special(spec, names | self._special_texts)))

    @cached_property
    def _parsing(self) -> LibraryTokenizer:
        made = LibraryTokenizer.from_str(self._text)
        known = {token.content for token in made.get_added_tokens_decoder().values() if token.special}
        # Only texts that are already entries: a new entry would have no row in the model's embedding.
        missing = sorted(text for text in self._special_texts - known if made.token_to_id(text) is not None)
        made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in missing])
        return made

    @cached_property
    def _special_texts(self) -> set[str]:
        """Texts that the companions declare special, beyond what the file itself says."""
        return {*self._roles.values(), *self._companions.extra_special()}
