"""``llmasos tokenize``: what a model's tokenizer makes of a text."""

from __future__ import annotations

import sys
from typing import Any

import click

from llmasos.api import InputError, command_options


@click.command("tokenize")
@click.argument("model")
@click.argument("text", required=False)
@click.option(
    "--special/--no-special", default=False, help="Add the special tokens (BOS, EOS) the model expects."
)
@click.option("--plain", is_flag=True, help="Take special tokens written in the text as ordinary text.")
@command_options
@click.pass_obj
def tokenize(state: Any, model: str, text: str | None, special: bool, plain: bool) -> None:
    """Show the token ids and pieces of TEXT for MODEL. Without TEXT, or for -, standard input is read."""
    if text in (None, "-"):
        try:
            text = sys.stdin.buffer.read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"standard input is not UTF-8 text (byte {error.start})",
                hint="convert the file to UTF-8 first",
            ) from None
    tokenizer = state.hub.load_tokenizer(model)
    ids = tokenizer.encode(text, add_special_tokens=special, parse_special=not plain)
    pieces = [tokenizer.token(token_id) for token_id in ids]
    value = {
        "model": model,
        "text": text,
        "count": len(ids),
        "ids": ids,
        "pieces": pieces,
        "decoded": tokenizer.decode(ids),
        "vocab_size": tokenizer.vocab_size,
        "digest": tokenizer.digest(),
    }
    rows = [(token_id, piece) for token_id, piece in zip(ids, pieces, strict=True)]
    state.output.emit(value, lambda: f"{state.output.table(('id', 'piece'), rows)}\n{len(ids)} tokens")
