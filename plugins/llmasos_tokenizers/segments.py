"""Long texts piece by piece, so that what many texts begin with is encoded once.

Byte-level BPE first cuts a text into words with a regular expression and then encodes each word by itself. None of the
expressions in use matches a letter together with the space after it, and none looks back. So a text may be cut wherever a
word of small letters is followed by a space and another letter: the ids of the pieces, end to end, are the ids of the whole.
Cuts are made from the left at places that depend only on the text before them, so texts that begin alike have the same
first pieces.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

from tokenizers import Tokenizer as LibraryTokenizer

from llmasos_tokenizers.pretokenizers import split_expressions

#: Characters of a piece, at least.
PIECE = 192
#: Pieces that are remembered. When there are more, all are forgotten.
KEPT = 1 << 15

_CUT = re.compile("(?<=[a-z]) (?=[A-Za-z])")
#: Encoded in both ways before any text is cut.
_SAMPLE = (
    "The quick brown fox, aged 12,345 days, didn't JUMP; he'd rather sleep  until noon.\n\nOr later - who knows?\n"
    "  def f(x): return x**2 # déjà vu, naïve ﬁ 漢字 🙂\t"
)


class Segments:
    """Encodes with a library tokenizer that ``is_divisible``; what ``add_special_tokens`` adds goes around the whole."""

    def __init__(self, runner: LibraryTokenizer) -> None:
        self._runner = runner
        self._known: dict[str, list[int]] = {}
        ids = runner.encode("a", add_special_tokens=False).ids
        whole = runner.encode("a", add_special_tokens=True).ids
        place = next(i for i in range(len(whole)) if whole[i : i + len(ids)] == ids)
        self._around = (whole[:place], whole[place + len(ids) :])

    def encode_batch(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[list[int]]:
        """Ids of each text."""
        divided = [pieces(text) for text in texts]
        known = self._known if len(self._known) < KEPT else {}
        missing = list({piece: None for piece in chain.from_iterable(divided) if piece not in known})
        encodings = self._runner.encode_batch_fast(missing, add_special_tokens=False)
        known.update((piece, encoding.ids) for piece, encoding in zip(missing, encodings, strict=True))
        # Another thread may be doing the same: each goes on with its own dictionary, and the last one stays.
        self._known = known
        front, back = self._around if add_special_tokens else ([], [])
        return [[*front, *chain.from_iterable(map(known.__getitem__, text)), *back] for text in divided]


def pieces(text: str) -> list[str]:
    """``text`` cut into pieces of at least PIECE characters, but for the last."""
    found = []
    begin = 0
    while (match := _CUT.search(text, begin + PIECE)) is not None:
        found.append(text[begin : match.start()])
        begin = match.start()
    found.append(text[begin:])
    return found


def is_long(text: str) -> bool:
    """Whether it is worth while to look for pieces."""
    return len(text) > 2 * PIECE


def is_divisible(runner: LibraryTokenizer) -> bool:
    """Whether the ids of pieces are the ids of the whole: byte-level BPE with known expressions, and nothing that looks
    across words (normalizers, special tokens with spaces, dropout)."""
    model = runner.model
    if type(model).__name__ != "BPE" or model.dropout:
        return False
    if runner.normalizer is not None and _state(runner.normalizer).get("type") != "NFC":
        return False
    if runner.pre_tokenizer is None or not _cuts_words(runner.pre_tokenizer):
        return False
    for token in runner.get_added_tokens_decoder().values():
        if token.lstrip or token.rstrip or token.single_word or re.search("[a-z] ", token.content):
            return False
    alone = runner.encode_batch_fast(pieces(_SAMPLE * 3), add_special_tokens=False)
    whole = runner.encode(_SAMPLE * 3, add_special_tokens=False)
    return list(chain.from_iterable(encoding.ids for encoding in alone)) == whole.ids


def _state(part: Any) -> dict[str, Any]:
    state = json.loads(part.__getstate__())
    return state if isinstance(state, dict) else {}


def _cuts_words(pre_tokenizer: Any) -> bool:
    """Whether a pre-tokenizer is a chain of known steps that together end a word before a space."""
    state = _state(pre_tokenizer)
    for step in state.get("pretokenizers", []) if state.get("type") == "Sequence" else [state]:
        if step.get("type") == "ByteLevel":
            known = not step.get("add_prefix_space")
        elif step.get("type") == "Split":
            isolated = (step.get("behavior"), bool(step.get("invert")))
            known = isolated in {("Isolated", False), ("Removed", True)}
            known = known and step.get("pattern", {}).get("Regex") in split_expressions()
        else:
            known = step.get("type") == "Digits"
        if not known:
            return False
    words = pre_tokenizer.pre_tokenize_str("one two")
    return [offsets for _, offsets in words] == [(0, 3), (3, 7)]
