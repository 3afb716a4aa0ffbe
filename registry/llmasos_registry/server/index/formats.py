"""The simple repository API, version 1.4: the JSON form, the frozen HTML form, and which of them a client asks for.

Sources: PEP 503 and 691 (forms, negotiation), 592 (yank), 658 and 714 (metadata), 700 (sizes, times, versions),
792 (status), 833 (HTML frozen). Addresses of files are relative, so that a page is the same bytes behind any proxy.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from typing import Any
from urllib.parse import quote

API_VERSION = "1.4"
JSON = "application/vnd.pypi.simple.v1+json"
HTML = "application/vnd.pypi.simple.v1+html"
TEXT_HTML = "text/html"
#: Media types that a client may ask for -> the one it gets.
_OFFERED = {
    JSON: JSON,
    "application/vnd.pypi.simple.latest+json": JSON,
    HTML: HTML,
    "application/vnd.pypi.simple.latest+html": HTML,
    TEXT_HTML: TEXT_HTML,
}
#: Without a preference: what browsers and clients from before JSON can read.
_DEFAULT = TEXT_HTML


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file on a project's page; ``yanked`` is None, or the reason, which may be empty."""

    filename: str
    sha256: str
    size: int | None
    requires_python: str | None
    upload_time: str | None
    metadata_sha256: str | None
    yanked: str | None
    #: Where files lie, as seen from the page.
    base: str = "../../files/"

    @property
    def address(self) -> str:
        """The file's address, relative to the page."""
        return f"{self.base}{self.sha256}/{quote(self.filename)}"


def project_json(
    key: str, serial: int, status: str, reason: str | None, versions: Iterable[str], files: Iterable[PageFile]
) -> bytes:
    """A project's page."""
    return _json(
        {
            "meta": {"api-version": API_VERSION, "_last-serial": serial},
            "name": key,
            "project-status": {"status": status} | ({"reason": reason} if reason else {}),
            "versions": list(versions),
            "files": [_file(file) for file in files],
        }
    )


def _file(file: PageFile) -> dict[str, Any]:
    found: dict[str, Any] = {
        "filename": file.filename,
        "url": file.address,
        "hashes": {"sha256": file.sha256},
        "yanked": False if file.yanked is None else (file.yanked or True),
    }
    if file.size is not None:
        found["size"] = file.size
    if file.upload_time is not None:
        found["upload-time"] = file.upload_time
    if file.requires_python is not None:
        found["requires-python"] = file.requires_python
    if file.metadata_sha256 is not None:
        found["core-metadata"] = {"sha256": file.metadata_sha256}
    return found


def project_html(key: str, status: str, reason: str | None, files: Iterable[PageFile]) -> bytes:
    """A project's page for clients without JSON."""
    marks = [("pypi:project-status", status)] + ([("pypi:project-status-reason", reason)] if reason else [])
    return _html(f"Links for {key}", (_link(file) for file in files), marks)


def _link(file: PageFile) -> str:
    attributes = [("href", f"{file.address}#sha256={file.sha256}")]
    if file.requires_python is not None:
        attributes.append(("data-requires-python", file.requires_python))
    if file.yanked is not None:
        attributes.append(("data-yanked", file.yanked))
    if file.metadata_sha256 is not None:
        attributes.append(("data-core-metadata", f"sha256={file.metadata_sha256}"))
    shown = " ".join(f'{name}="{escape(value)}"' for name, value in attributes)
    return f"<a {shown}>{escape(file.filename)}</a><br>"


def root_json(serial: int, names: Sequence[tuple[str, str]]) -> bytes:
    """The list of projects: (normalised name, name as published)."""
    return _json(
        {
            "meta": {"api-version": API_VERSION, "_last-serial": serial},
            "projects": [{"name": name} for _, name in names],
        }
    )


def root_html(names: Sequence[tuple[str, str]]) -> bytes:
    """The list of projects for clients without JSON."""
    return _html("Simple index", (f'<a href="{key}/">{escape(name)}</a><br>' for key, name in names))


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _html(title: str, lines: Iterable[str], marks: Iterable[tuple[str, str]] = ()) -> bytes:
    head = [("pypi:repository-version", API_VERSION), *marks]
    metas = "".join(f'<meta name="{name}" content="{escape(value)}">\n' for name, value in head)
    body = "\n".join(lines)
    return (
        f"<!DOCTYPE html>\n<html>\n<head>\n{metas}<title>{escape(title)}</title>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    ).encode()


@lru_cache(256)
def negotiate(accept: str | None) -> str | None:
    """The content type for an Accept header; None when nothing offered is acceptable (406). RFC 9110 section 12.5.1.

    Clients send few different headers, each thousands of times. Remembering is a function of the argument alone.
    """
    if accept is None or not accept.strip():
        return _DEFAULT
    best: tuple[float, int, int] | None = None
    chosen: str | None = None
    for position, part in enumerate(accept[:2000].split(",")):
        media, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = _quality(parameters)
        if media in _OFFERED:
            offer, exact = _OFFERED[media], 2
        elif media in ("text/*", "*/*"):
            offer, exact = _DEFAULT, int(media == "text/*")
        elif media == "application/*":
            offer, exact = JSON, 1
        else:
            continue
        rank = (quality, exact, -position)
        if quality > 0 and (best is None or rank > best):
            best, chosen = rank, offer
    return chosen


def _quality(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(max(float(value), 0.0), 1.0)
            except ValueError:
                return 0.0
    return 1.0
