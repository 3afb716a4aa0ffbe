"""What a tokenizer.json must not do, checked before the library sees it.

The library trusts its input: a file can make it abort the process (a fixed padding of 2^31), run for ever (normalizers
that multiply the text, nested quantifiers) or allocate without bound (ids near 2^32). Each rule here answers one of
those; the numbers leave room for every published tokenizer.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tokenizers import Regex, pre_tokenizers

from llmasos.api import TokenizerError

MAX_PADDING = 1 << 17
MAX_NODES = 64
MAX_EXPANSION = 4
MAX_ENTRIES = 1 << 22
#: Ids may leave holes, but not many more than there are entries.
MAX_HOLES = 1 << 16
MAX_ENTRY_LENGTH = 1 << 16
MAX_REGEX_LENGTH = 20_000
MAX_REPEAT = 1024
MAX_CHARSMAP_TEXT = 256
MODEL_TYPES = ("BPE", "Unigram", "WordLevel", "WordPiece")
STAGES = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


def check(spec: object, where: str) -> dict[str, Any]:
    """The parsed tokenizer.json, if it is harmless. Raises TokenizerError naming the file and the rule."""
    if not isinstance(spec, dict) or not isinstance(spec.get("model"), dict):
        raise _refused(where, "it is not a tokenizer.json: there is no model in it")
    model = spec["model"]
    # Old files leave the type out where the other keys tell it.
    if model.get("type") is not None and model["type"] not in MODEL_TYPES:
        raise _refused(where, f"its model type {model['type']!r} is none of {', '.join(MODEL_TYPES)}")
    if model.get("dropout"):
        raise _refused(
            where, "it drops merges at random (dropout), so the same text would not give the same ids"
        )
    _check_padding(spec.get("padding"), where)
    for stage in STAGES:
        _check_stage(stage, spec.get(stage), where)
    _check_vocabulary(model, spec.get("added_tokens"), where)
    return spec


def _refused(where: str, why: str) -> TokenizerError:
    return TokenizerError(
        f"{where} is refused: {why}",
        hint="no published tokenizer needs this; check where the file comes from, or export it again",
    )


def _check_padding(padding: object, where: str) -> None:
    strategy = padding.get("strategy") if isinstance(padding, dict) else None
    fixed = strategy.get("Fixed") if isinstance(strategy, dict) else None
    if fixed is not None and (not isinstance(fixed, int) or fixed > MAX_PADDING):
        raise _refused(where, f"it pads every text to {fixed!r} tokens, more than {MAX_PADDING}")


def _nodes(stage: object) -> Iterator[dict[str, Any]]:
    """The components of a stage, depth first."""
    pending = [stage]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending.extend(node)
        elif isinstance(node, dict) and "type" in node:
            yield node
            pending.extend(value for value in node.values() if isinstance(value, list))


def _check_stage(stage: str, value: object, where: str) -> None:
    expansion = 1.0
    for count, node in enumerate(_nodes(value), start=1):
        if count > MAX_NODES:
            raise _refused(where, f"its {stage} has more than {MAX_NODES} parts")
        pattern = node.get("pattern")
        if isinstance(pattern, dict) and isinstance(pattern.get("Regex"), str):
            check_regex(pattern["Regex"], where)
        if node["type"] == "Replace":
            expansion *= max(1.0, len(str(node.get("content", ""))) / _shortest_match(pattern))
        elif node["type"] == "Precompiled":
            expansion *= _charsmap_expansion(node.get("precompiled_charsmap"), where)
    if expansion > MAX_EXPANSION:
        raise _refused(
            where, f"its {stage} can make a text {expansion:.0f} times as long, more than {MAX_EXPANSION}"
        )


def _shortest_match(pattern: object) -> int:
    """Fewest characters a Replace pattern takes away; one for a regular expression."""
    return (
        max(1, len(pattern["String"]))
        if isinstance(pattern, dict) and isinstance(pattern.get("String"), str)
        else 1
    )


def _charsmap_expansion(encoded: object, where: str) -> float:
    """SentencePiece's character map holds its replacement texts as NUL-terminated strings after a trie."""
    if encoded is None:
        return 1.0
    try:
        blob = base64.b64decode(str(encoded), validate=True)
    except binascii.Error:
        raise _refused(where, "its precompiled character map is not base64") from None
    trie = int.from_bytes(blob[:4], "little")
    if len(blob) < 4 or trie > len(blob) - 4:
        raise _refused(where, "its precompiled character map is cut short")
    longest = max((len(text) for text in blob[4 + trie :].split(b"\0")), default=0)
    if longest > MAX_CHARSMAP_TEXT:
        raise _refused(where, f"its precompiled character map writes {longest} bytes for one character")
    return 1.0


def _check_vocabulary(model: Mapping[str, Any], added: object, where: str) -> None:
    vocabulary = model.get("vocab")
    entries: list[tuple[object, object]]
    if isinstance(vocabulary, dict):
        entries = list(vocabulary.items())
    elif isinstance(vocabulary, list):  # Unigram: [piece, score], the id is the place
        if any(not isinstance(piece, list) or len(piece) != 2 for piece in vocabulary):
            raise _refused(where, "its vocabulary is not a list of [piece, score]")
        entries = [(piece[0], token_id) for token_id, piece in enumerate(vocabulary)]
    else:
        raise _refused(where, "its vocabulary is missing")
    by_id: dict[int, str] = {}
    _collect(entries, by_id, where)
    if added is not None:
        if not isinstance(added, list) or any(not isinstance(token, dict) for token in added):
            raise _refused(where, "its added_tokens are not a list of tokens")
        contents = [token.get("content") for token in added]
        if len(set(map(str, contents))) != len(contents):
            raise _refused(where, "it adds one token twice")
        _collect([(token.get("content"), token.get("id")) for token in added], by_id, where)
    if not by_id:
        raise _refused(where, "its vocabulary is empty")
    if max(by_id) >= 2 * len(by_id) + MAX_HOLES:
        raise _refused(where, f"its {len(by_id)} tokens have ids up to {max(by_id)}")


def _collect(entries: list[tuple[object, object]], by_id: dict[int, str], where: str) -> None:
    if len(entries) + len(by_id) > MAX_ENTRIES:
        raise _refused(where, f"it has more than {MAX_ENTRIES} tokens")
    for token, token_id in entries:
        if not isinstance(token, str) or len(token) > MAX_ENTRY_LENGTH:
            raise _refused(
                where, f"token {token_id!r} is not a text of at most {MAX_ENTRY_LENGTH} characters"
            )
        if isinstance(token_id, bool) or not isinstance(token_id, int) or token_id < 0:
            raise _refused(where, f"the id of {token!r} is {token_id!r}")
        if by_id.setdefault(token_id, token) != token:
            raise _refused(where, f"{by_id[token_id]!r} and {token!r} have the same id {token_id}")


# ---- regular expressions ----------------------------------------------------------------------------------------------

_PART = re.compile(
    r"""(?P<escape>\\(?:[pPxo]\{[^}]*\}|k<[^>]*>|.))
      | (?P<class>\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*\])
      | (?P<open>\((?:\?(?:<?[=!]|:|>|\#[^)]*|[a-z-]*:|<\w+>|[a-z-]+))?)
      | (?P<close>\))
      | (?P<bar>\|)
      | (?P<repeat>(?:[*+?]|\{\d*,?\d*\})[?+]?)
      | (?P<char>.)""",
    re.VERBOSE | re.DOTALL,
)
#: Short enough for 2^n steps to end at the limit soon, and long enough for counted repeats to be filled.
PROBE_LENGTHS = (32, 200)
#: A text of each kind that patterns of tokenizers tell apart, to try suspicious patterns on.
_PROBES = ("a", "A", "1", " ", "\n", ".", "é", "字", "_", "'s")


def check_regex(pattern: str, where: str) -> None:
    """Refuse a regular expression that can take exponential time.

    Back references and large counted repeats are refused outright. A repeat of something that itself repeats or has
    alternatives may be harmless or not, so it is tried on texts of equal characters: the library gives up after a
    fixed number of steps, which depends on the pattern alone and not on the machine.
    """
    if len(pattern) > MAX_REGEX_LENGTH:
        raise _refused(where, f"a regular expression in it is {len(pattern)} characters long")
    if _is_suspicious(pattern, where):
        literals = {match[0] for match in re.finditer(r"\w", pattern)}
        for probe in (*_PROBES, *sorted(literals)[:64]):
            if not all(_finishes(pattern, probe * length + "\0") for length in PROBE_LENGTHS):
                raise _refused(where, f"the regular expression {pattern[:80]!r} takes exponential time")


def _is_suspicious(pattern: str, where: str) -> bool:
    """Whether a repeat stands after a group that holds a repeat or alternatives."""
    groups: list[bool] = []
    closed: bool | None = None  # whether the group that ended just now can match in many ways
    suspicious = False
    for match in _PART.finditer(pattern):
        kind, text = match.lastgroup, match[0]
        ended, closed = closed, None
        if kind == "open":
            if not text.startswith("(?#"):
                groups.append(False)
        elif kind == "close":
            many = groups.pop() if groups else False
            closed = many
            if many and groups:
                groups[-1] = True
        elif kind == "bar" and groups:
            groups[-1] = True
        elif kind == "repeat":
            bounds = [int(number) for number in re.findall(r"\d+", text)]
            if any(bound > MAX_REPEAT for bound in bounds):
                raise _refused(where, f"a regular expression in it repeats {max(bounds)} times")
            repeats = text[0] in "*+" or (
                text[0] == "{" and (text.rstrip("?+").endswith(",}") or max(bounds, default=1) > 1)
            )
            if repeats and ended:
                suspicious = True
            if groups and (repeats or text[0] == "?"):
                groups[-1] = True
        elif kind == "escape" and (
            (text[1].isdigit() and text[1] != "0") or text.startswith("\\k") or text[1] == "g"
        ):
            raise _refused(where, "a regular expression in it refers back to a group")
    return suspicious


def _finishes(pattern: str, text: str) -> bool:
    try:
        pre_tokenizers.Split(Regex(pattern), behavior="isolated").pre_tokenize_str(text)
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        return False
    return True
