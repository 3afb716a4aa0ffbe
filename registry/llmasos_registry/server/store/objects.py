"""Blobs in an S3-compatible object store: ``PREFIX/sha256/ab/abcd...``, through obstore.

A blob is hashed into a local file first, so nothing reaches the bucket that is not what it says it is; then it is sent
in one conditional put, or in parts when it is large. Readers are redirected to a signed address of the bucket.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import urlsplit

import obstore
from obstore.store import S3Store

from llmasos.errors import ConfigError, EnvironmentProblem
from llmasos_registry.server.store.blobs import PIECE, BlobMissing, Stored
from llmasos_registry.server.store.filesystem import LocalFolders
from llmasos_registry.server.store.temporary import TemporaryBlob

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

#: Larger blobs are sent in parts of this many bytes; S3 takes 10,000 parts, 5 MiB at least.
PART = 64 << 20
#: An object of this age is sent again when its bytes come again, so that a sweep under way sees its new age.
FRESH = timedelta(hours=1)


class ObjectStore(LocalFolders):
    """The store in a bucket. ``folder`` holds temporary files and parts of uploads under way."""

    def __init__(
        self,
        folder: Path,
        address: str,
        options: Mapping[str, str],
        *,
        redirect: bool = True,
        retries: int = 10,
    ) -> None:
        super().__init__(folder)
        self.address, self.options = address, dict(options)
        self._redirect = redirect
        parts = urlsplit(address)
        if parts.scheme != "s3" or not parts.netloc:
            raise ConfigError(f"`{address}` is no object store", hint="storage is s3://bucket/prefix")
        self._prefix = parts.path.strip("/") + "/" if parts.path.strip("/") else ""
        known = {name.lower().removeprefix("aws_"): value for name, value in options.items()}
        client: dict[str, Any] = {"timeout": "300s"}
        if known.get("endpoint", "").startswith("http://"):
            client["allow_http"] = True
        try:
            self.bucket = S3Store(
                parts.netloc,
                config=cast(Any, known),
                client_options=cast(Any, client),
                retry_config=cast(Any, {"max_retries": retries}),
            )
        except Exception as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConfigError(
                f"the object store {address}: {first}", hint="see storage_options in registry.toml"
            ) from error

    def check(self) -> None:
        """Whether the bucket answers. Raises EnvironmentProblem."""
        try:
            for _ in obstore.list(self.bucket, prefix=self._prefix or None, chunk_size=1):
                return
        except Exception as error:
            first = str(error).strip().splitlines()[0]
            raise EnvironmentProblem(
                f"the object store does not answer: {first[:300]}",
                hint="see storage and storage_options in registry.toml",
            ) from error

    def key(self, sha256: str, kind: str = "sha256") -> str:
        """The name of a blob in the bucket."""
        return f"{self._prefix}{kind}/{sha256[:2]}/{sha256}"

    def writer(self) -> ObjectWriter:
        """A new blob."""
        return ObjectWriter(self)

    def put(self, data: bytes) -> Stored:
        """A blob from memory."""
        with self.writer() as writer:
            writer.write(data)
            return writer.commit()

    def _head(self, sha256: str) -> tuple[int, datetime] | None:
        try:
            facts = obstore.head(self.bucket, self.key(sha256))
        except FileNotFoundError:
            return None
        return facts["size"], facts["last_modified"]

    def open(self, sha256: str) -> BinaryIO:
        """A seekable reader. Raises BlobMissing."""
        facts = self._head(sha256)
        if facts is None:
            raise BlobMissing(sha256)
        return cast(BinaryIO, io.BufferedReader(_Reader(self, sha256, facts[0]), PIECE))

    def pieces(self, sha256: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Bytes ``start`` to ``stop`` in pieces. Raises BlobMissing."""
        if stop is not None and stop <= start:
            return iter(())
        span: Any = {"offset": start} if stop is None else (start, stop)
        try:
            found = obstore.get(
                self.bucket, self.key(sha256), options={"range": span} if start or stop else {}
            )
        except FileNotFoundError:
            raise BlobMissing(sha256) from None
        return (bytes(piece) for piece in found.stream(min_chunk_size=PIECE))

    def exists(self, sha256: str) -> bool:
        """Whether it is there."""
        return self._head(sha256) is not None

    def path(self, sha256: str) -> Path | None:
        """Objects are no files."""
        return None

    def url(self, sha256: str, filename: str, lifetime: int) -> str | None:
        """A signed address of the bucket. Raises BlobMissing."""
        if not self._redirect:
            return None
        if not self.exists(sha256):
            raise BlobMissing(sha256)
        return obstore.sign(self.bucket, "GET", self.key(sha256), timedelta(seconds=lifetime))

    def discard(self, sha256: str, before: datetime) -> bool:
        """Remove a blob, unless it was written again since; whether it is gone."""
        facts = self._head(sha256)
        if facts is None:
            return True
        if facts[1] >= before:
            return False
        with suppress(FileNotFoundError):
            obstore.delete(self.bucket, self.key(sha256))
        return True

    def quarantine(self, sha256: str) -> None:
        """Move it below ``quarantine/``."""
        with suppress(FileNotFoundError):
            obstore.copy(self.bucket, self.key(sha256), self.key(sha256, "quarantine"))
            obstore.delete(self.bucket, self.key(sha256))

    def walk(self) -> Iterator[tuple[str, int, datetime]]:
        """Every blob, in order of its digest."""
        for page in obstore.list(self.bucket, prefix=f"{self._prefix}sha256/"):
            for facts in page:
                yield facts["path"].rpartition("/")[2], facts["size"], facts["last_modified"]

    def read_range(self, sha256: str, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop``. Raises BlobMissing."""
        try:
            return bytes(obstore.get_range(self.bucket, self.key(sha256), start=start, end=stop))
        except FileNotFoundError:
            raise BlobMissing(sha256) from None

    def send(self, sha256: str, file: Path, size: int) -> None:
        """Put a local file into the bucket under its digest."""
        facts = self._head(sha256)
        if facts is not None and facts[0] == size and facts[1] > datetime.now(UTC) - FRESH:
            return
        if size > PART:
            obstore.put(self.bucket, self.key(sha256), file, use_multipart=True, chunk_size=PART)
            return
        data = file.read_bytes()
        if facts is None:
            # Only if there is none: two senders of the same bytes are not in each other's way.
            with suppress(obstore.exceptions.AlreadyExistsError):
                obstore.put(self.bucket, self.key(sha256), data, mode="create", use_multipart=False)
            return
        obstore.put(self.bucket, self.key(sha256), data, use_multipart=False)


class ObjectWriter(TemporaryBlob):
    """One blob on its way into a bucket."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store.temporary)
        self._store = store

    def _keep(self, sha256: str) -> None:
        self._file.close()
        self._store.send(sha256, self._path, self.size)


class _Reader(io.RawIOBase):
    """An object as a seekable file."""

    def __init__(self, store: ObjectStore, sha256: str, size: int) -> None:
        self._store, self._sha256, self._size, self._position = store, sha256, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        stop = min(self._position + len(view), self._size)
        if stop <= self._position:
            return 0
        data = self._store.read_range(self._sha256, self._position, stop)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)
