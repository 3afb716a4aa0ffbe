"""Before an upload: how each file shall travel, which are left out, and what stands in their place now."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from starlette.responses import Response

from llmasos_registry.server.context import Registry, Request
from llmasos_registry.server.failures import bad_request, not_supported
from llmasos_registry.server.hub.objects import File, walk
from llmasos_registry.server.hub.path_patterns import (
    Pattern,
    TooCostly,
    ignored,
    read_ignore,
    read_lfs_attributes,
    sent_to_lfs,
)
from llmasos_registry.server.hub.paths import safe_path
from llmasos_registry.server.hub.repository import requested_repo, resolve_revision
from llmasos_registry.server.responses import json_response
from llmasos_registry.server.routing import Route

#: Clients ask for 256 files at a time.
MAX_FILES = 1000
#: Of `.gitignore` and `.gitattributes`, in bytes.
_MAX_RULES = 64 << 10
_MAX_SAMPLE = 4096
#: For matching patterns, in one request.
_PATTERN_SECONDS = 10.0


def preupload(request: Request) -> Response:
    """POST /api/{kind}/{repo}/preupload/{rev}.

    Binary files, files larger than `max_inline`, those that `.gitattributes` names and those that are in LFS now travel
    as LFS (or Xet); the rest comes inside the commit.
    """
    if request.query_params.get("create_pr"):
        raise not_supported("pull requests; commit to a branch of your own")
    body = request.json_object()
    files = body.get("files")
    if not isinstance(files, list) or len(files) > MAX_FILES:
        raise bad_request(f"`files` is a list of at most {MAX_FILES} files")
    given = body.get("gitIgnore")
    if given is not None and not isinstance(given, str):
        raise bad_request("`gitIgnore` is text")
    registry = request.registry
    with registry.db.read() as conn:
        repo = requested_repo(conn, request, "write")
        commit = resolve_revision(conn, repo, request.params["rev"])
        attributes = read_lfs_attributes(_rules(registry, conn, commit.tree, ".gitattributes"))
        ignore = read_ignore(
            given[:_MAX_RULES] if given is not None else _rules(registry, conn, commit.tree, ".gitignore")
        )
        until = time.monotonic() + _PATTERN_SECONDS
        try:
            answers = [
                _answer(registry, conn, commit.tree, file, attributes, ignore, until) for file in files
            ]
        except TooCostly:
            raise bad_request(
                f"The patterns of .gitignore and .gitattributes take more than {_PATTERN_SECONDS:g} seconds for these files",
                hint="ask for fewer files at a time, or use fewer patterns",
            ) from None
    return json_response({"files": answers, "commitOid": commit.oid})


def _answer(
    registry: Registry,
    conn: sa.Connection,
    tree: str,
    file: Any,
    attributes: Sequence[Pattern],
    ignore: Sequence[Pattern],
    until: float,
) -> dict[str, Any]:
    if not isinstance(file, dict) or not isinstance(file.get("path"), str):
        raise bad_request("each of `files` has a path")
    path = safe_path(file["path"])
    size = file.get("size", 0)
    if not isinstance(size, int) or size < 0:
        raise bad_request(f"the size of {path} is a number of bytes")
    current = _current(registry, conn, tree, path)
    large = size > registry.settings.max_inline
    lfs = large or (
        size > 0
        and (
            (current is not None and current.lfs)
            or is_binary(_sample(file.get("sample"), path))
            or sent_to_lfs(attributes, path, until)
        )
    )
    answer = {
        "path": path,
        "uploadMode": "lfs" if lfs else "regular",
        "shouldIgnore": bool(ignore) and ignored(ignore, path, until),
    }
    if current is not None:
        answer["oid"] = current.etag
    return answer


def _current(registry: Registry, conn: sa.Connection, tree: str, path: str) -> File | None:
    entry = walk(conn, registry.objects, tree, path)
    return None if entry is None else entry.file


def _rules(registry: Registry, conn: sa.Connection, tree: str, path: str) -> str:
    """The text of a small file of the repository; empty when it is not there."""
    file = _current(registry, conn, tree, path)
    if file is None or file.lfs or file.size > _MAX_RULES:
        return ""
    return b"".join(registry.store.pieces(file.sha256)).decode("utf-8", "replace")


def _sample(text: Any, path: str) -> bytes:
    if text is None:
        return b""
    try:
        if isinstance(text, str) and len(text) <= _MAX_SAMPLE:
            return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise bad_request(f"the sample of {path} is not base64 of at most {_MAX_SAMPLE} characters")


def is_binary(sample: bytes) -> bool:
    """Whether the first bytes of a file are no UTF-8 text. A character cut off at the end does not count."""
    if b"\0" in sample:
        return True
    try:
        sample.decode()
    except UnicodeDecodeError as error:
        return not (error.reason == "unexpected end of data" and len(sample) - error.start < 4)
    return False


ROUTES = (Route("POST", "/api/{kind:repos}/{repo}/preupload/{rev}", preupload, "write", body=4 << 20),)
