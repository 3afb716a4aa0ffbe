"""Streamed text is never taken back, never splits a character and never shows a stop string."""

from __future__ import annotations

import random

import pytest

from llmasos.pipelines.text_stream import TextStream
from llmasos.testing.doubles import ByteTokenizer

TOKENIZER = ByteTokenizer()


def stream(text, stop=()):
    """The pieces of ``text`` streamed byte by byte, and the stream."""
    bytes_ = text if isinstance(text, bytes) else text.encode()
    found = TextStream(TOKENIZER, stop)
    pieces = []
    for byte in bytes_:
        pieces.append(found.push(byte))
        if found.stopped:
            return pieces, found
    pieces.append(found.finish())
    return pieces, found


def test_characters_come_whole():
    pieces, found = stream("aé漢🙂.")
    assert [piece for piece in pieces if piece] == ["a", "é", "漢", "🙂", "."]
    assert found.text == "aé漢🙂."


def test_broken_bytes_come_at_the_end_or_when_text_follows():
    assert stream(b"ab\xe6\xbc")[0][-1] == "\ufffd"
    pieces, found = stream(b"a\xff\xfe!")
    assert "".join(pieces) == found.text == "a\ufffd\ufffd!"


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one two three", ("two",), "one "),
        ("one two three", ("three", "two"), "one "),
        ("one two", ("two",), "one "),
        ("one tw", ("two",), "one tw"),
        ("ababac!", ("abac",), "ab"),
        ("x\n\ny", ("\n\n",), "x"),
        ("stop", ("stop",), ""),
        ("aXbYc", ("Y", "XbY"), "a"),
        ("naïve漢字", ("漢",), "naïve"),
    ],
)
def test_stop_strings(text, stop, expected):
    pieces, found = stream(text, stop)
    assert "".join(pieces) == found.text == expected
    assert found.stopped == any(s in text for s in stop)


def test_no_piece_ever_shows_what_may_become_a_stop_string():
    pieces, _ = stream("a<|b<|endx", ("<|end|>",))
    shown = ""
    for fed, piece in enumerate(pieces[:-1], start=1):
        shown += piece
        held = "a<|b<|endx"[len(shown) : fed]
        assert held == "" or "<|end|>".startswith(held)
    assert shown == "a<|b<|endx"


@pytest.mark.parametrize("seed", range(30))
def test_pieces_add_up_to_the_text_cut_at_the_first_stop(seed):
    chance = random.Random(seed)
    text = "".join(chance.choice("ab\né🙂") for _ in range(40))
    stop = tuple("".join(chance.choice("ab\né") for _ in range(chance.randint(2, 4))) for _ in range(3))
    pieces, found = stream(text, stop)
    # a stop string is seen when its last character arrives, so the first to be complete ends the text
    ends = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    first = min(ends)[0] if ends else len(text)
    cut = min((start for end, start in ends if end == first), default=len(text))
    assert "".join(pieces) == found.text == text[:cut]


class Stripping(ByteTokenizer):
    """Leaves out a space in front, as SentencePiece does, and counts its work."""

    decoded = 0

    def decode(self, ids, *, skip_special_tokens=False):
        self.decoded += len(ids)
        text = super().decode(ids, skip_special_tokens=skip_special_tokens)
        return text.removeprefix(" ")


@pytest.mark.parametrize("letters", ["ab  .\né🙂", "a  ", " ", "🙂", "a"])
def test_long_texts_read_as_a_whole_and_take_little_work(letters):
    chance = random.Random(letters)
    text = "".join(chance.choice(letters) for _ in range(1500))
    tokenizer = Stripping()
    found = TextStream(tokenizer, ("never",))
    pieces = [found.push(byte) for byte in text.encode()]
    pieces.append(found.finish())
    work = tokenizer.decoded
    assert "".join(pieces) == found.text == tokenizer.decode(list(text.encode()))
    if letters != " ":  # which nowhere reads the same in two parts
        assert work < 120 * len(text.encode())
