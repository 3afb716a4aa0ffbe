"""``tokenizer.json`` through the ``tokenizers`` library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as LibraryTokenizer

from llmasos.api import Checkpoint, Tokenizer, TokenizerError
from llmasos_tokenizers.companions import Companions, read_json
from llmasos_tokenizers.library import CompiledTokenizer, library_errors
from llmasos_tokenizers.safety import check


class HfJsonFormat:
    """The ``hf-json`` contribution."""

    def accepts(self, path: Path) -> bool:
        """A directory with a tokenizer.json, or such a file."""
        return _file(path).is_file() and _file(path).name == "tokenizer.json"

    def open(self, path: Path, checkpoint: Checkpoint | None = None) -> Tokenizer:
        """Check and load the file, with the special tokens and the chat template of the files beside it.

        Truncation and padding that the file switches on are switched off: the pipeline decides about lengths. As in
        ``transformers``, ``add_bos_token`` and ``add_eos_token`` of tokenizer_config.json win over the file's own rule.
        Raises TokenizerError.
        """
        file = _file(path)
        spec = check(read_json(file), str(file))
        spec = {**spec, "padding": None, "truncation": None}
        return _Opening(file, spec, Companions.read(file.parent)).tokenizer()


def _file(path: Path) -> Path:
    return path / "tokenizer.json" if path.is_dir() else path


class _Opening:
    def __init__(self, file: Path, spec: dict[str, Any], companions: Companions) -> None:
        self._file = file
        self._text = json.dumps(spec)
        self._spec = spec
        self._companions = companions
        self._roles = companions.role_tokens()

    def tokenizer(self) -> Tokenizer:
        with library_errors(f"reading {self._file}"):
            first = self._library()
            vocabulary: dict[str, int] = first.get_vocab(with_added_tokens=True)
        tokens: list[str | None] = [None] * (max(vocabulary.values()) + 1)
        for token, token_id in vocabulary.items():
            tokens[token_id] = token
        special = self._companions.special(vocabulary.get, len(tokens))
        with library_errors("encoding"):
            front = first.encode("", add_special_tokens=True).ids[:1]
        return CompiledTokenizer(
            self._library,
            tokens,
            special,
            adds_bos=special.bos is not None and front == [special.bos],
            chat_template=self._companions.chat_template(),
            identity={"format": "tokenizer.json", "file": self._spec, "around": self._around_names()},
        )

    def _around_names(self) -> list[str] | None:
        """Roles put around a text by tokenizer_config.json; None leaves it to the file."""
        flags = {role: self._companions.flag(f"add_{role}_token") for role in ("bos", "eos")}
        if all(flag is None for flag in flags.values()):
            return None
        return [role for role in ("bos", "eos") if flags[role] and role in self._roles]

    def _library(self) -> LibraryTokenizer:
        made = LibraryTokenizer.from_str(self._text)
        known = {token.content for token in made.get_added_tokens_decoder().values() if token.special}
        missing = [
            text for text in self._roles.values() if text not in known and made.token_to_id(text) is not None
        ]
        # Only texts that are already entries: a new entry would have no row in the model's embedding.
        made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in missing])
        around = self._around_names()
        if around is not None:
            made.post_processor = self._around(made, around)
        return made

    def _around(self, made: LibraryTokenizer, roles: list[str]) -> processors.TemplateProcessing:
        named = []
        for role in roles:
            token_id = made.token_to_id(self._roles[role])
            if token_id is None:
                raise TokenizerError(
                    f"{self._file}: the {role} token {self._roles[role]!r} is to be added but is not in the vocabulary",
                    hint="tokenizer.json and tokenizer_config.json belong to different models, or one is damaged",
                )
            named.append((role, token_id))
        single = " ".join((["bos"] if "bos" in roles else []) + ["$A"] + (["eos"] if "eos" in roles else []))
        return processors.TemplateProcessing(single=single, pair=None, special_tokens=named)
