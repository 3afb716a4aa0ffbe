"""What this plugin offers. Importing this module costs nothing: factories are named, not imported."""

from __future__ import annotations

from collections.abc import Iterator

from llmasos.api import CommandDef, TokenizerDef, hookimpl


@hookimpl
def llmasos_tokenizers() -> Iterator[TokenizerDef]:
    """Formats; a directory with several kinds of tokenizer file is opened by the most exact one."""
    yield TokenizerDef(name="hf-json", factory="llmasos_tokenizers.hf_json:HfJsonFormat", priority=30)
    yield TokenizerDef(name="gguf", factory="llmasos_tokenizers.gguf:GgufFormat", priority=20)
    yield TokenizerDef(name="wordpiece", factory="llmasos_tokenizers.wordpiece:WordPieceFormat", priority=10)
    yield TokenizerDef(name="bytes", factory="llmasos_tokenizers.byte_values:ByteFormat", priority=5)


@hookimpl
def llmasos_commands() -> Iterator[CommandDef]:
    """``llmasos tokenize MODEL [TEXT]``."""
    yield CommandDef(name="tokenize", factory="llmasos_tokenizers.command:tokenize")
