"""Things data tests share: reading a source to the end, and a Hub whose tokenizer is bytes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llmasos import Hub
from llmasos.api import Decision, Document, Tokenizer
from llmasos.testing.doubles import ByteTokenizer

#: The repository's sibling with data too big or too restricted to be in it.
SHARED = Path(__file__).parents[4] / "shared" / "data"

PROSE = (
    "It is a truth that the mill on the hill has stood there longer than any of the houses in the village, and that "
    "people who have lived with its noise all their lives hear it only when it stops. On that morning it stopped, and "
    "the baker came out of his door to see what the matter was with the wind."
)


class ByteHub(Hub):
    """A Hub that needs no model for its tokenizer. Named in a module, so that worker processes can unpickle it."""

    def load_tokenizer(self, ref: str) -> Tokenizer:
        return ByteTokenizer()


def read_all(source: Any, root: Path) -> tuple[list[Document], list[Decision]]:
    """Documents, and what was dropped, of every shard in order."""
    documents: list[Document] = []
    dropped: list[Decision] = []
    for shard in source.shards(root):
        for found in source.read(shard, root):
            if isinstance(found, Document):
                documents.append(found)
            else:
                assert not found.kept
                dropped.append(found)
    return documents, dropped


def reasons(decisions: Iterable[Decision]) -> list[str]:
    """Their reasons."""
    return [decision.reason for decision in decisions]
