"""A blob on its way in: a local file that is hashed while it is written. Both stores begin with it."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from llmasos_registry.server.store.blobs import DigestMismatch, Stored


class TemporaryBlob:
    """Bytes in a temporary file. A store says what ``_keep`` does with them; what is not kept is removed."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{os.getpid()}.{os.urandom(12).hex()}"
        self._file = open(self._path, "xb", buffering=0)  # noqa: SIM115 - closed in commit or __exit__
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, piece: bytes) -> None:
        """Append and hash."""
        view = memoryview(piece)
        while view:
            view = view[self._file.write(view) :]
        self._digest.update(piece)
        self.size += len(piece)

    def commit(self, expected: str | None = None) -> Stored:
        """Hand the file to the store, which makes it durable under its digest. Raises DigestMismatch."""
        found = self._digest.hexdigest()
        if expected is not None and found != expected:
            raise DigestMismatch(expected, found)
        self._keep(found)
        return Stored(found, self.size)

    def _keep(self, sha256: str) -> None:
        raise TypeError("a store's writer says how a blob is kept")

    def file(self) -> Path:
        """The temporary file; unbuffered, so everything written is in it."""
        return self._path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        with suppress(FileNotFoundError):
            self._path.unlink()
