"""Reading repositories: what they are, their files, refs and commits."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any
from urllib.parse import parse_qs

import sqlalchemy as sa
from starlette.responses import Response

from llmasos_registry.server.context import Request
from llmasos_registry.server.db.tables_hub import commits, eval_results, refs, repos
from llmasos_registry.server.failures import bad_request, entry_not_found
from llmasos_registry.server.hub.answers import (
    commit_answer,
    entry_answer,
    flag,
    last_commit,
    next_page,
    page_limit,
    repo_fields,
    sibling,
)
from llmasos_registry.server.hub.objects import Entry, Objects, find, listing, walk
from llmasos_registry.server.hub.repository import (
    COMMIT_COLUMNS,
    Commit,
    Repo,
    find_commit,
    head,
    requested_repo,
    resolve_revision,
)
from llmasos_registry.server.responses import json_response
from llmasos_registry.server.routing import Route

TREE_PAGE = 1000
#: With ``expand`` every path's last commit is looked for.
EXPANDED_PAGE = 100
COMMIT_PAGE = 50
#: How far back that search goes.
MAX_SEARCHED = 1000
MAX_PATHS = 10_000


def repo_info(request: Request) -> Response:
    """GET /api/{models|datasets}/{repo}[/revision/{rev}]."""
    revision = request.params.get("rev")
    wanted = request.query_params.getlist("expand") + request.query_params.getlist("expand[]")
    with request.registry.db.read() as conn:
        repo = requested_repo(conn, request)
        commit = head(conn, repo) if revision is None else resolve_revision(conn, repo, revision)
        card = conn.execute(sa.select(repos.c.card).where(repos.c.id == repo.id)).scalar_one()
        answer = repo_fields(repo, card or {})
        if commit is not None:
            answer["sha"] = commit.oid
            if revision is not None:
                answer["lastModified"] = commit_answer(commit)["date"]
            if not wanted or "siblings" in wanted:
                answer["siblings"] = _siblings(
                    conn, request.registry.objects, commit.tree, flag(request, "blobs")
                )
        if "evalResults" in wanted:
            rows = conn.execute(
                sa.select(eval_results.c.details, eval_results.c.filename)
                .where(eval_results.c.repo_id == repo.id)
                .order_by(eval_results.c.filename, eval_results.c.id)
            )
            answer["evalResults"] = [{**row.details, "filename": row.filename} for row in rows]
    if flag(request, "securityStatus"):
        # Honest: files are not scanned here.
        answer["securityRepoStatus"] = {"scansDone": False, "filesWithIssues": []}
    if wanted:
        keep = {"_id", "id", "modelId", *wanted}
        answer = {key: value for key, value in answer.items() if key in keep}
    return json_response(answer)


def _siblings(conn: sa.Connection, objects: Objects, tree: str, blobs: bool) -> list[dict[str, Any]]:
    if blobs:
        return [sibling(entry) for entry in all_files(conn, objects, tree)]
    return [{"rfilename": e.name} for e in listing(conn, objects, tree, recursive=True) if not e.is_tree]


def all_files(conn: sa.Connection, objects: Objects, tree: str) -> Iterator[Entry]:
    """Every file of a tree, in git's order."""
    found = [entry for entry in listing(conn, objects, tree, recursive=True) if not entry.is_tree]
    files = objects.files(conn, (entry.oid for entry in found))
    for entry in found:
        yield Entry(entry.name, entry.oid, files[entry.oid])


def tree(request: Request) -> Response:
    """GET /api/{kind}/{repo}/tree/{rev}[/{path}]: one page of entries."""
    path = request.params.get("path", "").rstrip("/")
    expand = flag(request, "expand")
    limit = page_limit(
        request, EXPANDED_PAGE if expand else TREE_PAGE, EXPANDED_PAGE if expand else TREE_PAGE
    )
    objects = request.registry.objects
    with request.registry.db.read() as conn:
        repo = requested_repo(conn, request)
        commit = resolve_revision(conn, repo, request.params["rev"])
        top = walk(conn, objects, commit.tree, path)
        if top is None or top.file is not None:
            raise entry_not_found(path, commit.oid)
        below = listing(
            conn,
            objects,
            top.oid,
            recursive=flag(request, "recursive"),
            after=request.query_params.get("cursor", ""),
        )
        page = list(islice(below, limit + 1))
        more, page = len(page) > limit, page[:limit]
        files = objects.files(conn, (entry.oid for entry in page if not entry.is_tree))
        prefix = f"{path}/" if path else ""
        entries = [Entry(prefix + e.name, e.oid, None if e.is_tree else files[e.oid]) for e in page]
        changed = _last_commits(conn, objects, repo, commit, entries) if expand else {}
    answer = []
    for entry in entries:
        item = entry_answer(entry)
        if entry.path in changed:
            item["lastCommit"] = last_commit(changed[entry.path])
        answer.append(item)
    headers = next_page(request, cursor=page[-1].name) if more else None
    return json_response(answer, headers={"X-Repo-Commit": commit.oid, **(headers or {})})


def _last_commits(
    conn: sa.Connection, objects: Objects, repo: Repo, commit: Commit, entries: list[Entry]
) -> dict[str, Commit]:
    """The commit that changed each path last. A history that is longer than MAX_SEARCHED leaves old paths out."""
    found: dict[str, Commit] = {}
    pending = {entry.path: entry.oid for entry in entries}
    for _ in range(MAX_SEARCHED):
        if not pending:
            break
        parent = None if commit.parent is None else find_commit(conn, repo, commit.parent)
        for path, oid in list(pending.items()):
            before = None if parent is None else find(conn, objects, parent.tree, path)
            if before is None or before.oid != oid:
                found[path] = commit
                del pending[path]
        if parent is None:
            break
        commit = parent
    return found


def paths_info(request: Request) -> Response:
    """POST /api/{kind}/{repo}/paths-info/{rev}: entries of the paths sent; unknown ones are left out."""
    paths, expand = _sent_paths(request)
    objects = request.registry.objects
    with request.registry.db.read() as conn:
        repo = requested_repo(conn, request)
        commit = resolve_revision(conn, repo, request.params["rev"])
        found = [walk(conn, objects, commit.tree, path.strip("/")) for path in paths if path.strip("/")]
        entries = [entry for entry in found if entry is not None]
        changed = _last_commits(conn, objects, repo, commit, entries) if expand else {}
    answer = []
    for entry in entries:
        item = entry_answer(entry)
        if entry.path in changed:
            item["lastCommit"] = last_commit(changed[entry.path])
        answer.append(item)
    return json_response(answer, headers={"X-Repo-Commit": commit.oid})


def _sent_paths(request: Request) -> tuple[list[str], bool]:
    """Paths and ``expand``: as a form (Python clients), or as JSON (JavaScript clients)."""
    if request.headers.get("content-type", "").startswith("application/json"):
        body = request.json_object()
        paths, expand = body.get("paths", []), body.get("expand") is True
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            raise bad_request("`paths` must be a list of strings")
    else:
        try:
            form = parse_qs(request.body_bytes.decode(), max_num_fields=MAX_PATHS + 1)
        except ValueError:
            raise bad_request(f"the form cannot be read, or has more than {MAX_PATHS} fields") from None
        paths, expand = form.get("paths", []), form.get("expand", [""])[-1].lower() in ("true", "1")
    if len(paths) > (EXPANDED_PAGE if expand else MAX_PATHS):
        raise bad_request(f"at most {EXPANDED_PAGE if expand else MAX_PATHS} paths can be asked for at once")
    return list(dict.fromkeys(paths)), expand


def repo_refs(request: Request) -> Response:
    """GET /api/{kind}/{repo}/refs."""
    with request.registry.db.read() as conn:
        repo = requested_repo(conn, request)
        rows = conn.execute(
            sa.select(refs.c.kind, refs.c.name, refs.c.commit)
            .where(refs.c.repo_id == repo.id)
            .order_by(refs.c.name)
        ).all()
    answer: dict[str, list[dict[str, str]]] = {"branches": [], "converts": [], "tags": []}
    if flag(request, "include_prs"):
        answer["pullRequests"] = []
    for row in rows:
        group, prefix = ("branches", "refs/heads/") if row.kind == "branch" else ("tags", "refs/tags/")
        answer[group].append({"name": row.name, "ref": prefix + row.name, "targetCommit": row.commit})
    return json_response(answer)


def repo_commits(request: Request) -> Response:
    """GET /api/{kind}/{repo}/commits/{rev}: newest first, a page at a time."""
    limit = page_limit(request, COMMIT_PAGE, 100)
    with request.registry.db.read() as conn:
        repo = requested_repo(conn, request)
        start = request.query_params.get("cursor") or request.params["rev"]
        first = resolve_revision(conn, repo, start)
        page = history(conn, repo, first, limit + 1)
    more, page = len(page) > limit, page[: limit + 1]
    headers = dict(next_page(request, cursor=page[limit].oid)) if more else {}
    return json_response(
        [commit_answer(commit) for commit in page[:limit]],
        headers={"X-Total-Count": str(first.depth + 1), **headers},
    )


def history(conn: sa.Connection, repo: Repo, first: Commit, limit: int) -> list[Commit]:
    """A commit and those before it, at most ``limit``."""
    line = (
        sa.select(*COMMIT_COLUMNS)
        .where(commits.c.repo_id == repo.id, commits.c.oid == first.oid)
        .cte("line", recursive=True)
    )
    line = line.union_all(
        sa.select(*COMMIT_COLUMNS).where(commits.c.repo_id == repo.id, commits.c.oid == line.c.parent)
    )
    rows = conn.execute(sa.select(line).limit(limit))
    return [Commit(*row) for row in rows]


_REPO = "/api/{kind:repos}/{repo}"
ROUTES: tuple[Route, ...] = (
    Route("GET", f"{_REPO}/tree/{{rev}}", tree, "public"),
    Route("GET", f"{_REPO}/tree/{{rev}}/{{path:path}}", tree, "public"),
    Route("POST", f"{_REPO}/paths-info/{{rev}}", paths_info, "public", body=4 << 20),
    Route("GET", f"{_REPO}/refs", repo_refs, "public"),
    Route("GET", f"{_REPO}/commits/{{rev}}", repo_commits, "public"),
    Route("GET", f"{_REPO}/revision/{{rev}}", repo_info, "public"),
    Route("GET", _REPO, repo_info, "public"),
)
