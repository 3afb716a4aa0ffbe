"""A vocabulary that cannot produce its special tokens, for text that must stay text.

The library can be told not to look for special tokens, but most vocabularies also hold them as ordinary entries: a
Unigram model finds ``</s>`` by searching, a merge list converted from SentencePiece joins it, and a word that equals an
entry may skip the merges. So the entries themselves are taken away. Ids do not change.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from typing import Any


def without_special(spec: Mapping[str, Any], special: Collection[str]) -> dict[str, Any]:
    """The parsed tokenizer.json without the entries ``special``; the unknown token stays, as the algorithms need it.

    Tokens that stay added become entries of the model under their own ids, because the library numbers others anew.
    """
    model = dict(spec["model"])
    vocabulary = model.get("vocab")
    added = [token for token in spec.get("added_tokens") or () if token["content"] not in special]
    if isinstance(vocabulary, list):
        model["vocab"] = _pieces(vocabulary, model.get("unk_id"), added, special)
    elif isinstance(vocabulary, dict):
        gone = {text for text in special if text in vocabulary and text != model.get("unk_token")}
        model["vocab"] = {text: token_id for text, token_id in vocabulary.items() if text not in gone}
        model["vocab"].update((token["content"], token["id"]) for token in added)
        if "merges" in model:
            prefix = model.get("continuing_subword_prefix") or ""
            model["merges"] = merges_without(model["merges"], gone, prefix)
    return {**spec, "model": model, "added_tokens": added}


def _pieces(
    vocabulary: list[Any], unknown: int | None, added: list[Any], special: Collection[str]
) -> list[tuple[str, float]]:
    """Unigram pieces, numbered by place: one that must go gets a text that no input can hold, because nobody can guess
    it."""
    pieces = [(text, score) for text, score in vocabulary]
    lowest = min((score for _, score in pieces), default=0.0)
    later = {token["id"]: token["content"] for token in added if token["id"] >= len(pieces)}
    pieces += [(later.get(place, ""), lowest) for place in range(len(pieces), max(later, default=-1) + 1)]
    return [
        (_unguessable(), score) if not text or (text in special and place != unknown) else (text, score)
        for place, (text, score) in enumerate(pieces)
    ]


def _unguessable() -> str:
    return f"\U0010ffff{secrets.token_hex(16)}"


def merges_without(merges: list[Any], gone: Collection[str], prefix: str = "") -> list[Any]:
    """The merges (``"left right"`` or pairs) that neither use nor make an entry of ``gone``."""
    if not gone:
        return merges
    kept = []
    for merge in merges:
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        if left not in gone and right not in gone and left + right.removeprefix(prefix) not in gone:
            kept.append(merge)
    return kept
