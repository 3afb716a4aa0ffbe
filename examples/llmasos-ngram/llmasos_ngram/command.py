"""``llmasos ngram train``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from llmasos.api import UsageError


@click.group("ngram")
def ngram() -> None:
    """Train n-gram language models."""


@ngram.command("train")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder to make; it must not exist.",
)
@click.option(
    "--order", type=click.IntRange(2, 5), default=4, show_default=True, help="Words looked at together."
)
@click.option(
    "--vocabulary",
    type=click.IntRange(1, 1 << 22),
    default=50_000,
    show_default=True,
    help="Know at most so many words; all others are spelt in bytes.",
)
@click.option(
    "--least-count",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Know words seen so often.",
)
@click.option("--by-line", is_flag=True, help="Each line is a text of its own, not each file.")
@click.option(
    "--license", "license_", default="other", show_default=True, help="SPDX expression for the card."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@click.option("--quiet", "-q", is_flag=True, help="No progress and no notes; warnings and errors stay.")
@click.pass_obj
def train_command(
    state: Any,
    files: tuple[Path, ...],
    output: Path,
    order: int,
    vocabulary: int,
    least_count: int,
    by_line: bool,
    license_: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train on text FILES and write a model repository that `llmasos eval` and `llmasos generate` can use."""
    from llmasos_ngram.train import Recipe, train

    if as_json and quiet:
        raise UsageError("--json and --quiet exclude each other", hint="leave one out")
    if as_json or quiet:
        state.output.mode = "json" if as_json else "quiet"
    recipe = Recipe(
        order=order, vocabulary=vocabulary, least_count=least_count, by_line=by_line, license=license_
    )
    with state.output.progress() as progress:
        trained = train(files, output, recipe, progress)
    state.output.emit(
        asdict(trained),
        f"{trained.folder}: {trained.tokens:,} tokens of {trained.texts:,} texts, vocabulary {trained.vocab_size:,}, "
        f"n-grams of order 1 to {order}: {', '.join(f'{n:,}' for n in trained.ngrams)}, {trained.bytes:,} bytes",
    )
