"""Uploading files into a repository through huggingface_hub: what it deduplicates and resumes, with our progress."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, cast

import httpx2

from llmasos.contracts.evaluation import Progress
from llmasos.errors import InputError
from llmasos_registry.client.connection import Connection, RegistryError, failure

#: Large files in flight at once.
_THREADS = 4
#: Files up to this size go up many at a time, through Xet where that is installed: a request for each would take longer than
#: its bytes. Larger ones go through LFS in one stream each, three times as fast as Xet, and are counted as they go. Bytes.
_SMALL = 4 << 20
#: Small files that go up together: at most so many, and so many bytes.
_BATCH, _BATCH_BYTES = 500, 64 << 20


class ByteCount:
    """Bytes as progress, in the largest unit that still moves. May be told from several threads."""

    def __init__(self, progress: Progress, name: str, total: int) -> None:
        self._progress = progress
        self._unit, word = next(
            (pair for pair in ((1 << 20, "MB"), (1 << 10, "kB")) if total >= 20 * pair[0]), (1, "bytes")
        )
        self._seen = self._said = 0
        self._lock = Lock()
        self._total = -(-total // self._unit)
        progress.phase(f"{name} ({word})", self._total)

    def __call__(self, count: int) -> None:
        """That many bytes more."""
        with self._lock:
            self._seen += count
            # What a retry sends again is not counted beyond the total.
            step = min(self._seen // self._unit, self._total) - self._said
            if step > 0:
                self._said += step
                self._progress.advance(step)

    def done(self) -> None:
        """All of it: what was deduplicated was never read."""
        if self._said < self._total:
            self._progress.advance(self._total - self._said)
            self._said = self._total


class CountedFile(io.BufferedIOBase):
    """A file that is open only while it is read, and counts what is read. Not shared between threads.

    As an object it goes up through LFS, in one stream; and a thousand of them need no thousand descriptors.
    """

    def __init__(self, path: Path) -> None:
        self.count: Callable[[int], None] | None = None
        self._path = path
        self._size = path.stat().st_size
        self._position = 0
        self._file: io.FileIO | None = None

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Bytes from the start."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As any file's."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """As any file's."""
        if self._file is None:
            self._file = io.FileIO(self._path)
        self._file.seek(self._position)
        left = max(0, self._size - self._position)
        data = self._file.read(left if size is None or size < 0 else min(size, left)) or b""
        self._position += len(data)
        if self._position >= self._size:
            self._file.close()
            self._file = None
        if self.count is not None:
            self.count(len(data))
        return data

    def close(self) -> None:
        """Close what is open."""
        if self._file is not None:
            self._file.close()
        super().close()


class HubUpload:
    """One repository of a registry, and the way into it."""

    def __init__(self, connection: Connection, repo_id: str, kind: str) -> None:
        from huggingface_hub import HfApi

        self._api = HfApi(endpoint=connection.url, token=connection.token or False, library_name="llmasos")
        self._url = connection.url
        self._repo: dict[str, Any] = {"repo_id": repo_id, "repo_type": kind}

    def create(self, *, private: bool) -> None:
        """Make the repository; nothing happens when it is there. Raises RegistryError."""
        with _quiet(), _translated(self._url):
            self._api.create_repo(**self._repo, private=private, exist_ok=True)

    def commit(
        self,
        root: Path,
        changed: Mapping[str, str],
        extra: Mapping[str, bytes],
        deleted: Sequence[str],
        *,
        parent: str | None,
        message: str,
        description: str,
        progress: Progress,
    ) -> str:
        """Upload files below ``root`` (path -> SHA-256) and ``extra`` ones, delete others: one commit; its id.

        What is stored already is not sent. Nothing is visible before the commit, and the commit fails when the branch moved
        on from ``parent``. Raises InputError when a file changed meanwhile, RegistryError.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete

        sizes = {path: (root / path).stat().st_size for path in changed}
        words = f"uploading {len(changed)} file{'s' if len(changed) != 1 else ''}"
        count = ByteCount(progress, words, sum(sizes.values())) if changed else None
        with _quiet(), _translated(self._url):
            additions: list[CommitOperationAdd] = []
            for batch in _batches(sizes):
                large = sizes[batch[0]] > _SMALL
                files = [CountedFile(root / path) if large else root / path for path in batch]
                added = [CommitOperationAdd(p, cast(BinaryIO, f)) for p, f in zip(batch, files, strict=True)]
                for path, addition, file in zip(batch, added, files, strict=True):
                    if isinstance(file, CountedFile):
                        # It was read for its digest a second time just now.
                        if addition.upload_info.sha256.hex() != changed[path]:
                            raise InputError(
                                f"{root / path} changed while it was published", hint="publish again"
                            )
                        file.count = count
                    else:
                        addition.upload_info.sha256 = bytes.fromhex(changed[path])
                self._api.preupload_lfs_files(
                    **self._repo, additions=added, num_threads=_THREADS, free_memory=False
                )
                for file in files:
                    if isinstance(file, CountedFile):
                        file.count = None
                if count is not None and not large:
                    count(sum(sizes[path] for path in batch))
                additions += added
            if count is not None:
                count.done()
            progress.phase("committing")
            operations: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [
                *additions,
                *(CommitOperationAdd(path, io.BytesIO(data)) for path, data in extra.items()),
                *(CommitOperationDelete(path, is_folder=False) for path in deleted),
            ]
            done = self._api.create_commit(
                **self._repo,
                operations=operations,
                commit_message=message,
                commit_description=description,
                parent_commit=parent,
            )
        return str(done.oid)


def _batches(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Paths in groups that go up together: small files first, then all large ones."""
    batch: list[str] = []
    left = _BATCH_BYTES
    for path, size in sizes.items():
        if size > _SMALL:
            continue
        if batch and (len(batch) == _BATCH or size > left):
            yield batch
            batch, left = [], _BATCH_BYTES
        batch.append(path)
        left -= size
    if batch:
        yield batch
    if large := [path for path, size in sizes.items() if size > _SMALL]:
        yield large


@contextmanager
def _quiet() -> Iterator[None]:
    """huggingface_hub's own bars and notes off, and back to what they were."""
    import logging
    import warnings

    from huggingface_hub.utils import logging as hub_logging
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    level, bars = hub_logging.get_verbosity(), not are_progress_bars_disabled()
    hub_logging.set_verbosity(logging.ERROR)
    disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hub_logging.set_verbosity(level)
        if bars:
            enable_progress_bars()


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """What huggingface_hub raises, as errors of ours."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    again = "run the same command again: what arrived is not sent twice"
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise RegistryError(f"{url} is not asked, because HF_HUB_OFFLINE is set", hint="unset it") from error
    except HfHubHTTPError as error:
        text = error.server_message or str(error).splitlines()[0]
        raise failure(error.response.status_code, text) from error
    except (httpx2.TransportError, TimeoutError) as error:
        raise RegistryError(f"cannot reach the registry at {url}: {error}", hint=again) from error
    except (RuntimeError, ValueError) as error:
        # huggingface_hub wraps what went wrong with one file of many.
        cause = error.__cause__
        if isinstance(cause, HfHubHTTPError):
            text = f"{error} {cause.server_message or str(cause).splitlines()[0]}"
            raise failure(cause.response.status_code, text) from error
        shown = f"{error} {cause}" if cause is not None else str(error)
        raise RegistryError(f"{url}: {shown}", hint=again) from error
