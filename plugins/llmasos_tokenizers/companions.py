"""The files beside a tokenizer: special tokens, end-of-text ids and the chat template."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmasos.api import SpecialTokens, TokenizerError
from llmasos_tokenizers.base import ROLES

MAX_JSON = 1 << 28
MAX_TEMPLATE = 1 << 20
#: Named templates that are read; no model has more than a handful.
MAX_TEMPLATES = 64

#: Special tokens a tokenizer class has where the files do not name them.
CLASS_DEFAULTS: dict[str, dict[str, str]] = {
    "BertTokenizer": {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"},
    "GPT2Tokenizer": {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>"},
    "LlamaTokenizer": {"bos": "<s>", "eos": "</s>", "unk": "<unk>"},
    "T5Tokenizer": {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"},
}
#: Tokens that end a turn in chat formats; they end a generation when the model's own chat template writes them.
TURN_ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|end|>",
    "<end_of_turn>",
    "<turn|>",
    "<|end_of_turn|>",
    "<|END_OF_TURN_TOKEN|>",
    "<end_of_utterance>",
    "[EOT]",
)


def read_json(path: Path) -> Any:
    """A JSON file. Raises TokenizerError when it cannot be read, is too large, too deep or not JSON."""
    try:
        size = path.stat().st_size
        if size > MAX_JSON:
            raise TokenizerError(
                f"{path} is {size} bytes, more than {MAX_JSON}", hint="it is not a tokenizer file"
            )
        return json.loads(path.read_bytes())
    except OSError as error:
        raise TokenizerError(
            f"{path} cannot be read: {error.strerror}", hint="check the path and its permissions"
        ) from None
    except (ValueError, RecursionError) as error:
        raise TokenizerError(
            f"{path} is not valid JSON: {type(error).__name__}: {error}",
            hint="download or export the file again",
        ) from None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one when there is no such file. Raises TokenizerError as ``read_json`` does."""
    if not path.is_file():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise TokenizerError(
            f"{path} holds a {type(value).__name__}, not an object", hint="download or export it again"
        )
    return value


def _template_text(path: Path) -> str:
    if path.stat().st_size > MAX_TEMPLATE:
        raise TokenizerError(f"{path} is larger than {MAX_TEMPLATE} bytes", hint="it is not a chat template")
    try:
        return path.read_text(encoding="utf-8")
    except ValueError:
        raise TokenizerError(f"{path} is not UTF-8 text", hint="download the file again") from None


@dataclass(frozen=True, slots=True)
class Companions:
    """What the files of a model directory say about its tokenizer."""

    directory: Path
    config: Mapping[str, Any]
    tokens_map: Mapping[str, Any]
    model: Mapping[str, Any]
    generation: Mapping[str, Any]

    @classmethod
    def read(cls, directory: Path) -> Companions:
        """Read tokenizer_config.json, special_tokens_map.json, config.json and generation_config.json where present."""
        return cls(
            directory=directory,
            config=read_object(directory / "tokenizer_config.json"),
            tokens_map=read_object(directory / "special_tokens_map.json"),
            model=read_object(directory / "config.json"),
            generation=read_object(directory / "generation_config.json"),
        )

    @property
    def tokenizer_class(self) -> str:
        """The tokenizer class of transformers, without the suffix of the compiled ones."""
        name = self.config.get("tokenizer_class") or self.model.get("tokenizer_class") or ""
        return str(name).removesuffix("Fast")

    def flag(self, key: str) -> bool | None:
        """A yes-or-no setting of tokenizer_config.json, None where it is not set. Raises TokenizerError for other types."""
        value = self.config.get(key)
        if value is not None and not isinstance(value, bool):
            raise TokenizerError(
                f"{self.directory / 'tokenizer_config.json'}: {key} is {value!r}, not true or false",
                hint="correct the file",
            )
        return value

    def chat_template(self) -> str | None:
        """The template: chat_template.jinja where there is one, else the one in tokenizer_config.json ("default" of
        several). Raises TokenizerError for a template of a wrong type or size."""
        path = self.directory / "chat_template.jinja"
        if path.is_file():
            return _template_text(path)
        value = self.config.get("chat_template")
        if isinstance(value, list):
            named = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)}
            value = named.get("default")
        if value is not None and not isinstance(value, str):
            raise TokenizerError(
                f"{self.directory / 'tokenizer_config.json'}: chat_template is a {type(value).__name__}",
                hint="it must be a text, or a list of named texts",
            )
        return value

    def chat_templates(self) -> dict[str, str]:
        """Templates by name where there are several: ``additional_chat_templates/NAME.jinja``, else the list in
        tokenizer_config.json. Raises TokenizerError for a template of a wrong type or size."""
        named: dict[str, str] = {}
        listed = self.config.get("chat_template")
        for entry in listed if isinstance(listed, list) else ():
            if not isinstance(entry, dict) or not all(
                isinstance(entry.get(key), str) for key in ("name", "template")
            ):
                raise TokenizerError(
                    f"{self.directory / 'tokenizer_config.json'}: an entry of chat_template has no name or no text",
                    hint="it must be a text, or a list of named texts",
                )
            named[entry["name"]] = entry["template"]
        folder = self.directory / "additional_chat_templates"
        for path in sorted(folder.glob("*.jinja"))[:MAX_TEMPLATES] if folder.is_dir() else ():
            named[path.stem] = _template_text(path)
        default = self.chat_template()
        return {"default": default, **named} if named and default is not None else named

    def role_tokens(self) -> dict[str, str]:
        """The text of each special token that the files name."""
        named: dict[str, str] = {}
        for role in ROLES:
            for source in (self.config, self.tokens_map):
                if f"{role}_token" in source:
                    value = source[f"{role}_token"]
                    if isinstance(value, dict):
                        value = value.get("content")
                    if value is not None:
                        named[role] = str(value)
                    break
            else:
                default = CLASS_DEFAULTS.get(self.tokenizer_class, {}).get(role)
                if default is not None:
                    named[role] = default
        return named

    def extra_special(self) -> set[str]:
        """Texts of the special tokens without a role that tokenizer_config.json and special_tokens_map.json list."""
        found: set[str] = set()
        for source in (self.config, self.tokens_map):
            for key in ("additional_special_tokens", "extra_special_tokens"):
                listed = source.get(key)
                for entry in listed.values() if isinstance(listed, dict) else listed or ():
                    text = entry.get("content") if isinstance(entry, dict) else entry
                    if isinstance(text, str) and text:
                        found.add(text)
        return found

    def special(
        self, roles: Mapping[str, str], token_id: Callable[[str], int | None], vocab_size: int
    ) -> SpecialTokens:
        """Ids of the special tokens with these ``roles``. Without any file that names them, the ids of config.json are used.

        Raises TokenizerError when the files name a BOS or EOS that the vocabulary lacks, or an id outside it.
        """
        ids: dict[str, int | None] = {role: token_id(text) for role, text in roles.items()}
        for role in ("bos", "eos"):
            if role in ids and ids[role] is None and self._names(role):
                raise TokenizerError(
                    f"{self.directory}: the {role} token {roles[role]!r} is not in the vocabulary",
                    hint="tokenizer.json and tokenizer_config.json belong to different models, or one is damaged",
                )
        if not self.config and not self.tokens_map:
            for role in ("bos", "eos", "pad"):
                listed = self._ids(self.model, role, vocab_size)
                if ids.get(role) is None and listed:
                    ids[role] = listed[0]
        stop = {
            ids.get("eos"),
            *self._ids(self.generation, "eos", vocab_size),
            *self._ids(self.model, "eos", vocab_size),
        }
        template = self.chat_template() or ""
        stop |= {token_id(text) for text in TURN_ENDS if text in template}
        return SpecialTokens(**ids, stop=tuple(sorted(value for value in stop if value is not None)))

    def _names(self, role: str) -> bool:
        return f"{role}_token" in self.config or f"{role}_token" in self.tokens_map

    def _ids(self, source: Mapping[str, Any], role: str, vocab_size: int) -> list[int]:
        value = source.get(f"{role}_token_id")
        values = value if isinstance(value, list) else [] if value is None else [value]
        for listed in values:
            if isinstance(listed, bool) or not isinstance(listed, int):
                raise TokenizerError(
                    f"{self.directory}: {role}_token_id is {value!r}", hint="correct the file"
                )
        # Configurations copied from other models are known to name ids their own vocabulary does not have; such an id
        # can never be generated, so it ends nothing.
        return [listed for listed in values if 0 <= listed < vocab_size]
