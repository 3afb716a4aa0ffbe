"""What a digest in a record is computed over, so that anyone can compute it again.

All digests are sha256 in lower-case hexadecimal.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

#: Sections of an evaluation's record that its digest leaves out: they may differ between two runs that computed the same.
OUTSIDE_RECORD_DIGEST = frozenset({"digest", "environment", "execution", "timings"})
#: The file of the record in the folder of a run; its signature has the same name with the suffix.
RECORD_FILE = "record.json"
SIGNATURE_SUFFIX = ".sig"
#: Characters of a task's name in the name of a file: file systems take 255 bytes, index and temporary files add some.
_LONGEST = 180


def canonical_json(value: Any) -> bytes:
    """The one UTF-8 JSON text of a value: keys sorted, no spaces, no escapes that JSON does not need, no NaN.

    Numbers are written as Python writes them (shortest text that reads back as the same double). Tuples are arrays.
    Raises TypeError or ValueError for what JSON cannot hold.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    # A lone surrogate can come out of hostile input; it has no UTF-8, and losing it would make two texts equal.
    return text.encode("utf-8", errors="surrogatepass")


def canonical_digest(value: Any) -> str:
    """sha256 of ``canonical_json``."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def record_digest(record: Mapping[str, Any]) -> str:
    """The digest of the part of an evaluation's record that says what was computed, and not how and when."""
    return canonical_digest({key: value for key, value in record.items() if key not in OUTSIDE_RECORD_DIGEST})


def samples_name(task: str) -> str:
    """The file of a task's samples in the folder of a run. Names that a file system might not like, or too long for one, get
    a digest to stay distinct."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", task)[:_LONGEST]
    suffix = "" if plain == task else f"-{canonical_digest(task)[:8]}"
    return f"samples_{plain}{suffix}.jsonl"


def merkle_root(leaves: Sequence[str]) -> str:
    """Root of the Merkle tree of RFC 6962, section 2.1, whose leaf data are the given digests as ASCII text.

    With it, one document of a run can be checked against a published root without the others. No leaves: sha256 of
    nothing.
    """
    if not leaves:
        return hashlib.sha256().hexdigest()
    level = [hashlib.sha256(b"\x00" + leaf.encode("ascii")).digest() for leaf in leaves]
    while len(level) > 1:
        # Pairing neighbours and carrying an odd last node up gives the tree of the RFC, which splits at powers of two.
        paired = [
            hashlib.sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)
        ]
        if len(level) % 2:
            paired.append(level[-1])
        level = paired
    return level[0].hex()
