"""Writing history: new trees from changed paths, a commit, the branch moved from exactly the commit it stood on.

Everything happens in the caller's transaction, which holds no network and no hashing of files: content is in the store
and in ``git_blobs`` before. The same change sent twice (a client repeats what it heard no answer to) is one commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from llmasos_registry.server.accounts.audit import audit, emit
from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.api.documents import index_repo
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.serial import next_serial
from llmasos_registry.server.db.tables_hub import commits, eval_results, refs, repo_tags, repos
from llmasos_registry.server.db.tables_store import git_trees
from llmasos_registry.server.failures import Failure, bad_request, entry_not_found, revision_not_found
from llmasos_registry.server.hub.card import CARD, MANIFEST, RESULTS, Facts, card_tags
from llmasos_registry.server.hub.objects import Names, Objects, find, stored_files
from llmasos_registry.server.hub.paths import safe_path
from llmasos_registry.server.hub.repository import Commit, Repo, find_commit
from llmasos_registry.server.store.git import EMPTY_TREE, TreeEntry, commit_id, object_id, tree_data

#: Names in one folder. The Hub advises 10,000; beyond this a listing serves nobody.
MAX_FOLDER = 100_000
MAX_TITLE = 500
MAX_MESSAGE = 65_536


@dataclass(frozen=True, slots=True)
class Put:
    """The file at ``path`` is the git blob ``oid`` from now on."""

    path: str
    oid: str


@dataclass(frozen=True, slots=True)
class Delete:
    """The file, or with ``folder`` everything below, is gone."""

    path: str
    folder: bool = False


Change = Put | Delete


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a commit. ``created`` is False when the branch held it already."""

    oid: str
    created: bool
    #: New names that differ from a neighbour by case only: they cannot lie side by side on Windows and macOS.
    collisions: tuple[str, ...] = ()


@dataclass(slots=True)
class _Folder:
    """A folder while it is being changed; subfolders appear here when a change goes into them."""

    names: dict[str, TreeEntry]
    open: dict[str, _Folder] = field(default_factory=dict)


class _Edit:
    """One tree under change. Only folders on the way to a change are read and written."""

    def __init__(self, conn: sa.Connection, objects: Objects, tree: str) -> None:
        self.conn = conn
        self.objects = objects
        self.root = _Folder(dict(self._names(tree)))
        self.missing: list[Delete] = []
        self.collisions: list[str] = []

    def _names(self, tree: str) -> Names:
        return self.objects.tree(self.conn, tree)

    def _enter(self, folder: _Folder, name: str) -> _Folder | None:
        """The subfolder, ready to be changed; None when there is no folder of that name."""
        known = folder.open.get(name)
        if known is not None:
            return known
        entry = folder.names.get(name)
        if entry is None or not entry.is_tree:
            return None
        folder.open[name] = _Folder(dict(self._names(entry.oid)))
        return folder.open[name]

    def put(self, path: str, oid: str) -> None:
        *folders, name = path.split("/")
        place = self.root
        for position, part in enumerate(folders):
            inner = self._enter(place, part)
            if inner is None:
                if part in place.names:
                    taken = "/".join(folders[: position + 1])
                    raise bad_request(f"Cannot write {path}: {taken} is a file, not a folder")
                place.names[part] = TreeEntry(part, EMPTY_TREE, True)
                inner = place.open[part] = _Folder({})
            place = inner
        before = place.names.get(name)
        if before is not None and before.is_tree:
            raise bad_request(f"Cannot write {path}: it is a folder")
        place.names[name] = TreeEntry(name, oid, False)

    def delete(self, change: Delete) -> None:
        *folders, name = change.path.split("/")
        place: _Folder | None = self.root
        for part in folders:
            place = self._enter(place, part) if place is not None else None
        entry = place.names.get(name) if place is not None else None
        if place is None or entry is None or entry.is_tree != change.folder:
            self.missing.append(change)
            return
        del place.names[name]
        place.open.pop(name, None)

    def write(self) -> tuple[str, dict[str, bytes]]:
        """(id of the new tree, every tree that may be new). Folders without files vanish, as in git."""
        made: dict[str, bytes] = {}
        return self._write(self.root, "", made), made

    def _write(self, folder: _Folder, prefix: str, made: dict[str, bytes]) -> str:
        for name, inner in folder.open.items():
            oid = self._write(inner, f"{prefix}{name}/", made)
            if oid == EMPTY_TREE:
                del folder.names[name]
            else:
                folder.names[name] = TreeEntry(name, oid, True)
        if len(folder.names) > MAX_FOLDER:
            raise bad_request(
                f"The folder {prefix or '/'} would hold {len(folder.names)} names; {MAX_FOLDER} are allowed",
                hint="spread the files over subfolders",
            )
        if not folder.names:
            return EMPTY_TREE
        folded: dict[str, str] = {}
        for name in folder.names:
            other = folded.setdefault(name.casefold(), name)
            if other != name:
                self.collisions.append(f"{prefix}{name}")
        data = tree_data(folder.names.values())
        oid = object_id("tree", data)
        made[oid] = data
        return oid


def _apply(conn: sa.Connection, objects: Objects, tree: str, changes: Sequence[Change]) -> _Edit:
    """Deletions first, so that a folder can become a file in one commit."""
    edit = _Edit(conn, objects, tree)
    for change in changes:
        if isinstance(change, Delete):
            edit.delete(change)
    for change in changes:
        if isinstance(change, Put):
            edit.put(change.path, change.oid)
    return edit


def write_commit(
    conn: sa.Connection,
    objects: Objects,
    repo: Repo,
    branch: str,
    changes: Sequence[Change],
    *,
    caller: Caller,
    title: str,
    message: str = "",
    parent: str | None = None,
    facts: Facts | None = None,
) -> Written:
    """Commit changes to a branch and move it. The caller checked the right to write (``find_repo(..., "write")``).

    ``parent``: the commit the client saw, whole or its first 7 digits and more; another head is a Failure 412.
    ``facts``: ``read_facts`` of the changed files that ``is_read`` names; they become the listing of the repository when
    the branch is main. Raises Failure: 400 for paths and blobs that cannot be, 404 for a missing branch or deleted file.
    """
    changes = [_checked(change) for change in changes]
    _check_blobs(conn, changes)
    # Row lock on PostgreSQL: from here to the end of the transaction nobody else moves this branch.
    locked = conn.execute(
        sa.select(refs.c.commit)
        .where(refs.c.repo_id == repo.id, refs.c.kind == "branch", refs.c.name == branch)
        .with_for_update()
    ).scalar_one_or_none()
    if locked is None:
        raise revision_not_found(branch)
    before = find_commit(conn, repo, locked)
    if before is None:
        raise LookupError(f"commit {locked} of {repo.full_name} is missing")
    title = _line(title)
    stale = parent is not None and not (len(parent) >= 7 and before.oid.startswith(parent.lower()))
    edit = _apply(conn, objects, before.tree, changes)
    if (stale or edit.missing) and _is_repeat(conn, objects, repo, before, changes, caller, title, parent):
        return Written(before.oid, False)
    if stale:
        raise Failure(
            412,
            f"A commit has happened since: {branch} is at {before.oid}, not at {parent}",
            hint="fetch the new state and try again",
        )
    if edit.missing:
        raise entry_not_found(edit.missing[0].path, before.oid)
    tree, made = edit.write()
    if tree == before.tree:
        return Written(before.oid, False)
    insert_ignoring(conn, git_trees, [{"oid": oid, "data": data} for oid, data in made.items()])
    commit = add_commit(conn, repo, tree, before, caller.name, title, message)
    conn.execute(
        refs.update()
        .where(refs.c.repo_id == repo.id, refs.c.kind == "branch", refs.c.name == branch)
        .values(commit=commit.oid)
    )
    _note(conn, objects, repo, branch, before, commit, changes, caller, facts or Facts())
    return Written(commit.oid, True, tuple(edit.collisions[:20]))


def _checked(change: Change) -> Change:
    path = change.path.rstrip("/") if isinstance(change, Delete) and change.folder else change.path
    safe_path(path)
    return Delete(path, change.folder) if isinstance(change, Delete) else change


def _check_blobs(conn: sa.Connection, changes: Iterable[Change]) -> None:
    wanted = {change.oid for change in changes if isinstance(change, Put)}
    missing = wanted - stored_files(conn, wanted).keys()
    if missing:
        path = next(c.path for c in changes if isinstance(c, Put) and c.oid in missing)
        raise bad_request(f"The content of {path} was not uploaded", hint="upload it, then commit again")


def _line(title: str) -> str:
    return " ".join(title.replace("\0", " ").split())[:MAX_TITLE] or "Upload files"


def _is_repeat(
    conn: sa.Connection,
    objects: Objects,
    repo: Repo,
    before: Commit,
    changes: Sequence[Change],
    caller: Caller,
    title: str,
    parent: str | None,
) -> bool:
    """Whether the head of the branch is what this very request made when it came the first time."""
    if before.parent is None or before.author != caller.name or before.title != title:
        return False
    if parent is not None and not before.parent.startswith(parent.lower()):
        return False
    earlier = find_commit(conn, repo, before.parent)
    if earlier is None:
        return False
    edit = _apply(conn, objects, earlier.tree, changes)
    return not edit.missing and edit.write()[0] == before.tree


def first_commit(conn: sa.Connection, repo: Repo, author: str) -> Commit:
    """The commit without files that a new repository starts with, and ``main`` on it."""
    commit = add_commit(conn, repo, EMPTY_TREE, None, author, "initial commit", "")
    conn.execute(
        refs.insert().values(
            repo_id=repo.id, kind="branch", name="main", commit=commit.oid, created_at=utcnow()
        )
    )
    return commit


def add_commit(
    conn: sa.Connection, repo: Repo, tree: str, parent: Commit | None, author: str, title: str, message: str
) -> Commit:
    """A row for a commit whose id git computes the same. Times are whole seconds, as git keeps them."""
    at = utcnow().replace(microsecond=0)
    message = message.replace("\0", " ")[:MAX_MESSAGE]
    text = f"{title}\n\n{message}" if message else f"{title}\n"
    oid = commit_id(tree, [parent.oid] if parent else [], author, at, text)
    commit = Commit(
        oid,
        tree,
        parent.oid if parent else None,
        author,
        title,
        message,
        at,
        parent.depth + 1 if parent else 0,
    )
    row = {name: getattr(commit, name) for name in Commit.__slots__}
    insert_ignoring(conn, commits, [{"repo_id": repo.id, **row}])
    return commit


def insert_ignoring(conn: sa.Connection, table: sa.Table, rows: Sequence[dict[str, object]]) -> None:
    """Insert rows; those whose key is there already stay as they are."""
    insert = postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert
    if rows:
        conn.execute(insert(table).on_conflict_do_nothing(), list(rows))


def _note(
    conn: sa.Connection,
    objects: Objects,
    repo: Repo,
    branch: str,
    before: Commit,
    commit: Commit,
    changes: Sequence[Change],
    caller: Caller,
    facts: Facts,
) -> None:
    """Everything that hangs on a new commit: size, serial, listing, audit, event."""
    puts = {change.path: change.oid for change in changes if isinstance(change, Put)}
    files = stored_files(conn, puts.values())
    added = 0
    for path, oid in puts.items():
        old = find(conn, objects, before.tree, path)
        if old is None or old.oid != oid:
            added += files[oid].size
    values: dict[str, object] = {
        "updated_at": commit.created_at,
        "bytes": repos.c.bytes + added,
        "serial": next_serial(conn),
    }
    if branch == "main":
        values |= _listing_values(conn, repo, changes, facts)
    conn.execute(repos.update().where(repos.c.id == repo.id).values(values))
    if branch == "main":
        index_repo(conn, repo.id, facts.text if any(change.path == CARD for change in changes) else None)
    detail = {"commit": commit.oid, "parent": before.oid, "branch": branch}
    audit(conn, caller, "commit", f"{repo.kind}:{repo.full_name}", detail | {"title": commit.title})
    emit(conn, f"{repo.kind}.commit", repo.full_name, detail | {"title": commit.title, "author": caller.name})


def _listing_values(
    conn: sa.Connection, repo: Repo, changes: Sequence[Change], facts: Facts
) -> dict[str, object]:
    """What main says of the repository now; files that did not change keep saying it."""
    changed = {change.path for change in changes}
    results = [path for path in changed if path.startswith(RESULTS)]
    if any(isinstance(c, Delete) and c.folder and f"{c.path}/" == RESULTS for c in changes):
        conn.execute(eval_results.delete().where(eval_results.c.repo_id == repo.id))
    elif results:
        conn.execute(
            eval_results.delete().where(
                eval_results.c.repo_id == repo.id, eval_results.c.filename.in_(results)
            )
        )
    rows = [
        {
            "repo_id": repo.id,
            "dataset": r.dataset.lower(),
            "task": r.task,
            "value": r.value,
            "filename": r.filename,
            "details": dict(r.details),
        }
        for found in facts.results.values()
        for r in found
    ]
    if rows:
        conn.execute(eval_results.insert(), rows)
    values: dict[str, object] = {}
    if CARD in changed:
        tags = card_tags(facts.card, repo.kind)
        values |= {"card": facts.card, "tags": tags, "summary": facts.summary}
        conn.execute(repo_tags.delete().where(repo_tags.c.repo_id == repo.id))
        insert_ignoring(conn, repo_tags, [{"repo_id": repo.id, "tag": tag} for tag in tags])
    if MANIFEST in changed:
        values["manifest"] = facts.manifest
    return values
