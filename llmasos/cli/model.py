"""``llmasos model``: look at models without loading them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from llmasos.cli.state import State, common_options, pass_state


@click.group()
def command() -> None:
    """Look at models."""


@command.command("info")
@click.argument("model")
@click.option("--tensors", is_flag=True, help="List every tensor with shape, type and size.")
@click.option("--allow-pickle", is_flag=True, help="Read pickle weights (pytorch_model.bin), arrays only.")
@common_options
@pass_state
def info(state: State, model: str, tensors: bool, allow_pickle: bool) -> None:
    """What MODEL is and which plugins would load it. Reads headers, not weights."""
    described = state.hub.describe(model, allow_pickle=allow_pickle)
    state.output.emit(described, lambda: _page(state, described, tensors))


def _page(state: State, described: Mapping[str, Any], tensors: bool) -> str:
    architecture, stored, tokenizer = described["architecture"], described["tensors"], described["tokenizer"]
    rows: list[tuple[str, object]] = [
        ("reference", described["ref"]),
        ("path", described["path"]),
        ("source", described["source"]),
        ("revision", described["revision"]),
        ("licence", described["license"] or "not stated"),
        ("family", f"{architecture['family']} ({architecture['kind']})"),
        ("parameters", f"{architecture['parameters']:,}"),
        ("layers", architecture["layers"]),
        ("width", architecture["width"]),
        ("heads", f"{architecture['heads']} query, {architecture['kv_heads']} key/value"),
        ("vocabulary", f"{architecture['vocab_size']:,}"),
        ("context", f"{architecture['max_length']:,} tokens"),
        ("format", described["format"]),
        ("tensors", f"{stored['count']} ({_size(stored['bytes'])})"),
        ("stored as", ", ".join(f"{count} {name}" for name, count in stored["dtypes"].items())),
        (
            "tokenizer",
            tokenizer.get("error") or f"{tokenizer['format']}, {tokenizer['vocab_size']:,} entries",
        ),
        ("chat template", "none" if tokenizer.get("error") or not tokenizer["chat_template"] else "yes"),
        ("loaded by", described["plugins"]["architecture"]),
        ("weights read by", described["plugins"]["weight_loader"]),
    ]
    lines = [f"{name:<16} {value}" for name, value in rows if value is not None]
    if tensors:
        table = [(t["name"], "x".join(map(str, t["shape"])), t["dtype"], t["bytes"]) for t in stored["list"]]
        lines += ["", state.output.table(("tensor", "shape", "type", "bytes"), table)]
    return "\n".join(lines)


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
