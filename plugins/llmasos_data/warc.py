"""Source ``warc``: web archives (WARC 1.0 and 1.1, plain or gzip; ISO 28500)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, NamedTuple

from llmasos.api import Decision, Document, FilePart, HubAPI, InputShard, read_options
from llmasos_data.files import SHARD_BYTES, find_files, plan_shards, position_id, well_formed

#: Content types that are HTML (RFC 2854, RFC 3236).
HTML = frozenset({"text/html", "application/xhtml+xml"})


#: Bytes granted to the HTTP headers in front of a page.
_HTTP_HEADERS = 2**16


@dataclass(frozen=True, slots=True)
class WarcOptions:
    """``main_content`` leaves out navigation, headers and footers. ``max_bytes``: a larger page is dropped unparsed."""

    paths: tuple[str, ...]
    main_content: bool = True
    links: bool = False
    alt_texts: bool = False
    max_bytes: int = 16 * 2**20
    shard_bytes: int = SHARD_BYTES

    def __post_init__(self) -> None:
        if self.max_bytes < 1 or self.shard_bytes < 1:
            raise ValueError("`max_bytes` and `shard_bytes` must be positive")


class Page(NamedTuple):
    """The text of a page and the encoding it was decoded with."""

    text: str
    encoding: str


class WarcSource:
    """The text of every HTML page that was answered with status 200.

    Other responses are dropped records: ``not_http``, ``http_status``, ``not_html``, ``too_large``, ``truncated``,
    ``no_text``. A file that cannot be read further or is no WARC gives one ``broken_warc`` record. ``meta`` has url, date, record_id and encoding.
    """

    def __init__(self, options: Mapping[str, Any], hub: HubAPI) -> None:
        self.options = read_options(WarcOptions, options, what="source warc")
        self.version = f"1;fastwarc={installed('fastwarc')};resiliparse={installed('resiliparse')}"

    def shards(self, root: Path) -> Iterator[InputShard]:
        names = find_files(self.options.paths, root, what="source warc")
        return plan_shards(names, root, self.options.shard_bytes, None)

    def read(self, shard: InputShard, root: Path) -> Iterator[Document | Decision]:
        for part in shard.parts:
            yield from self._archive(part, root)

    def _archive(self, part: FilePart, root: Path) -> Iterator[Document | Decision]:
        from fastwarc.warc import ArchiveIterator, WarcRecordType

        seen = 0
        with (root / part.name).open("rb") as file:
            records = iter(ArchiveIterator(file, parse_http=False))
            while True:
                try:
                    record = next(records, None)
                    if record is None:
                        break
                    seen += 1
                    found = (
                        self._record(part.name, record)
                        if record.record_type == WarcRecordType.response
                        else None
                    )
                except (
                    Exception
                ) as error:  # whatever the reader raises on malformed input, the file ends here
                    yield self._broken(part.name, f"{type(error).__name__}: {error}")
                    return
                if found is not None:
                    yield found
        if not seen:
            yield self._broken(part.name, "no WARC record in it")

    def _broken(self, name: str, detail: str) -> Decision:
        return Decision(Document(name, "", {"file": name}), kept=False, reason="broken_warc", detail=detail)

    def _record(self, name: str, record: Any) -> Document | Decision:
        identity = position_id(name, record.stream_pos)
        headers = record.headers
        # Old wget writes the URI in angle brackets, as a misprint in the WARC 1.0 standard shows it.
        meta: dict[str, Any] = {
            "url": (headers.get("WARC-Target-URI") or "").strip("<>"),
            "date": headers.get("WARC-Date"),
            "record_id": headers.get("WARC-Record-ID"),
        }

        def drop(reason: str, detail: str) -> Decision:
            return Decision(Document(identity, "", meta), kept=False, reason=reason, detail=detail)

        if not record.is_http:
            return drop("not_http", headers.get("Content-Type") or "no content type")
        promised = record.content_length
        if promised > self.options.max_bytes + _HTTP_HEADERS:
            return drop("too_large", f"{promised} bytes > {self.options.max_bytes}")
        record.freeze()  # reads the block: only then is it known whether all of it is there
        if record.content_length < promised:
            return drop("truncated", f"{record.content_length} of {promised} bytes")
        record.parse_http(auto_decode="all")
        status = record.http_headers.status_code
        if status != 200:
            return drop("http_status", str(status))
        kind = (record.http_content_type or "").lower()
        if kind not in HTML:
            return drop("not_html", kind or "no content type")
        data = record.reader.read(self.options.max_bytes + 1)
        if len(data) > self.options.max_bytes:
            return drop("too_large", f"more than {self.options.max_bytes} bytes unpacked")
        page = self.extract(data, record.http_charset)
        meta["encoding"] = page.encoding
        if not page.text.strip():
            return drop("no_text", f"{len(data)} bytes of HTML")
        return Document(identity, page.text, meta)

    def extract(self, data: bytes, charset: str | None) -> Page:
        """Text of an HTML page. The HTTP charset decides, then the page's own declaration, then the bytes (as browsers do)."""
        from resiliparse.extract.html2text import extract_plain_text
        from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

        encoding = map_encoding_to_html5(charset, fallback_utf8=False) if charset else None
        encoding = encoding or detect_encoding(data, from_html_meta=True) or "utf-8"
        text = extract_plain_text(
            bytes_to_str(data, encoding),
            main_content=self.options.main_content,
            links=self.options.links,
            alt_texts=self.options.alt_texts,
        )
        return Page(well_formed(text), encoding)
