"""The printable stand-ins that byte-level BPE uses for byte values (Radford et al. 2019, GPT-2).

Bytes that print as one visible Latin-1 character stand for themselves; the others take the characters from U+0100 on, in
the order of their values.
"""

from __future__ import annotations


def _characters() -> tuple[str, ...]:
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [value for value in range(256) if value not in visible]
    return tuple(chr(value) if value in visible else chr(0x100 + hidden.index(value)) for value in range(256))


CHARACTER_OF_BYTE = _characters()
BYTE_OF_CHARACTER = {character: value for value, character in enumerate(CHARACTER_OF_BYTE)}
