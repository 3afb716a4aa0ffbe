"""Where the documents of a run go as they finish, so that a run that was killed goes on where it stopped.

A folder holds one run: ``run.json`` (what the run is), ``samples_TASK.jsonl`` (one line a finished document, in the order
they finished) and, at the end, ``record.json``; until then ``.work`` has finished shards. A folder is never used for two runs.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Self

from llmasos.api import EvaluationError, UsageError, canonical_digest, canonical_json, samples_name

RUN_FILE = "run.json"
RECORD_FILE = "record.json"
LOCK_FILE = ".lock"
WORK_FOLDER = ".work"
#: Seconds between two fsyncs. A killed process loses nothing that was written; only a power cut loses this much.
FSYNC_INTERVAL = 2.0
#: Samples files kept open at once: suites have hundreds of tasks, and systems have limits.
OPEN_FILES = 100


def require_writable(folder: Path, hint: str = "choose another folder with --output") -> None:
    """Make a folder, and raise UsageError when no file can be written there: before anything is computed for it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror or error}", hint=hint) from None


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file so that it is either the old one or the new one."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, f"{text}\n".encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that it is either the old one or the new one: temporary file, fsync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_lines(path: Path, values: Iterable[Any]) -> None:
    """Write JSON lines so that the file is either the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", errors="surrogatepass", newline="\n") as file:
            for value in values:
                file.write(json.dumps(value, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class StoredSamples(Mapping[int, dict[str, Any]]):
    """Finished documents of one task by number, read from their file when they are asked for: a run is larger than memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        #: Where the line of each document begins, and its length in bytes.
        self._places: dict[int, tuple[int, int]] = {}

    def __getitem__(self, index: int) -> dict[str, Any]:
        return next(self.read([index]))

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __contains__(self, index: object) -> bool:
        return index in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __ior__(self, other: StoredSamples) -> Self:
        self._places |= other._places
        return self

    def read(self, indices: Iterable[int]) -> Iterator[dict[str, Any]]:
        """Documents in the order asked for, one at a time. Raises KeyError for one that is not there."""
        with open(self._path, "rb") as file:
            for index in indices:
                start, length = self._places[index]
                file.seek(start)
                sample: dict[str, Any] = json.loads(file.read(length))
                yield sample

    def add(self, index: int, start: int, length: int) -> None:
        """A line of the file; the first one of a document counts."""
        self._places.setdefault(index, (start, length))

    def only(self, indices: Container[int]) -> StoredSamples:
        """Those of the documents that are in ``indices``."""
        found = StoredSamples(self._path)
        found._places = {index: place for index, place in self._places.items() if index in indices}
        return found


class SampleStore:
    """An append-only store of finished documents for one run.

    ``identity`` is everything that decides the numbers; its digest is the run key. With ``resume`` documents of the same
    run are kept; without, they are removed. Opening raises UsageError when the folder holds another run, or when another
    process is writing there.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], *, resume: bool = True) -> None:
        self.folder = folder
        self.identity = json.loads(canonical_json(identity))
        self.run_key = canonical_digest(self.identity)
        self._resume = resume
        self._files: dict[str, IO[bytes]] = {}
        self._lock: IO[bytes] | None = None
        self._synced = time.monotonic()

    @property
    def work(self) -> Path:
        """Where finished shards wait for the documents that they are part of; gone once the record is written."""
        return self.folder / WORK_FOLDER

    def __enter__(self) -> Self:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.folder)
        except OSError as error:
            raise UsageError(
                f"cannot write to {self.folder}: {error.strerror}", hint="choose another folder with --output"
            ) from None
        try:
            self._check_names()
            self._check_run()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Make everything durable and let others write. May be called twice."""
        for task in list(self._files):
            self._close(task)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _close(self, task: str) -> None:
        file = self._files.pop(task)
        file.flush()
        os.fsync(file.fileno())
        file.close()

    # ---- reading -------------------------------------------------------------------------------------------------------

    def finished(self, task: str) -> StoredSamples:
        """Finished documents by number. A torn last line is cut off; the document it belonged to is simply not finished.

        Raises EvaluationError for damage anywhere else.
        """
        path = self.folder / samples_name(task)
        found = StoredSamples(path)
        if not path.exists():
            return found
        end = 0
        for number, line in enumerate(_lines(path), start=1):
            if not line.endswith(b"\n"):
                break
            try:
                index = json.loads(line)["index"]
                if type(index) is not int:
                    raise ValueError("a document has a number")
            except (ValueError, KeyError, TypeError):
                raise EvaluationError(
                    f"{path}, line {number} is damaged",
                    hint="delete the file to compute its documents again, or use another --output",
                ) from None
            found.add(index, end, len(line))
            end += len(line)
        if end < path.stat().st_size:
            with open(path, "r+b") as file:
                file.truncate(end)
        return found

    # ---- writing -------------------------------------------------------------------------------------------------------

    def append(self, task: str, sample: Mapping[str, Any]) -> tuple[int, int]:
        """Write one finished document: it survives a kill of this process from here on. Returns where its line begins, and
        its length in bytes."""
        file = self._files.get(task)
        if file is None:
            if len(self._files) == OPEN_FILES:
                self._close(next(iter(self._files)))
            file = self._files[task] = open(self.folder / samples_name(task), "ab")  # noqa: SIM115 (kept open)
        line = canonical_json(sample) + b"\n"
        start = file.tell()
        file.write(line)
        file.flush()
        now = time.monotonic()
        if now - self._synced >= FSYNC_INTERVAL:
            self._synced = now
            for handle in self._files.values():
                os.fsync(handle.fileno())
        return start, len(line)

    def finish(self, record: Mapping[str, Any]) -> Path:
        """Write the record. Returns its path."""
        path = self.folder / RECORD_FILE
        write_json(path, record)
        shutil.rmtree(self.work, ignore_errors=True)
        return path

    # ---- the run -------------------------------------------------------------------------------------------------------

    def _check_names(self) -> None:
        """Raise UsageError for tasks whose samples would go into one file, where the file system does not tell capitals apart."""
        named: dict[str, str] = {}
        for section in self.identity.get("tasks", ()):
            task = section["name"]
            other = named.setdefault(samples_name(task).casefold(), task)
            if other != task and (self.folder / LOCK_FILE.swapcase()).exists():
                raise UsageError(
                    f"the samples of tasks {other} and {task} would be one file in {self.folder}, where capitals are not told apart",
                    hint="run them one by one",
                )

    def _check_run(self) -> None:
        path = self.folder / RUN_FILE
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            other = stored["identity"]
        except FileNotFoundError:
            self._require_no_samples()
            self._begin(path)
            return
        except (OSError, ValueError, KeyError, TypeError):
            raise UsageError(
                f"{path} is damaged", hint="use another --output, or delete this folder"
            ) from None
        if canonical_digest(other) != self.run_key:
            differences = "; ".join(_differences(other, self.identity)) or "it was written by another version"
            raise UsageError(
                f"{self.folder} holds a different run: {differences}",
                hint="use another --output; a folder holds one run, so that numbers are never mixed",
            )
        if not self._resume:
            for samples in sorted(self.folder.glob("samples_*.jsonl")):
                samples.unlink()
            (self.folder / RECORD_FILE).unlink(missing_ok=True)
            shutil.rmtree(self.work, ignore_errors=True)

    def _require_no_samples(self) -> None:
        strangers = sorted(path.name for path in self.folder.glob("samples_*.jsonl"))
        if strangers or (self.folder / RECORD_FILE).exists():
            raise UsageError(
                f"{self.folder} has results ({', '.join(strangers) or RECORD_FILE}) but no {RUN_FILE} that says of what run",
                hint="use another --output",
            )

    def _begin(self, path: Path) -> None:
        write_json(path, {"schema": "llmasos-run/1", "run_key": self.run_key, "identity": self.identity})


def _lines(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        yield from file


def _lock(folder: Path) -> IO[bytes]:
    """Hold the folder for this process; the lock goes with the process, however it ends. Raises UsageError if taken."""
    file = open(folder / LOCK_FILE, "ab")  # noqa: SIM115 (held until the store closes)
    try:
        _hold(file)
    except OSError:
        file.close()
        raise UsageError(
            f"another run is writing to {folder}", hint="wait for it, or use another --output"
        ) from None
    return file


def _hold(file: IO[bytes]) -> None:
    """Lock the file or raise OSError at once."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _differences(old: Any, new: Any, path: str = "", limit: int = 4) -> list[str]:
    """Where two identities differ, as ``path: old, now new``, at most ``limit`` places."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: list[str] = []
        for key in sorted(set(old) | set(new)):
            where = f"{path}.{key}" if path else key
            found += _differences(old.get(key), new.get(key), where, limit)
        return found[:limit]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        found = []
        for index, (left, right) in enumerate(zip(old, new, strict=True)):
            label = left.get("id") or left.get("name") if isinstance(left, dict) else None
            found += _differences(left, right, f"{path}[{label or index}]", limit)
        return found[:limit]
    return [] if old == new else [f"{path} is {_short(old)} there and {_short(new)} here"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."
