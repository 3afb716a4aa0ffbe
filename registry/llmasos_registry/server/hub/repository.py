"""Repositories: who may see and change which, and what a revision stands for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from urllib.parse import quote

import sqlalchemy as sa

from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.context import Request
from llmasos_registry.server.db.tables_hub import access_requests, commits, refs, repo_names, repos
from llmasos_registry.server.failures import (
    Failure,
    forbidden,
    not_supported,
    repo_not_found,
    revision_not_found,
    unauthorized,
)

#: First segment below /api -> kind of repository. Spaces and kernels are the Hub's, not ours.
KINDS = {"models": "model", "datasets": "dataset"}
#: What a handler is about to do. read: see that it is there and what it holds; content: take files; write: change
#: files, branches, tags, settings; own: delete, move.
Need = Literal["read", "content", "write", "own"]

DISABLED = "Access to this resource is disabled."
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHORT = re.compile(r"[0-9a-f]{7,39}")


@dataclass(frozen=True, slots=True)
class Repo:
    """One repository, as its row says."""

    id: int
    kind: str
    owner_id: int
    owner: str
    name: str
    private: bool
    gated: str
    disabled: str | None
    created_at: datetime
    updated_at: datetime
    downloads: int
    likes: int
    serial: int
    tags: list[str] | None
    summary: str
    bytes: int

    @property
    def full_name(self) -> str:
        """``owner/name``."""
        return f"{self.owner}/{self.name}"

    @property
    def web_path(self) -> str:
        """Its path on the web: ``/owner/name``, with ``/datasets`` before it for a dataset."""
        return f"/{web_prefix(self.kind)}{self.full_name}"


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit of a repository."""

    oid: str
    tree: str
    parent: str | None
    author: str
    title: str
    message: str
    created_at: datetime
    depth: int


class Moved(Exception):
    """The name led to a repository that has another name now, and that this caller may see."""

    def __init__(self, repo: Repo) -> None:
        super().__init__(repo.full_name)
        self.repo = repo


def kind_of(segment: str) -> str:
    """``models`` -> ``model``. Raises Failure 501 for kinds that this registry does not keep."""
    kind = KINDS.get(segment)
    if kind is None:
        raise not_supported(f"{segment}; it keeps models and datasets")
    return kind


def web_prefix(kind: str) -> str:
    """What stands before ``owner/name`` in web and LFS addresses."""
    return "datasets/" if kind == "dataset" else ""


#: What a query selects to make a Repo of its row.
COLUMNS = [repos.c[name] for name in Repo.__slots__]
# Built once: building a statement costs more than running it, and these run with every request for a file.
_BY_KEY = sa.select(*COLUMNS).where(repos.c.kind == sa.bindparam("kind"), repos.c.key == sa.bindparam("key"))
_BY_OLD_NAME = (
    sa.select(*COLUMNS)
    .join(repo_names, repo_names.c.repo_id == repos.c.id)
    .where(repo_names.c.kind == sa.bindparam("kind"), repo_names.c.key == sa.bindparam("key"))
)


def from_row(row: Sequence[Any]) -> Repo:
    """The repository of a row of COLUMNS."""
    return Repo(*row[: len(COLUMNS)])


def find_repo(conn: sa.Connection, kind: str, name: str, caller: Caller, need: Need = "read") -> Repo:
    """The repository, when the caller may do what he needs to. ``kind``: model or dataset; ``name``: ``owner/name``.

    Raises Failure: RepoNotFound (404, 401 to strangers) when it is missing or private to others, GatedRepo (403, 401)
    when its files need a grant, 403 when it is disabled or the right is missing. Raises Moved when it has a new name.
    """
    key = name.lower()
    named = {"kind": kind, "key": key}
    row = conn.execute(_BY_KEY, named).one_or_none()
    moved = row is None
    if row is None:
        row = conn.execute(_BY_OLD_NAME, named).one_or_none()
    repo = None if row is None else from_row(row)
    if repo is None or not caller.may_read(repo.owner, repo.full_name, private=repo.private):
        raise repo_not_found(name, anonymous=caller.anonymous)
    if moved:
        raise Moved(repo)
    if repo.disabled is not None and not (caller.admin and "admin" in caller.scopes):
        raise Failure(403, DISABLED)
    if need == "content" and repo.gated:
        _check_gate(conn, repo, caller)
    elif need in ("write", "own"):
        check_write(repo, caller, "owner" if need == "own" else "maintainer")
    return repo


def check_write(repo: Repo, caller: Caller, role: str = "maintainer") -> None:
    """Raises Failure 401 or 403 unless the caller may change the repository."""
    if caller.anonymous:
        raise unauthorized("This needs a token")
    if not caller.may_write(repo.owner, repo.full_name, "write", role):
        raise forbidden(
            f"{caller.name} may not change {repo.full_name} with this token",
            hint=f"it needs the scope `write`, this repository in its projects, and the role {role} in {repo.owner}",
        )


def check_covered(repo: Repo, caller: Caller) -> None:
    """Raises Failure 403 where a token is for other projects: what everybody may do, it may not do in its owner's name."""
    if not caller.covers(repo.full_name):
        raise forbidden(f"This token is restricted to some projects; {repo.full_name} is none of them")


def _check_gate(conn: sa.Connection, repo: Repo, caller: Caller) -> None:
    if caller.may_read(repo.owner, repo.full_name, private=True):
        return  # the owner's own people
    known = f"Access to {repo.kind} {repo.full_name} is restricted"
    if caller.anonymous:
        raise Failure(401, f"{known}: log in and ask for access at {repo.web_path}", code="GatedRepo")
    status = None
    if "read" in caller.scopes and caller.covers(repo.full_name):
        status = conn.execute(
            sa.select(access_requests.c.status).where(
                access_requests.c.repo_id == repo.id, access_requests.c.user_id == caller.account
            )
        ).scalar_one_or_none()
    if status == "accepted":
        return
    why = {
        "pending": "your request waits for an answer of its owners",
        "rejected": "its owners turned your request down",
    }.get(status or "", f"ask for access at {repo.web_path}")
    raise Failure(403, f"{known}: {why}", code="GatedRepo")


def requested_repo(conn: sa.Connection, request: Request, need: Need = "read", kind: str = "") -> Repo:
    """The repository that the request's address names (``{repo}`` and, unless ``kind`` is given, ``{kind:repos}``).

    Raises what ``find_repo`` raises; a name of the past becomes a redirect (307) to the same address with the new one.
    """
    kind = kind or kind_of(request.params["kind"])
    name = request.params["repo"]
    try:
        return find_repo(conn, kind, name, request.caller, need)
    except Moved as moved:
        raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
        path = raw.decode("latin-1").partition("?")[0]
        target = path.replace(f"/{name}", f"/{quote(moved.repo.full_name)}", 1)
        if target == path:  # the name came in another spelling; a redirect would lead here again
            raise repo_not_found(name, anonymous=request.caller.anonymous) from None
        query = request.scope.get("query_string", b"").decode("latin-1")
        # Without a host: clients before huggingface_hub 1.20 follow only those.
        address = target + (f"?{query}" if query else "")
        raise Failure(307, f"{name} is {moved.repo.full_name} now", headers={"Location": address}) from None


def repo_by_id(conn: sa.Connection, repo_id: int) -> Repo:
    """The repository of a row's id, whoever asks. Raises LookupError."""
    row = conn.execute(sa.select(*COLUMNS).where(repos.c.id == repo_id)).one_or_none()
    if row is None:
        raise LookupError(f"repository {repo_id}")
    return from_row(row)


COMMIT_COLUMNS = [commits.c[name] for name in Commit.__slots__]
_BY_OID = sa.select(*COMMIT_COLUMNS).where(
    commits.c.repo_id == sa.bindparam("repo"), commits.c.oid == sa.bindparam("oid")
)
_BY_REF = (
    sa.select(*COMMIT_COLUMNS)
    .join(refs, sa.and_(refs.c.repo_id == commits.c.repo_id, refs.c.commit == commits.c.oid))
    .where(
        refs.c.repo_id == sa.bindparam("repo"),
        refs.c.kind == sa.bindparam("kind"),
        refs.c.name == sa.bindparam("name"),
    )
)


def find_commit(conn: sa.Connection, repo: Repo, oid: str) -> Commit | None:
    """A commit of this repository by its whole id."""
    row = conn.execute(_BY_OID, {"repo": repo.id, "oid": oid}).one_or_none()
    return None if row is None else Commit(*row)


def head(conn: sa.Connection, repo: Repo, branch: str = "main") -> Commit | None:
    """The last commit of a branch."""
    return _of_ref(conn, repo, "branch", branch)


def _of_ref(conn: sa.Connection, repo: Repo, kind: str, name: str) -> Commit | None:
    row = conn.execute(_BY_REF, {"repo": repo.id, "kind": kind, "name": name}).one_or_none()
    return None if row is None else Commit(*row)


def resolve_revision(conn: sa.Connection, repo: Repo, revision: str) -> Commit:
    """What a revision stands for: a commit (40 digits, or the first 7 and more), a branch, a tag, or a full ref name.

    Branches and tags never share a name. Raises Failure RevisionNotFound, also for ``refs/pr/N``: there are none.
    """
    found: Commit | None = None
    if _COMMIT.fullmatch(revision):
        found = find_commit(conn, repo, revision)
    elif revision.startswith("refs/"):
        for prefix, kind in (("refs/heads/", "branch"), ("refs/tags/", "tag")):
            if revision.startswith(prefix):
                found = _of_ref(conn, repo, kind, revision.removeprefix(prefix))
    else:
        found = _of_ref(conn, repo, "branch", revision) or _of_ref(conn, repo, "tag", revision)
        if found is None and _SHORT.fullmatch(revision):
            found = _by_beginning(conn, repo, revision)
    if found is None:
        raise revision_not_found(revision)
    return found


def _by_beginning(conn: sa.Connection, repo: Repo, beginning: str) -> Commit | None:
    rows = conn.execute(
        sa.select(*COMMIT_COLUMNS)
        .where(commits.c.repo_id == repo.id, commits.c.oid >= beginning, commits.c.oid < beginning + "g")
        .limit(2)
    ).all()
    return Commit(*rows[0]) if len(rows) == 1 else None
