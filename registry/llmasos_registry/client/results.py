"""Results of evaluations and a registry: publishing a run, fetching one, attesting, leaderboards."""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmasos.contracts.evaluation import Progress
from llmasos.contracts.fingerprint import RECORD_FILE, SIGNATURE_SUFFIX, record_digest, samples_name
from llmasos.errors import InputError, UsageError
from llmasos.kernel.atomic import write_atomic
from llmasos_registry.client.connection import Connection, path_segment
from llmasos_registry.strict_json import loads

#: Bytes of a record or attestation file; the registry takes no more.
MAX_DOCUMENT = 32 << 20
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class PublishedRun:
    """What the registry says of a published record, and for which tasks samples were sent or are missing here."""

    answer: Mapping[str, Any]
    sent: tuple[str, ...]
    missing: tuple[str, ...]


def publish_run(
    connection: Connection, folder: Path, account: str, progress: Progress, *, samples: bool = True
) -> PublishedRun:
    """Publish the signed record in ``folder`` in the name of ``account``, with its samples.

    What the registry has already is not sent again. Raises InputError for a folder without record or signature, UsageError
    and RegistryError for what the registry refuses.
    """
    record = read_document(
        folder / RECORD_FILE, "the folder of a run has one: `llmasos eval` names it at the end"
    )
    signature = read_document(
        folder / Path(RECORD_FILE).with_suffix(SIGNATURE_SUFFIX), f"sign it first: llmasos eval sign {folder}"
    )
    tasks = _task_names(record)
    progress.phase("publishing the record")
    answer = connection.post("/v1/records", {"account": account, "record": record, "signature": signature})
    digest = str(answer["digest"])
    wanted = [task for task in tasks if samples and task not in answer["samples"]]
    here = [task for task in wanted if (folder / samples_name(task)).is_file()]
    progress.phase("sending samples", len(here))
    for task in here:
        with _packed(folder / samples_name(task)) as file:
            connection.put_file(f"/v1/records/{digest}/samples/{path_segment(task)}", file)
        progress.advance()
    if here:
        answer = {
            key: value
            for key, value in fetch_record(connection, digest).items()
            if key not in ("record", "signature")
        }
    return PublishedRun(answer, tuple(here), tuple(task for task in wanted if task not in here))


def fetch_record(connection: Connection, digest: str) -> Mapping[str, Any]:
    """A published record with its signature and standing. Raises RegistryNotFound, RegistryError for one with another digest."""
    answer: Mapping[str, Any] = connection.get(f"/v1/records/{path_segment(digest)}")
    actual = record_digest(answer["record"])
    if actual != digest:
        raise UsageError(f"the registry sent a record with the digest {actual}, asked for was {digest}")
    return answer


def fetch_run(connection: Connection, digest: str, target: Path, progress: Progress) -> Mapping[str, Any]:
    """Write a published run into the new folder ``target``: record, signature and the samples that were published.

    The folder is whole or not there. Returns what the registry says of the record.
    """
    if target.exists():
        raise UsageError(f"{target} is there already", hint="choose another --output")
    progress.phase("fetching the record")
    answer = fetch_record(connection, digest)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
        folder = Path(scratch, "run")
        folder.mkdir()
        _write(folder / RECORD_FILE, answer["record"])
        _write((folder / RECORD_FILE).with_suffix(SIGNATURE_SUFFIX), answer["signature"])
        progress.phase("fetching samples", len(answer["samples"]))
        known = set(_task_names(answer["record"]))
        for task in answer["samples"]:
            if task in known:
                _fetch_samples(connection, digest, task, folder / samples_name(task))
            progress.advance()
        folder.rename(target)
    return answer


def attest(connection: Connection, attestation: Path, account: str) -> Mapping[str, Any]:
    """Send a signed attestation about a published record. Raises InputError for files that are missing."""
    found = read_document(attestation, "`llmasos eval verify` writes one beside the record")
    signature = read_document(
        attestation.with_suffix(SIGNATURE_SUFFIX),
        "an attestation counts when it is signed: llmasos eval verify --sign",
    )
    body = {"account": account, "attestation": found, "signature": signature}
    answer: Mapping[str, Any] = connection.post(
        f"/v1/records/{path_segment(str(found.get('record')))}/attestations", body
    )
    return answer


def read_document(path: Path, hint: str) -> dict[str, Any]:
    """The JSON object in a file of a run. Raises InputError."""
    try:
        if path.stat().st_size > MAX_DOCUMENT:
            raise InputError(f"{path} has more than {MAX_DOCUMENT >> 20} MiB")
        value = loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"there is no {path}", hint=hint) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object")
    return value


def _task_names(record: Mapping[str, Any]) -> list[str]:
    tasks = record.get("tasks")
    return [
        task["name"]
        for task in (tasks if isinstance(tasks, list) else [])
        if isinstance(task, dict) and isinstance(task.get("name"), str)
    ]


@contextmanager
def _packed(path: Path) -> Iterator[Any]:
    """The file, compressed, as a file that can be sent."""
    with tempfile.TemporaryFile() as file:
        with (
            open(path, "rb") as source,
            gzip.GzipFile(fileobj=file, mode="wb", compresslevel=6, mtime=0) as packer,
        ):
            shutil.copyfileobj(source, packer, _PIECE)
        file.seek(0)
        yield file


def _fetch_samples(connection: Connection, digest: str, task: str, target: Path) -> None:
    import zlib

    unpack = zlib.decompressobj(wbits=31)
    with (
        connection.stream(f"/v1/records/{digest}/samples/{path_segment(task)}") as answer,
        open(target, "wb") as file,
    ):
        try:
            for piece in answer.iter_raw(_PIECE):
                while piece and not unpack.eof:
                    file.write(unpack.decompress(piece, _PIECE))
                    piece = unpack.unconsumed_tail
        except zlib.error as error:
            raise InputError(f"the samples of {task} that the registry sent are damaged: {error}") from None
    if not unpack.eof:
        raise InputError(f"the samples of {task} that the registry sent end in the middle")


def _write(path: Path, value: Any) -> None:
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
