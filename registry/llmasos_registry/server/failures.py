"""Refusals of the server: an HTTP status, a message for people, and the headers that Hub clients read."""

from __future__ import annotations

from collections.abc import Mapping


class Failure(Exception):
    """Ends a request. ``code`` becomes ``X-Error-Code``; ``hint`` is added to JSON bodies.

    Codes that Hub clients know: RepoNotFound, GatedRepo, RevisionNotFound, EntryNotFound.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.hint = hint
        self.headers = dict(headers or {})


def bad_request(message: str, *, hint: str | None = None) -> Failure:
    """400: the request makes no sense."""
    return Failure(400, message, hint=hint)


def unauthorized(message: str = "Invalid credentials in Authorization header") -> Failure:
    """401: the token is unknown, expired or revoked. The Hub clients look for exactly this message."""
    return Failure(401, message, headers={"WWW-Authenticate": 'Basic realm="llmasos", Bearer'})


def forbidden(message: str, *, hint: str | None = None) -> Failure:
    """403: the caller is known and may not."""
    return Failure(403, message, hint=hint)


def not_found(message: str) -> Failure:
    """404 of the index and of the registry's own API."""
    return Failure(404, message)


def repo_not_found(name: str, *, anonymous: bool) -> Failure:
    """The repository is missing, or private and not this caller's to know of."""
    return Failure(401 if anonymous else 404, f"Repository not found: {name}", code="RepoNotFound")


def revision_not_found(revision: str) -> Failure:
    """The branch, tag or commit is missing."""
    return Failure(404, f"Revision not found: {revision}", code="RevisionNotFound")


def entry_not_found(path: str, commit: str) -> Failure:
    """The file is missing in that commit; clients cache this under the commit."""
    return Failure(404, f"Entry not found: {path}", code="EntryNotFound", headers={"X-Repo-Commit": commit})


def conflict(message: str, *, hint: str | None = None) -> Failure:
    """409: it exists already, or was changed meanwhile."""
    return Failure(409, message, hint=hint)


def too_large(what: str, limit: int) -> Failure:
    """413: more bytes than allowed."""
    return Failure(413, f"{what} is larger than {limit} bytes")


def not_supported(what: str) -> Failure:
    """501: a Hub feature that this registry does not have; the clients show the message."""
    return Failure(501, f"This registry does not support {what}", code="NotImplemented")
