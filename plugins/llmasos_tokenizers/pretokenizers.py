"""The table of word-splitting rules that GGUF files name (``pretokenizers.toml``)."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

from llmasos.api import TokenizerError


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """How a byte-level BPE vocabulary cuts text into words; the fields are explained in ``pretokenizers.toml``."""

    names: tuple[str, ...]
    split: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False
    encoding: Literal["bytes", "metaspace"] = "bytes"
    golden: bool = False


@cache
def _rules() -> dict[str, PreTokenizer]:
    text = resources.files("llmasos_tokenizers").joinpath("pretokenizers.toml").read_text(encoding="utf-8")
    rules: dict[str, PreTokenizer] = {}
    for entry in tomllib.loads(text)["rule"]:
        rule = PreTokenizer(**{**entry, "names": tuple(entry["names"]), "split": tuple(entry["split"])})
        for name in rule.names:
            if name in rules:
                raise ValueError(f"pretokenizers.toml names {name!r} twice")
            rules[name] = rule
    return rules


@cache
def split_expressions() -> frozenset[str]:
    """The regular expressions of all byte-level rules that do not look back: none matches a letter and a space after it."""
    return frozenset(
        expression
        for rule in _rules().values()
        if rule.encoding == "bytes"
        for expression in rule.split
        if "(?<" not in expression
    )


def pretokenizer_names() -> list[str]:
    """All names, sorted."""
    return sorted(_rules())


def pretokenizer(name: str) -> PreTokenizer:
    """The rule a GGUF file names. Raises TokenizerError with near misses for an unknown name."""
    rule = _rules().get(name)
    if rule is None:
        near = difflib.get_close_matches(name, pretokenizer_names(), n=3)
        raise TokenizerError(
            f"the file wants the pre-tokenizer rule {name!r}, which is not known",
            hint=("near misses: " + ", ".join(near) + "; " if near else "")
            + "a directory with the file and the model's tokenizer.json needs no rule",
        )
    return rule
