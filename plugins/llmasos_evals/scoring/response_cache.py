"""Answers of earlier runs: the same weights, the same tokens, the same arithmetic, the same answer.

One SQLite file for each model and way of computing. Rows computed with ``--batch-invariant`` are a function of their key
alone; others have the last bits of the run that computed them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from llmasos.api import canonical_digest

#: Keys looked up at once: SQLite takes no more variables in one statement.
_AT_ONCE = 500


class ResponseCache:
    """Answers by digest. A file that cannot be used is a cache that knows nothing: ``trouble`` says why."""

    def __init__(self, folder: Path, context: Mapping[str, Any]) -> None:
        self.path = folder / f"{canonical_digest(dict(context))[:32]}.sqlite"
        self.trouble: str | None = None
        self._base: sqlite3.Connection | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(self.path, timeout=30, isolation_level=None)
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("PRAGMA synchronous=NORMAL")
            self._base.execute(
                "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, answer TEXT) WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error) as error:
            self._give_up(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._base is not None:
            self._base.close()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Any]:
        """What is known of ``keys``."""
        found: dict[bytes, Any] = {}
        for start in range(0, len(keys), _AT_ONCE):
            part = keys[start : start + _AT_ONCE]
            marks = ",".join("?" * len(part))
            try:
                if self._base is not None:
                    rows = self._base.execute(f"SELECT key, answer FROM answers WHERE key IN ({marks})", part)
                    found.update((bytes(key), json.loads(answer)) for key, answer in rows)
            except (sqlite3.Error, ValueError, TypeError) as error:
                self._give_up(error)
        return found

    def put(self, answers: Iterable[tuple[bytes, Any]]) -> None:
        """Remember answers; what is known stays as it is."""
        try:
            if self._base is not None:
                self._base.execute("BEGIN")
                self._base.executemany(
                    "INSERT OR IGNORE INTO answers VALUES (?, ?)",
                    ((key, json.dumps(answer)) for key, answer in answers),
                )
                self._base.execute("COMMIT")
        except sqlite3.Error as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.trouble = f"the response cache {self.path} cannot be used: {error}"
        if self._base is not None:
            self._base.close()
        self._base = None
