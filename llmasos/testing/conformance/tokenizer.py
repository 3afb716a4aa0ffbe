"""Checks of the ``Tokenizer`` contract."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from llmasos.contracts.tokenizer import Tokenizer
from llmasos.errors import TokenizerError
from llmasos.testing.conformance.check import Observation, broken, check, does_not_apply, kept
from llmasos.testing.conformance.corpus import corpus, plain_corpus


@dataclass(frozen=True, slots=True)
class TokenizerSubject:
    """A tokenizer under test.

    ``lossless`` is False for tokenizers that change text by design (WordPiece lower-cases, some normalise with NFKC):
    they need not give the text back, but doing it twice must change nothing more. ``reopen`` builds the same tokenizer
    again from its files.
    """

    tokenizer: Tokenizer
    lossless: bool = True
    reopen: Callable[[], Tokenizer] | None = None


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 60 else text[:57] + "...")


def _special_ids(tokenizer: Tokenizer) -> list[int]:
    """Ids with a role. A token that is only the unknown token may come out of any text, so it is not one of them."""
    special = tokenizer.special
    roles = [special.bos, special.eos, special.pad, special.cls, special.sep, special.mask, *special.stop]
    return sorted({token for token in roles if token is not None})


@check(
    "tokenizer.round_trip",
    rule="decode(encode(text)) is text; a lossy tokenizer reaches a fixed point at the first pass",
    fix="keep every byte: fall back to byte tokens; or, if text is changed by design, declare the tokenizer lossy",
)
def round_trip(subject: TokenizerSubject) -> Observation:
    tokenizer, texts = subject.tokenizer, corpus()
    for text in texts:
        if subject.lossless:
            once = tokenizer.decode(tokenizer.encode(text, parse_special=False))
            if once != text:
                return broken(f"{_shown(text)} came back as {_shown(once)}")
        else:
            once = tokenizer.decode(tokenizer.encode(text))
            twice = tokenizer.decode(tokenizer.encode(once))
            if twice != once:
                return broken(f"{_shown(text)} became {_shown(once)} and then {_shown(twice)}")
    return kept(f"{len(texts)} texts came back {'equal' if subject.lossless else 'the same the second time'}")


@check(
    "tokenizer.batch_is_single",
    rule="encode_batch gives for each text what encode gives",
    fix="use the same settings (special tokens, padding, truncation) for both; a batch must not pad or truncate",
)
def batch_is_single(subject: TokenizerSubject) -> Observation:
    tokenizer, texts = subject.tokenizer, corpus()
    for added in (False, True):
        for parsed in (False, True):
            together = tokenizer.encode_batch(texts, add_special_tokens=added, parse_special=parsed)
            alone = [tokenizer.encode(text, add_special_tokens=added, parse_special=parsed) for text in texts]
            if len(together) != len(alone):
                return broken(f"{len(alone)} texts gave {len(together)} results")
            for text, one, other in zip(texts, together, alone, strict=True):
                if list(one) != list(other):
                    return broken(
                        f"{_shown(text)} (add_special_tokens={added}, parse_special={parsed}) gave {one[:8]} in a batch "
                        f"and {other[:8]} alone"
                    )
    return kept(f"{len(texts)} texts with four settings")


@check(
    "tokenizer.empty",
    rule="nothing in, nothing out: empty text, empty ids, empty batch",
    fix="return empty lists and strings; add nothing that was not asked for",
)
def empty(subject: TokenizerSubject) -> Observation:
    tokenizer = subject.tokenizer
    encoding = tokenizer.encode_offsets("")
    seen = {
        'encode("")': (list(tokenizer.encode("")), []),
        "decode([])": (tokenizer.decode([]), ""),
        "encode_batch([])": (list(tokenizer.encode_batch([])), []),
        'encode_offsets("")': ((tuple(encoding.ids), tuple(encoding.offsets)), ((), ())),
    }
    for call, (actual, expected) in seen.items():
        if actual != expected:
            return broken(f"{call} gave {actual!r}")
    return kept("four calls")


@check(
    "tokenizer.offsets_cover",
    rule="encode_offsets gives the ids of encode; spans lie inside the text, in order, and cover all that is not space",
    fix="count characters, not bytes; a character split over several tokens is covered by each of them",
)
def offsets_cover(subject: TokenizerSubject) -> Observation:
    tokenizer, texts = subject.tokenizer, plain_corpus()
    for text in texts:
        encoding = tokenizer.encode_offsets(text)
        if list(encoding.ids) != list(tokenizer.encode(text)):
            return broken(f"{_shown(text)}: other ids than encode gives")
        if len(encoding.ids) != len(encoding.offsets):
            return broken(f"{_shown(text)}: {len(encoding.ids)} ids but {len(encoding.offsets)} spans")
        covered = [False] * len(text)
        before = 0
        for begin, end in encoding.offsets:
            if not 0 <= begin <= end <= len(text):
                return broken(f"{_shown(text)} has {len(text)} characters but a span is {begin}:{end}")
            if begin < before:
                return broken(f"{_shown(text)}: the span {begin}:{end} begins before the one in front of it")
            before = begin
            covered[begin:end] = [True] * (end - begin)
        if subject.lossless:
            missing = [i for i, done in enumerate(covered) if not done and not text[i].isspace()]
            if missing:
                return broken(f"{_shown(text)}: no span covers character {missing[0]}, {text[missing[0]]!a}")
    return kept(f"{len(texts)} texts")


@check(
    "tokenizer.special_stays_text",
    rule="with parse_special=False, text that looks like a special token gives no special token",
    fix="turn off added-token matching for parse_special=False: a user must not be able to type an end of turn",
)
def special_stays_text(subject: TokenizerSubject) -> Observation:
    tokenizer = subject.tokenizer
    special = _special_ids(tokenizer)
    if not special:
        return does_not_apply("the tokenizer has no special tokens")
    only_unknown = tokenizer.special.unk
    for token in special:
        name = tokenizer.token(token)
        for text in (name, f"a{name}b", f"{name}{name}", f" {name} "):
            for ids in (
                tokenizer.encode(text, parse_special=False),
                tokenizer.encode_batch([text], parse_special=False)[0],
            ):
                found = set(ids) & (set(special) - {only_unknown})
                if found:
                    return broken(f"{_shown(text)} gave the special token {tokenizer.token(min(found))!r}")
    return kept(f"{len(special)} special tokens in four places each")


@check(
    "tokenizer.special_is_parsed",
    rule="with parse_special=True (the default), the text of a special token gives that token alone",
    fix="match the special tokens before anything else when parse_special is True",
)
def special_is_parsed(subject: TokenizerSubject) -> Observation:
    tokenizer = subject.tokenizer
    special = _special_ids(tokenizer)
    if not special:
        return does_not_apply("the tokenizer has no special tokens")
    for token in special:
        ids = tokenizer.encode(tokenizer.token(token))
        if list(ids) != [token]:
            return broken(f"{tokenizer.token(token)!r} is {token} but gave {list(ids)}")
    return kept(f"{len(special)} special tokens")


@check(
    "tokenizer.adds_special",
    rule="add_special_tokens puts tokens around the text, BOS in front exactly when adds_bos says so, and changes nothing inside",
    fix="set adds_bos from what encode really does, and tokenise the text the same way with and without",
)
def adds_special(subject: TokenizerSubject) -> Observation:
    tokenizer, texts = subject.tokenizer, plain_corpus()
    for text in texts:
        bare = list(tokenizer.encode(text, parse_special=False))
        full = list(tokenizer.encode(text, add_special_tokens=True, parse_special=False))
        if tokenizer.adds_bos and tokenizer.special.bos is None:
            return broken("adds_bos is True but there is no BOS token")
        begins = bool(full) and tokenizer.special.bos is not None and full[0] == tokenizer.special.bos
        already = bool(bare) and bare[0] == tokenizer.special.bos
        if begins != tokenizer.adds_bos and not already:
            return broken(f"adds_bos is {tokenizer.adds_bos} but {_shown(text)} gave {full[:4]}")
        width = len(bare)
        if not any(full[start : start + width] == bare for start in range(len(full) - width + 1)):
            return broken(f"{_shown(text)} is {bare[:8]} alone but {full[:8]} with special tokens")
    return kept(f"{len(texts)} texts")


@check(
    "tokenizer.ids_in_vocabulary",
    rule="every id is in range(vocab_size), has an entry, and the entry leads back; ids outside raise IndexError",
    fix="let vocab_size count added tokens, and check bounds in token()",
)
def ids_in_vocabulary(subject: TokenizerSubject) -> Observation:
    tokenizer = subject.tokenizer
    seen: set[int] = set(_special_ids(tokenizer))
    for text in corpus():
        for parsed in (False, True):
            seen.update(tokenizer.encode(text, add_special_tokens=True, parse_special=parsed))
    for token in sorted(seen):
        if not 0 <= token < tokenizer.vocab_size:
            return broken(f"id {token} with a vocabulary of {tokenizer.vocab_size}")
        entry = tokenizer.token(token)
        back = tokenizer.token_id(entry)
        # A vocabulary may hold an entry twice; then either id is right.
        if back is None or tokenizer.token(back) != entry:
            return broken(f"token({token}) is {entry!r} but token_id of that is {back}")
    for outside in (tokenizer.vocab_size, -1):
        try:
            entry = tokenizer.token(outside)
        except IndexError:
            continue
        return broken(f"token({outside}) gave {entry!r} with a vocabulary of {tokenizer.vocab_size}")
    return kept(f"{len(seen)} different ids")


@check(
    "tokenizer.decode_is_total",
    rule="decode gives text without lone surrogates for every sequence of ids of the vocabulary, valid UTF-8 or not",
    fix="decode bytes with errors='replace'; give unused ids an empty text",
)
def decode_is_total(subject: TokenizerSubject) -> Observation:
    tokenizer = subject.tokenizer
    generator = random.Random(20261121)
    sequences: list[Sequence[int]] = [[token] for token in _sample(tokenizer.vocab_size, 2000, generator)]
    sequences += [
        [generator.randrange(tokenizer.vocab_size) for _ in range(generator.randrange(1, 24))]
        for _ in range(200)
    ]
    for ids in sequences:
        for skipped in (False, True):
            text = tokenizer.decode(ids, skip_special_tokens=skipped)
            if any(0xD800 <= ord(character) <= 0xDFFF for character in text):
                return broken(f"{ids} decoded to {text!a}")
    return kept(f"{len(sequences)} sequences")


def _sample(size: int, most: int, generator: random.Random) -> Sequence[int]:
    return range(size) if size <= most else sorted(generator.sample(range(size), most))


@check(
    "tokenizer.skip_special",
    rule="skip_special_tokens leaves the special tokens out of the text and nothing else",
    fix="drop ids with a role before joining the pieces",
)
def skip_special(subject: TokenizerSubject) -> Observation:
    tokenizer = subject.tokenizer
    special = _special_ids(tokenizer)
    if not special:
        return does_not_apply("the tokenizer has no special tokens")
    for text in ("Hello, world!", "a", "日本語 text"):
        ids = list(tokenizer.encode(text, parse_special=False))
        expected = tokenizer.decode(ids, skip_special_tokens=True)
        for token in special:
            if token == tokenizer.special.unk:
                continue
            around = tokenizer.decode([*ids, token], skip_special_tokens=True)
            if around != expected:
                return broken(
                    f"{_shown(text)} with {tokenizer.token(token)!r} behind decoded to {_shown(around)}"
                )
    return kept(f"{len(special)} special tokens")


@check(
    "tokenizer.deterministic",
    rule="the same text gives the same ids, whatever was done before and whatever the caller does with the result",
    fix="keep no state between calls, and return a new list each time",
)
def deterministic(subject: TokenizerSubject) -> Observation:
    tokenizer, texts = subject.tokenizer, corpus()
    first = [list(tokenizer.encode(text)) for text in texts]
    for ids in [tokenizer.encode(text) for text in texts]:
        ids.clear()  # a caller may do what it likes with its list
    for text, ids in reversed(list(zip(texts, first, strict=True))):
        again = list(tokenizer.encode(text))
        if again != ids:
            return broken(f"{_shown(text)} gave {ids[:8]} and then {again[:8]}")
    return kept(f"{len(texts)} texts, in two orders")


@check(
    "tokenizer.thread_safe",
    rule="many threads may use one tokenizer: they get what one thread gets",
    fix="share nothing that calls change (settings, buffers, caches without a lock)",
)
def thread_safe(subject: TokenizerSubject) -> Observation:
    tokenizer = subject.tokenizer
    texts = corpus(extra=32)
    settings = [(added, parsed) for added in (False, True) for parsed in (False, True)]
    expected = [
        [list(tokenizer.encode(text, add_special_tokens=added, parse_special=parsed)) for text in texts]
        for added, parsed in settings
    ]

    def work(which: int) -> tuple[int, list[list[int]]]:
        added, parsed = settings[which % len(settings)]
        ids = [list(tokenizer.encode(text, add_special_tokens=added, parse_special=parsed)) for text in texts]
        for sequence in ids:
            tokenizer.decode(sequence)
        return which % len(settings), ids

    with ThreadPoolExecutor(4) as pool:
        for which, ids in pool.map(work, range(16)):
            if ids != expected[which]:
                worst = next(i for i, (a, b) in enumerate(zip(ids, expected[which], strict=True)) if a != b)
                return broken(
                    f"{_shown(texts[worst])} gave other ids in a thread, settings {settings[which]}"
                )
    return kept(f"16 passes over {len(texts)} texts in 4 threads with different settings")


@check(
    "tokenizer.digest_stable",
    rule="digest is a sha256 that only the tokenizer decides: the same after use and when opened again",
    fix="hash the vocabulary, merges and settings in a fixed order; no paths, times or object ids",
)
def digest_stable(subject: TokenizerSubject) -> Observation:
    tokenizer = subject.tokenizer
    digest = tokenizer.digest()
    if not re.fullmatch(r"(sha256:)?[0-9a-f]{64}", digest):
        return broken(f"{digest!r} is not a sha256 in hexadecimal")
    tokenizer.encode("use it")
    tokenizer.encode_batch(["use", "it"], add_special_tokens=True, parse_special=False)
    if tokenizer.digest() != digest:
        return broken("the digest changed when the tokenizer was used")
    if subject.reopen is None:
        return kept("after use (not reopened)")
    if subject.reopen().digest() != digest:
        return broken("the tokenizer opened again has another digest")
    return kept("after use and opened again")


@check(
    "tokenizer.chat_template",
    rule="apply_chat_template renders text when there is a template and raises TokenizerError when there is none",
    fix="raise llmasos.api.TokenizerError with a hint; never make up a template",
)
def chat_template(subject: TokenizerSubject) -> Observation:
    tokenizer = subject.tokenizer
    messages = [{"role": "user", "content": "Hello."}]
    if tokenizer.chat_template is None:
        try:
            text = tokenizer.apply_chat_template(messages)
        except TokenizerError:
            return kept("no template: refused")
        return broken(f"there is no template but the messages became {_shown(text)}")
    text = tokenizer.apply_chat_template(messages)
    if "Hello." not in text:
        return broken(f"the message is not in {_shown(text)}")
    return kept(f"rendered {len(text)} characters")


CHECKS = (
    empty,
    round_trip,
    batch_is_single,
    offsets_cover,
    special_stays_text,
    special_is_parsed,
    adds_special,
    skip_special,
    ids_in_vocabulary,
    decode_is_total,
    deterministic,
    thread_safe,
    digest_stable,
    chat_template,
)
