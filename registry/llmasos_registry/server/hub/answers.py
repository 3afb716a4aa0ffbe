"""Repositories, files and commits in the JSON that Hub clients read."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from llmasos_registry.server.context import Request
from llmasos_registry.server.hub.objects import Entry, File
from llmasos_registry.server.hub.repository import Commit, Repo
from llmasos_registry.server.store.git import lfs_pointer


def moment(at: datetime) -> str:
    """ISO text with milliseconds and ``Z``: the one form that old and new clients parse."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def repo_fields(repo: Repo, card: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that a repository's row and the metadata of its card tell."""
    fields: dict[str, Any] = {
        "_id": f"{repo.id:024x}",
        "id": repo.full_name,
        "author": repo.owner,
        "private": repo.private,
        "gated": repo.gated or False,
        "disabled": repo.disabled is not None,
        "lastModified": moment(repo.updated_at),
        "createdAt": moment(repo.created_at),
        "downloads": repo.downloads,
        "downloadsAllTime": repo.downloads,
        "likes": repo.likes,
        "tags": repo.tags or [],
        "cardData": dict(card) if card else None,
        "usedStorage": repo.bytes,
    }
    if repo.kind == "model":
        fields["modelId"] = repo.full_name
        fields["pipeline_tag"] = _text(card.get("pipeline_tag"))
        fields["library_name"] = _text(card.get("library_name"))
        fields["model-index"] = card.get("model-index")
    else:
        fields["description"] = repo.summary
    return {key: value for key, value in fields.items() if value is not None}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def sibling(entry: Entry) -> dict[str, Any]:
    """A file of a commit as one of its ``siblings``, with size and ids."""
    item: dict[str, Any] = {"rfilename": entry.path}
    if entry.file is not None:
        item |= {"size": entry.file.size, "blobId": entry.oid}
        if entry.file.lfs:
            item["lfs"] = {
                "sha256": entry.file.sha256,
                "size": entry.file.size,
                "pointerSize": pointer_size(entry.file),
            }
    return item


def pointer_size(file: File) -> int:
    """Bytes of the pointer that git holds for an LFS file."""
    return len(lfs_pointer(file.sha256, file.size))


def entry_answer(entry: Entry) -> dict[str, Any]:
    """A file or folder of a tree."""
    if entry.file is None:
        return {"type": "directory", "oid": entry.oid, "size": 0, "path": entry.path}
    answer: dict[str, Any] = {"type": "file", "oid": entry.oid, "size": entry.file.size, "path": entry.path}
    if entry.file.lfs:
        answer["lfs"] = {
            "oid": entry.file.sha256,
            "size": entry.file.size,
            "pointerSize": pointer_size(entry.file),
        }
    return answer


def commit_answer(commit: Commit) -> dict[str, Any]:
    """A commit of a history."""
    return {
        "id": commit.oid,
        "title": commit.title,
        "message": commit.message,
        "date": moment(commit.created_at),
        "authors": [{"user": commit.author}],
    }


def last_commit(commit: Commit) -> dict[str, Any]:
    """The commit that a path was changed by last."""
    return {"id": commit.oid, "title": commit.title, "date": moment(commit.created_at)}


def next_page(request: Request, **changed: str) -> Mapping[str, str]:
    """The Link header that leads on to this address with other parameters."""
    kept = [(key, value) for key, value in request.query_params.multi_items() if key not in changed]
    path = (request.scope.get("raw_path") or b"").decode("latin-1").partition("?")[0]
    query = urlencode([*kept, *changed.items()])
    return {"Link": f'<{request.root}{path}?{query}>; rel="next"'}


def flag(request: Request, name: str) -> bool:
    """A parameter that is on: true, True, 1, or there without a value."""
    return request.query_params.get(name, "false").lower() in ("true", "1", "")


def page_limit(request: Request, default: int, most: int) -> int:
    """``limit`` as sent, between 1 and ``most``."""
    text = request.query_params.get("limit", "")
    return min(max(int(text[:18]), 1), most) if text.isascii() and text.isdigit() else default
