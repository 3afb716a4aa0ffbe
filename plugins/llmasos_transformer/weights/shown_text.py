"""Text from strangers that ends up on a terminal or in a record."""

from __future__ import annotations


def shown(text: str, limit: int = 300) -> str:
    """At most ``limit`` characters of ``text``, control characters and other unprintable ones replaced by U+FFFD.

    A model's name must not be able to move the cursor, set the window title or start a new line of output.
    """
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(character if character.isprintable() else "\ufffd" for character in cut)
