"""Names that are not known here: pages and files of one configured upstream index, kept, and checked by their digests.

Only simple API JSON is read (PyPI, devpi, and others speak it). Files without a sha256 are left out: nothing could be
checked. Everything blocks and is called in worker threads, at most ``limiter`` of them.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx2
import sqlalchemy as sa
from anyio import CapacityLimiter
from starlette.responses import Response, StreamingResponse

from llmasos_registry.server.context import Request
from llmasos_registry.server.db.engine import Database, utcnow
from llmasos_registry.server.db.tables_index import upstream_files, upstream_pages
from llmasos_registry.server.failures import Failure, not_found
from llmasos_registry.server.index.formats import JSON, PageFile, project_html, project_json
from llmasos_registry.server.responses import blob_response
from llmasos_registry.server.store.blobs import BlobStore, BlobWriter, DigestMismatch, Stored, record_blob

log = logging.getLogger("llmasos.registry")

MAX_PAGE = 64 << 20
MAX_METADATA = 8 << 20
#: Seconds for one page, all in all.
PAGE_TIME = 30.0
CACHE_BYTES = 128 << 20
_TIMEOUT = httpx2.Timeout(15.0, connect=5.0)
_FILENAME = re.compile(r"[A-Za-z0-9_.+!-]{1,240}(\.whl|\.tar\.gz|\.zip)", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", re.ASCII)
_IMMUTABLE = {"Cache-Control": "public, max-age=31536000, immutable"}


@dataclass(frozen=True, slots=True)
class UpstreamPage:
    """A page of the upstream in our form, and where its files lie there."""

    etag: str
    json: bytes
    json_gzip: bytes
    html: bytes
    files: Mapping[str, tuple[PageFile, str]]

    @property
    def weight(self) -> int:
        """Bytes in memory, about."""
        return len(self.json) + len(self.json_gzip) + len(self.html) + 600 * len(self.files)


class Upstream:
    """One upstream index."""

    def __init__(self, url: str, ttl: int, max_file: int, db: Database, store: BlobStore) -> None:
        self._url = url.rstrip("/") + "/"
        self._ttl = timedelta(seconds=ttl)
        self._max_file = max_file
        self._db = db
        self._store = store
        self._client = httpx2.Client(timeout=_TIMEOUT, follow_redirects=True, max_redirects=3)
        # Requests for one name wait for each other, so that it is fetched once.
        self._locks = tuple(threading.Lock() for _ in range(64))
        self._kept: OrderedDict[str, tuple[datetime, UpstreamPage | None]] = OrderedDict()
        self._guard = threading.Lock()
        self.limiter = CapacityLimiter(16)

    def page(self, key: str) -> UpstreamPage | None:
        """The page of a normalised name, None when the upstream has none.

        Raises Failure 502 when it cannot be asked and no earlier answer is known: a name that may exist must not be
        reported as missing, or installers would go on without it.
        """
        fresh = utcnow() - self._ttl
        kept = self._kept.get(key)
        if kept is not None and kept[0] > fresh:
            return kept[1]
        with self._locks[hash(key) % len(self._locks)]:
            kept = self._kept.get(key)
            if kept is not None and kept[0] > fresh:
                return kept[1]
            return self._refresh(key, fresh)

    def _refresh(self, key: str, fresh: datetime) -> UpstreamPage | None:
        with self._db.read() as conn:
            row = conn.execute(sa.select(upstream_pages).where(upstream_pages.c.key == key)).one_or_none()
        if row is not None and row.fetched_at > fresh:
            return self._keep(key, row.fetched_at, _page(key, row.json) if row.found else None)
        try:
            status, body, etag = self._fetch(
                self._url + key + "/", row.etag if row is not None and row.found else None
            )
        except (httpx2.HTTPError, _Unusable) as error:
            if row is None:
                log.warning("the upstream index cannot be asked for %s: %s", key, error)
                raise Failure(502, f"The upstream index cannot be asked for `{key}`: {error}") from error
            log.warning("the upstream index cannot be asked for %s, its last answer is used: %s", key, error)
            # Not asked again at once, or every request would wait for the time-out.
            return self._keep(key, fresh + timedelta(seconds=30), _page(key, row.json) if row.found else None)
        now = utcnow()
        if status == 304 and row is not None:
            values: dict[str, Any] = {"fetched_at": now}
            data = row.json
        else:
            data = body
            values = {"found": status != 404, "json": data, "etag": etag, "fetched_at": now}
        with self._db.write() as conn:
            same = upstream_pages.update().where(upstream_pages.c.key == key)
            if conn.execute(same.values(values)).rowcount == 0:
                conn.execute(upstream_pages.insert().values(key=key, **values))
        return self._keep(key, now, None if status == 404 else _page(key, data))

    def _keep(self, key: str, moment: datetime, page: UpstreamPage | None) -> UpstreamPage | None:
        with self._guard:
            self._kept.pop(key, None)
            self._kept[key] = (moment, page)
            weight = sum(kept.weight if kept else 200 for _, kept in self._kept.values())
            while weight > CACHE_BYTES and len(self._kept) > 1:
                _, (_, dropped) = self._kept.popitem(last=False)
                weight -= dropped.weight if dropped else 200
        return page

    def _fetch(self, url: str, etag: str | None) -> tuple[int, bytes, str | None]:
        """(status 200, 304 or 404, what is kept of the page, ETag). Size and time are capped."""
        # Not compressed: a cap on compressed bytes would not be a cap.
        headers = {"Accept": JSON, "Accept-Encoding": "identity", "User-Agent": "llmasos-registry"}
        if etag:
            headers["If-None-Match"] = etag
        until = time.monotonic() + PAGE_TIME
        with self._client.stream("GET", url, headers=headers) as answer:
            if answer.status_code in (304, 404):
                return answer.status_code, b"", None
            if answer.status_code != 200:
                raise _Unusable(f"it answered {answer.status_code}")
            if "json" not in answer.headers.get("content-type", ""):
                raise _Unusable("it does not speak the JSON form of the simple API")
            body = bytearray()
            for piece in answer.iter_raw():
                body += piece
                if len(body) > MAX_PAGE or time.monotonic() > until:
                    raise _Unusable(
                        f"its page is larger than {MAX_PAGE} bytes or takes longer than {PAGE_TIME:.0f} s"
                    )
            return 200, _normalised(bytes(body), url), answer.headers.get("etag")

    def file(self, request: Request, key: str, sha256: str, filename: str) -> Response:
        """A file of a page, from the store or, the first time, through it. Raises Failure 404 and 502."""
        name = filename.removesuffix(".metadata")
        described = name != filename
        with self._db.read() as conn:
            row = conn.execute(
                sa.select(upstream_files).where(
                    upstream_files.c.filename == name, upstream_files.c.sha256 == sha256
                )
            ).one_or_none()
        known = None if row is None else row.metadata_blob_sha256 if described else row.blob_sha256
        if known is not None:
            with self._store.open(known) as opened:
                size = opened.seek(0, 2)
            return blob_response(request, known, size, etag=known, headers=_IMMUTABLE, filename=filename)
        page = self.page(key)
        found = page.files.get(f"{sha256}/{name}") if page is not None else None
        if found is None:
            raise not_found("The upstream index does not list this file")
        listed, url = found
        if described:
            if listed.metadata_sha256 is None:
                raise not_found("The upstream index does not offer the metadata of this file")
            stored = self._take_metadata(listed, url)
            return blob_response(request, stored.sha256, stored.size, etag=stored.sha256, headers=_IMMUTABLE)
        return self._pass_through(request, listed, url)

    def _take_metadata(self, listed: PageFile, url: str) -> Stored:
        wanted = listed.metadata_sha256 or ""
        try:
            with self._store.writer() as writer:
                with self._opened(url + ".metadata") as answer:
                    for piece in answer.iter_raw():
                        writer.write(piece)
                        if writer.size > MAX_METADATA:
                            raise _Unusable("its metadata is too long")
                stored = writer.commit(wanted)
        except DigestMismatch as error:
            raise _mismatch(listed.filename + ".metadata", error) from error
        except (httpx2.HTTPError, _Unusable) as error:
            raise Failure(
                502, f"The upstream index did not give the metadata of {listed.filename}: {error}"
            ) from error
        self._note(listed, url, stored, "metadata_blob_sha256")
        return stored

    def _opened(self, url: str) -> _Answer:
        return _Answer(self._client, url)

    def _pass_through(self, request: Request, listed: PageFile, url: str) -> Response:
        """Send a file on while it is written to the store; its last piece only after its digest was found right."""
        headers = {"ETag": f'"{listed.sha256}"', **_IMMUTABLE}
        if listed.size is not None:
            headers["Content-Length"] = str(listed.size)
        if request.method == "HEAD":
            return Response(None, 200, headers, "application/octet-stream")
        if (listed.size or 0) > self._max_file:
            raise Failure(
                502, f"{listed.filename} is larger than the {self._max_file} bytes taken from the upstream"
            )
        stack = ExitStack()
        try:
            answer = stack.enter_context(self._opened(url))
        except (httpx2.HTTPError, _Unusable) as error:
            raise Failure(502, f"The upstream index did not give {listed.filename}: {error}") from error
        return StreamingResponse(
            self._tee(stack, answer, listed, url), 200, headers, "application/octet-stream"
        )

    def _tee(self, stack: ExitStack, answer: httpx2.Response, listed: PageFile, url: str) -> Iterator[bytes]:
        with stack, self._store.writer() as writer:
            held = b""
            for piece in answer.iter_raw():
                self._write(writer, piece)
                if held:
                    yield held
                held = piece
            try:
                stored = writer.commit(listed.sha256)
            except DigestMismatch as error:
                # The connection is cut: the client sees a file that is too short, never a whole one with other bytes.
                raise _mismatch(listed.filename, error) from error
            self._note(listed, url, stored, "blob_sha256")
            if held:
                yield held

    def _write(self, writer: BlobWriter, piece: bytes) -> None:
        writer.write(piece)
        if writer.size > self._max_file:
            raise _Unusable("it sent more bytes than are taken from the upstream")

    def _note(self, listed: PageFile, url: str, stored: Stored, column: str) -> None:
        """Remember a blob of an upstream file, in the transaction that references it."""
        values = {column: stored.sha256}
        same = (upstream_files.c.filename == listed.filename) & (upstream_files.c.sha256 == listed.sha256)
        with self._db.write() as conn:
            record_blob(conn, stored)
            if conn.execute(upstream_files.update().where(same).values(values)).rowcount == 0:
                conn.execute(
                    upstream_files.insert().values(
                        filename=listed.filename,
                        sha256=listed.sha256,
                        url=url,
                        metadata_sha256=listed.metadata_sha256,
                        **values,
                    )
                )


class _Unusable(Exception):
    """The upstream's answer cannot be used."""


class _Answer:
    """A GET of the upstream's file servers; entered when the status was 200."""

    def __init__(self, client: httpx2.Client, url: str) -> None:
        headers = {"Accept-Encoding": "identity", "User-Agent": "llmasos-registry"}
        self._context = client.stream("GET", url, headers=headers)

    def __enter__(self) -> httpx2.Response:
        answer = self._context.__enter__()
        if answer.status_code != 200:
            self._context.__exit__(None, None, None)
            raise _Unusable(f"it answered {answer.status_code}")
        return answer

    def __exit__(self, *problem: Any) -> None:
        self._context.__exit__(*problem)


def _mismatch(filename: str, error: DigestMismatch) -> Failure:
    log.error(
        "the upstream index sent other bytes for %s: expected sha256 %s, found %s",
        filename,
        error.expected,
        error.found,
    )
    return Failure(
        502,
        f"The upstream index sent other bytes for {filename}: expected sha256 {error.expected}, found {error.found}",
    )


def _normalised(body: bytes, url: str) -> bytes:
    """What is kept of a page: status and files that can be checked, with absolute addresses. Raises _Unusable."""
    try:
        page = json.loads(body)
        if not str(page["meta"]["api-version"]).startswith("1."):
            raise _Unusable(f"its API version is {page['meta']['api-version']!r}, 1.x is known")
        listed = page["files"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise _Unusable("its page is not a page of the simple API") from error
    if not isinstance(listed, list):
        raise _Unusable("its page is not a page of the simple API")
    status = page.get("project-status")
    state = status.get("status") if isinstance(status, dict) else None
    if state == "quarantined":
        listed = []
    files = [entry for item in listed if isinstance(item, dict) and (entry := _entry(item, url)) is not None]
    versions = [text for text in page.get("versions") or () if isinstance(text, str) and len(text) < 200]
    return json.dumps(
        {"status": state if isinstance(state, str) else "active", "versions": versions, "files": files},
        separators=(",", ":"),
    ).encode()


def _entry(item: dict[str, Any], page_url: str) -> list[Any] | None:
    """[filename, sha256, size, requires-python, upload-time, sha256 of metadata, yanked, address], or None."""
    filename, hashes = item.get("filename"), item.get("hashes")
    digest = hashes.get("sha256") if isinstance(hashes, dict) else None
    address = item.get("url")
    if not (isinstance(filename, str) and _FILENAME.fullmatch(filename) and isinstance(address, str)):
        return None
    if not (isinstance(digest, str) and _SHA256.fullmatch(digest)):
        return None
    url = urljoin(page_url, address).partition("#")[0]
    if urlsplit(url).scheme not in ("http", "https"):
        return None
    described = item.get("core-metadata", item.get("dist-info-metadata"))
    metadata = described.get("sha256") if isinstance(described, dict) else None
    size, python, at, yanked = (
        item.get(name) for name in ("size", "requires-python", "upload-time", "yanked")
    )
    return [
        filename,
        digest,
        size if isinstance(size, int) and size >= 0 else None,
        python[:300] if isinstance(python, str) else None,
        at if isinstance(at, str) and _MOMENT.fullmatch(at) else None,
        metadata if isinstance(metadata, str) and _SHA256.fullmatch(metadata) else None,
        None if not yanked else yanked[:1000] if isinstance(yanked, str) else "",
        url,
    ]


def _page(key: str, data: bytes) -> UpstreamPage:
    """The page in our form, from what is kept of it."""
    kept = json.loads(data)
    base = f"../../files/upstream/{key}/"
    files: list[tuple[PageFile, str]] = []
    for filename, digest, size, python, at, metadata, yanked, url in kept["files"]:
        files.append((PageFile(filename, digest, size, python, at, metadata, yanked, base), url))
    listed = [file for file, _ in files]
    body = project_json(key, 0, kept["status"], None, kept["versions"], listed)
    return UpstreamPage(
        hashlib.sha256(body).hexdigest()[:40],
        body,
        gzip.compress(body, 6, mtime=0),
        project_html(key, kept["status"], None, listed),
        {f"{file.sha256}/{file.filename}": (file, url) for file, url in files},
    )
