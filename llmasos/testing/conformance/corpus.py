"""Texts that break tokenizers, and seeded noise of the same kinds."""

from __future__ import annotations

import random
from collections.abc import Sequence

#: What each text is for is in its comment; all are valid Unicode (no lone surrogates).
TEXTS: tuple[str, ...] = (
    "",
    " ",
    "   ",  # runs of spaces carry meaning in code
    "\n",
    "\r\n\t\v\f",
    "a",
    " a",
    "a ",
    "Hello, world!",
    "  two leading, two trailing  ",
    "don't WON'T we're I'll 'tis",
    "def f(x):\n    if x:\n\t\treturn  x  # two spaces\n",
    "3.14159 1,000,000 0xdeadbeef 1e-9 ²³ ½",
    "naïve café e\u0301 \u1e9b\u0323",  # composed, decomposed, and one that NFKC changes
    "Straße İstanbul ŐŰ ﬁ ﬂ",  # case folding and ligatures change length
    "Ελληνικά Русский Հայերեն",
    "日本語のテキスト、中文字符。한국어",
    "ไทยไม่มีช่องว่าง",
    "हिन्दी क्षत्रिय বাংলা",
    "שלום עולם مرحبا بالعالم",  # right to left
    "\u202eright-to-left override\u202c \u200fmark",
    "👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇺🇳 ❤️",  # joiners, modifiers, flags
    "zero\u200bwidth\u200cand\u200djoiners\ufeffBOM",
    "\x00",  # NUL ends a C string
    "before\x00after",
    "\x01\x02\x1b[31mred\x1b[0m\x7f\x80\x9f",
    "\u00a0\u2003\u3000\u2028\u2029\u0085",  # spaces and line ends that are not ASCII
    "▁metaspace▁ Ġbyte Ċlevel ##piece </w> @@ ⁇",  # what tokenizers use inside
    "\ufffd replacement \ufffd",
    "\U0010ffff\U0001f9ff\U000e0041\ue000",  # last code point, astral, tag, private use
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" * 8,
    '<a href="x">&amp;</a> {{ jinja }} {% raw %} ${shell} `tick` \\u0041 \\n',
)

_ALPHABETS: tuple[tuple[int, int], ...] = (
    (0x00, 0x7F),
    (0x80, 0xFF),  # what bytes look like when read as Latin-1
    (0x100, 0x24F),
    (0x300, 0x36F),
    (0x590, 0x6FF),
    (0x900, 0x97F),
    (0x2000, 0x206F),
    (0x3040, 0x30FF),
    (0x4E00, 0x9FFF),
    (0x1F300, 0x1FAFF),
    (0x10000, 0x10FFFF),
)


def corpus(*, extra: int = 64, seed: int = 20261121) -> Sequence[str]:
    """``TEXTS`` and ``extra`` seeded random strings of up to 40 characters, mixing scripts, controls and spaces."""
    generator = random.Random(seed)
    noise = []
    for _ in range(extra):
        length = generator.randrange(1, 41)
        alphabets = [generator.choice(_ALPHABETS) for _ in range(generator.randrange(1, 4))]
        noise.append("".join(chr(generator.randint(*generator.choice(alphabets))) for _ in range(length)))
    return (*TEXTS, *noise)


def plain_corpus(*, extra: int = 32, seed: int = 20261121) -> Sequence[str]:
    """The part of ``corpus`` that is not empty."""
    return tuple(text for text in corpus(extra=extra, seed=seed) if text)
