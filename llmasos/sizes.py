"""Numbers of bytes as people write them."""

from __future__ import annotations


def size_text(count: int) -> str:
    """``count`` bytes in decimal units, three digits: ``12.3 MB``."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
