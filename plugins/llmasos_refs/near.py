"""Near misses for hints."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def near_misses(wanted: str, known: Iterable[str], *, count: int = 5) -> list[str]:
    """The names most like ``wanted``, best first; whole matches of the last part of a path come before the others."""
    names = sorted(set(known))
    tail = wanted.rsplit("/", 1)[-1].lower()
    same_tail = [name for name in names if tail and name.rsplit("/", 1)[-1].lower() == tail]
    folded = {name.lower(): name for name in names}
    close = [
        folded[name] for name in difflib.get_close_matches(wanted.lower(), list(folded), n=count, cutoff=0.5)
    ]
    return list(dict.fromkeys(same_tail + close))[:count]


def listed(names: Iterable[str], *, most: int = 12) -> str:
    """Names separated by commas, capped."""
    all_names = list(names)
    rest = len(all_names) - most
    return ", ".join(all_names[:most]) + (f" and {rest} more" if rest > 0 else "")
