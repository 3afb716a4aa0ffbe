"""From text files to a model repository: weights, vocabulary, ``llmasos.toml`` and a card."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmasos.api import InputError, Progress, UsageError
from llmasos_ngram.estimate import Table, estimate
from llmasos_ngram.weights import write_table
from llmasos_ngram.words import WordTokenizer, choose_words, count_words, write_words

WEIGHTS = "model.ngram"
REQUIRES = "llmasos-ngram>=0.1,<1"
ARCHITECTURE = "llmasos-ngram/kneser-ney"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the user chose. ``vocabulary`` is the most words to know, each seen ``least_count`` times at least."""

    order: int = 4
    vocabulary: int = 50_000
    least_count: int = 2
    by_line: bool = False
    max_length: int = 32_768
    license: str = "other"


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of it."""

    folder: Path
    texts: int
    tokens: int
    vocab_size: int
    ngrams: tuple[int, ...]
    bytes: int


def train(files: Sequence[Path], folder: Path, recipe: Recipe, progress: Progress) -> Trained:
    """Train on ``files`` and write ``folder``, whole or not at all.

    Raises UsageError when the folder exists, InputError for files that cannot be read as UTF-8 or hold no text.
    """
    if folder.exists():
        raise UsageError(f"{folder} exists", hint="choose another folder, or remove this one first")
    progress.phase("reading", len(files))
    texts = [text for file in files for text in _texts(file, recipe.by_line, progress.advance)]
    if not texts:
        raise InputError("there is no text to train on", hint="name files that hold text")
    progress.phase("choosing words")
    words = choose_words(count_words(texts), most=recipe.vocabulary, least_count=recipe.least_count)
    tokenizer = WordTokenizer(words)
    progress.phase("tokenizing", len(texts))
    ids = []
    for text in texts:
        ids.append(tokenizer.encode(text, parse_special=False))
        progress.advance()
    progress.phase("counting n-grams", 2 * recipe.order - 1)
    table = estimate(ids, order=recipe.order, vocab_size=tokenizer.vocab_size, step=progress.advance)
    tokens = sum(map(len, ids))
    _write(folder, table, words, recipe, _card(recipe, folder.name, len(texts), tokens, table))
    return Trained(
        folder,
        len(texts),
        tokens,
        tokenizer.vocab_size,
        tuple(len(level.token) for level in table.levels),
        (folder / WEIGHTS).stat().st_size,
    )


def _texts(file: Path, by_line: bool, advance: Callable[[], None]) -> list[str]:
    try:
        text = file.read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}", hint="name files that hold text") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text (byte {error.start})", hint="convert it first") from None
    advance()
    return [part for part in (text.split("\n") if by_line else [text]) if part.strip()]


def _write(folder: Path, table: Table, words: Sequence[str], recipe: Recipe, card: str) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write_table(made / WEIGHTS, table, max_length=recipe.max_length)
        write_words(made, words)
        lines = [
            "manifest = 1",
            f"requires = {json.dumps([REQUIRES])}",
            f"architecture = {json.dumps(ARCHITECTURE)}",
        ]
        (made / "llmasos.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (made / "README.md").write_text(card, encoding="utf-8")
        made.chmod(0o755)
        os.rename(made, folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _card(recipe: Recipe, name: str, texts: int, tokens: int, table: Table) -> str:
    rows = "\n".join(
        f"| {k} | {len(level.token):,} | {', '.join(f'{value:.3f}' for value in discounts)} |"
        for k, (level, discounts) in enumerate(zip(table.levels, table.discounts, strict=True), 1)
    )
    return f"""---
license: {json.dumps(recipe.license)}
library_name: llmasos
pipeline_tag: text-generation
tags:
- llmasos
- n-gram
---

# {name}

An n-gram language model of order {recipe.order} with interpolated modified Kneser-Ney smoothing (Chen & Goodman 1998), trained by
`llmasos ngram train` on {texts:,} texts with {tokens:,} tokens. Its vocabulary has {table.vocab_size:,} entries: words, and bytes for
all other words.

| order | n-grams | discounts of counts 1, 2, 3 and more |
|---|---|---|
{rows}

## Use

The model needs the plugin `llmasos-ngram`, which its `llmasos.toml` names:

```console
llmasos install '{REQUIRES}'
llmasos eval MODEL quickstart_prose
llmasos generate MODEL "It was a" --temperature 1
```

## Limits

It knows the {recipe.order - 1} tokens in front of the one it predicts and nothing else. It is a baseline: what a larger model does not do
better than this, it has not learned.
"""
