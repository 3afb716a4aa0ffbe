"""Pages' data of models and datasets, and what a reference to one stands for: commit, files, plugins."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from pydantic import Field
from starlette.responses import Response

from llmasos.errors import ManifestError
from llmasos_registry.release_version import is_version
from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.api.access import find_repo
from llmasos_registry.server.api.answers import PluginCandidates, Repository, Resolution
from llmasos_registry.server.api.moments import rfc3339
from llmasos_registry.server.api.operation import Operation, Query, Text, read_query
from llmasos_registry.server.api.release_check import refused
from llmasos_registry.server.api.releases import release_answer
from llmasos_registry.server.api.semver import newest_in, read_range
from llmasos_registry.server.api.snapshot import commit_files, read_manifest
from llmasos_registry.server.context import Request
from llmasos_registry.server.db.tables_hub import releases
from llmasos_registry.server.db.tables_index import package_files, package_releases, projects
from llmasos_registry.server.failures import Failure, bad_request, not_found
from llmasos_registry.server.hub.repository import (
    Commit,
    Repo,
    find_commit,
    head,
    kind_of,
    resolve_revision,
)
from llmasos_registry.server.index.pages import QUARANTINED
from llmasos_registry.server.responses import json_response
from llmasos_registry.signatures.model_files import SIGNATURE_FILE


class ResolveQuery(Query):
    """Which state of a repository is meant; without either the newest release, else the head of main."""

    version: Text = Field(default="", max_length=200, description="a version, or a PEP 440 range")
    revision: Text = Field(default="", max_length=250, description="a branch, tag or commit")


def repository(request: Request) -> Response:
    """A model or dataset with its releases, newest first."""
    params = request.params
    with request.registry.db.read() as conn:
        repo = find_repo(conn, request.caller, kind_of(params["kinds"]), params["org"], params["name"])
        rows = _releases(conn, repo.id)
        main = head(conn, repo)
        answer: Repository = {
            "id": repo.full_name,
            "kind": repo.kind,
            "owner": repo.owner,
            "private": bool(repo.private),
            "gated": repo.gated or False,
            "summary": repo.summary,
            "tags": [str(tag) for tag in repo.tags or ()],
            "downloads": repo.downloads,
            "created_at": rfc3339(repo.created_at),
            "updated_at": rfc3339(repo.updated_at),
            "head": None if main is None else main.oid,
            "serial": repo.serial,
            "releases": [release_answer(row) for row in rows],
        }
    return json_response(answer)


def resolve(request: Request) -> Response:
    """The commit, files and plugins that a reference stands for. The newest release in a range is taken, yanked ones never."""
    query, params, caller = read_query(request, ResolveQuery), request.params, request.caller
    if query.version and query.revision:
        raise bad_request("ask for a version or a revision, not for both")
    with request.registry.db.read() as conn:
        repo = find_repo(conn, caller, kind_of(params["kinds"]), params["org"], params["name"])
        release, commit = _chosen(conn, repo, query)
        files = commit_files(conn, request.registry.objects, commit)
    try:
        manifest = read_manifest(request.registry.store, files, repo.full_name)
    except ManifestError as error:
        raise refused(error.message, error.hint) from error
    with request.registry.db.read() as conn:
        plugins = [_candidates(conn, caller, text) for text in manifest.requires]
    signed = any(file.path == SIGNATURE_FILE for file in files)
    answer: Resolution = {
        "id": repo.full_name,
        "kind": repo.kind,
        "version": None if release is None else release.version,
        "commit": commit.oid,
        "sealed": release is not None,
        "yanked": release is not None and release.yanked_at is not None,
        "yanked_reason": None if release is None else release.yanked_reason,
        "requires": list(manifest.requires),
        "architecture": manifest.architecture,
        "publisher": repo.owner,
        "serial": repo.serial,
        "files": [
            {"path": file.path, "size": file.size, "sha256": file.sha256, "oid": file.oid} for file in files
        ],
        "signature": {"path": SIGNATURE_FILE} if signed else None,
        "plugins": plugins,
    }
    return json_response(answer)


def _chosen(conn: sa.Connection, repo: Repo, query: ResolveQuery) -> tuple[sa.Row[Any] | None, Commit]:
    """(release, commit); the release is None when the revision that is meant was never sealed."""
    known = _releases(conn, repo.id)
    if query.revision:
        commit = resolve_revision(conn, repo, query.revision)
        # Several releases may be one commit: what was asked for by name, then the newest that was not taken back.
        sealed = [row for row in known if row.commit == commit.oid]
        sealed.sort(key=lambda row: (row.version != query.revision, row.yanked_at is not None))
        return (sealed[0] if sealed else None), commit
    offered = {row.version: row for row in known if row.yanked_at is None}
    if is_version(query.version):
        release = next((row for row in known if row.version == query.version), None)
    elif query.version or offered:
        release = offered.get(newest_in(offered, read_range(query.version)) or "")
    else:
        commit_of_main = head(conn, repo)
        if commit_of_main is None:
            raise not_found(f"{repo.full_name} is empty: it has no release and no commit on main")
        return None, commit_of_main
    if release is None:
        raise _no_release(repo, query.version, known)
    commit_of_release = find_commit(conn, repo, release.commit)
    if commit_of_release is None:
        raise LookupError(f"commit {release.commit} of {repo.full_name}@{release.version}")
    return release, commit_of_release


def _no_release(repo: Repo, wanted: str, known: list[sa.Row[Any]]) -> Failure:
    shown = ", ".join(row.version + (" (yanked)" if row.yanked_at is not None else "") for row in known[:10])
    return Failure(
        404,
        f"{repo.full_name} has no release for `{wanted}`",
        code="RevisionNotFound",
        hint=f"there are {shown}"
        if shown
        else "it has no releases; leave the version away for the newest commit",
    )


def _releases(conn: sa.Connection, repo: int) -> list[sa.Row[Any]]:
    rows = conn.execute(sa.select(releases).where(releases.c.repo_id == repo)).all()
    return sorted(rows, key=lambda row: Version(row.version), reverse=True)


def _candidates(conn: sa.Connection, caller: Caller, text: str) -> PluginCandidates:
    """The versions with files of a project that meet a requirement and were not taken back, newest first."""
    requirement = Requirement(text)
    project = conn.execute(
        sa.select(projects).where(projects.c.key == canonicalize_name(requirement.name))
    ).one_or_none()
    found: list[str] = []
    if (
        project is not None
        and project.status != QUARANTINED
        and caller.may_read(project.owner, project.key, private=bool(project.private))
    ):
        rows = conn.execute(
            sa.select(package_releases.c.version, package_releases.c.yanked_at).where(
                package_releases.c.project_id == project.id,
                sa.exists().where(
                    package_files.c.release_id == package_releases.c.id, package_files.c.deleted_at.is_(None)
                ),
            )
        ).all()
        pinned = _is_pin(requirement.specifier)
        offered = [Version(row.version) for row in rows if pinned or row.yanked_at is None]
        found = [str(version) for version in sorted(requirement.specifier.filter(offered), reverse=True)]
    return {"requirement": text, "candidates": found}


def _is_pin(specifier: SpecifierSet) -> bool:
    """Whether exactly one version is named: then a yanked one is meant (PEP 592)."""
    parts = list(specifier)
    return len(parts) == 1 and parts[0].operator in ("==", "===") and not parts[0].version.endswith(".*")


OPERATIONS = (
    Operation("GET", "/v1/{kinds:kinds}/{org}/{name}", repository, "public", {200: Repository}),
    Operation(
        "GET",
        "/v1/{kinds:kinds}/{org}/{name}/resolve",
        resolve,
        "public",
        {200: Resolution},
        query=ResolveQuery,
    ),
)
