"""BERT's ``vocab.txt``: one piece a line, continuations marked with ``##`` (Devlin et al. 2019; Wu et al. 2016)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as LibraryTokenizer

from llmasos.api import Checkpoint, SpecialTokens, Tokenizer, TokenizerError
from llmasos_tokenizers.companions import Companions
from llmasos_tokenizers.library import CompiledTokenizer

MAX_BYTES = 1 << 26
DEFAULTS = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}


class WordPieceFormat:
    """The ``wordpiece`` contribution."""

    def accepts(self, path: Path) -> bool:
        """A directory with a vocab.txt, or such a file."""
        return _file(path).is_file() and _file(path).name == "vocab.txt"

    def open(self, path: Path, checkpoint: Checkpoint | None = None) -> Tokenizer:
        """Build BERT's tokenizer. Lower-casing is on unless tokenizer_config.json says ``do_lower_case: false``, as in
        ``transformers``; ``strip_accents`` follows it unless set. Raises TokenizerError."""
        file = _file(path)
        vocabulary = _read(file)
        companions = Companions.read(file.parent)
        named = {
            **DEFAULTS,
            **{role: text for role, text in companions.role_tokens().items() if text in vocabulary},
        }
        ids = {role: vocabulary.get(text) for role, text in named.items()}
        if ids["unk"] is None:
            raise TokenizerError(
                f"{file} has no unknown token {named['unk']!r}",
                hint="name the file's own unknown token as unk_token in tokenizer_config.json",
            )
        lowercase = companions.flag("do_lower_case")
        lowercase = True if lowercase is None else lowercase
        rules: dict[str, Any] = {
            "clean_text": True,
            "handle_chinese_chars": companions.flag("tokenize_chinese_chars") is not False,
            "strip_accents": companions.flag("strip_accents"),
            "lowercase": lowercase,
        }
        around = [(role, ids[role]) for role in ("cls", "sep")]

        def build(*, parse_special: bool) -> LibraryTokenizer:
            gone = set() if parse_special else set(named.values()) - {named["unk"]}
            entries = {piece: token_id for piece, token_id in vocabulary.items() if piece not in gone}
            made = LibraryTokenizer(models.WordPiece(vocab=entries, unk_token=named["unk"]))
            made.normalizer = normalizers.BertNormalizer(**rules)
            made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
            made.decoder = decoders.WordPiece(prefix="##")
            if all(token_id is not None for _, token_id in around):
                made.post_processor = processors.TemplateProcessing(
                    single="cls $A sep", pair="cls $A sep $B:1 sep:1", special_tokens=around
                )
            made.add_special_tokens(
                [
                    AddedToken(named[role], special=True, normalized=False)
                    for role in named
                    if ids[role] is not None
                ]
            )
            return made

        tokens: list[str | None] = [None] * len(vocabulary)
        for token, token_id in vocabulary.items():
            tokens[token_id] = token
        special = SpecialTokens(**ids, stop=())
        return CompiledTokenizer(
            build,
            tokens,
            special,
            adds_bos=False,
            chat_template=companions.chat_template(),
            identity={"format": "vocab.txt", "tokens": tokens, **rules},
        )


def _file(path: Path) -> Path:
    return path / "vocab.txt" if path.is_dir() else path


def _read(file: Path) -> dict[str, int]:
    """Pieces and their line numbers. Raises TokenizerError for an unreadable file or a piece that is there twice."""
    try:
        if file.stat().st_size > MAX_BYTES:
            raise TokenizerError(f"{file} is larger than {MAX_BYTES} bytes", hint="it is not a vocabulary")
        text = file.read_bytes().decode("utf-8")
    except OSError as error:
        raise TokenizerError(
            f"{file} cannot be read: {error.strerror}", hint="check the path and its permissions"
        ) from None
    except UnicodeDecodeError as error:
        raise TokenizerError(
            f"{file} is not UTF-8 text (byte {error.start})", hint="download the file again"
        ) from None
    lines = text.removesuffix("\n").split("\n")
    vocabulary: dict[str, int] = {}
    for number, line in enumerate(lines):
        piece = line.removesuffix("\r")
        if piece in vocabulary:
            raise TokenizerError(
                f"{file}: lines {vocabulary[piece] + 1} and {number + 1} are both {piece!r}",
                hint="a vocabulary names each piece once",
            )
        vocabulary[piece] = number
    return vocabulary
