"""What search knows of: one row a project or repository, written in the transaction that changed it.

Text is split into words here, not by the databases, so that SQLite and PostgreSQL find the same things.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from packaging.version import Version

from llmasos_registry.server.db.tables_api import documents
from llmasos_registry.server.db.tables_hub import releases, repos
from llmasos_registry.server.db.tables_index import package_releases, projects

#: Characters of a description that are looked through, and different words kept of it.
MAX_TEXT = 40_000
MAX_WORDS = 2_000
#: Characters of one word: longer ones are data, not language.
MAX_WORD = 40

# Chinese, Japanese and Korean are written without spaces: every character is a word.
_WORD = re.compile(r"[぀-ヿ㐀-鿿豈-﫿가-힯]|[^\W_぀-ヿ㐀-鿿豈-﫿가-힯]+")


def words(text: str) -> Iterator[str]:
    """The words of a text: lower case, without accents, split at everything that is no letter or digit."""
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
        # Composed again: Korean syllables fall apart otherwise.
        text = unicodedata.normalize("NFC", text)
    for word in _WORD.findall(text.casefold()):
        if len(word) <= MAX_WORD:
            yield word


def word_list(texts: Iterable[str], limit: int = MAX_WORDS) -> str:
    """The different words of texts in order, separated by spaces: what the full-text index is made of."""
    found: dict[str, None] = {}
    for text in texts:
        for word in words(text[:MAX_TEXT]):
            found[word] = None
            if len(found) >= limit:
                return " ".join(found)
    return " ".join(found)


def index_document(
    conn: sa.Connection,
    *,
    kind: str,
    key: str,
    name: str,
    owner_id: int,
    owner: str,
    private: bool,
    summary: str,
    version: str | None,
    downloads: int,
    updated_at: datetime,
    keywords: Iterable[str] = (),
    text: str | None = None,
) -> None:
    """Put a thing into search, or say that it changed. ``text`` None keeps the description known."""
    values: dict[str, Any] = {
        "name": name,
        "owner_id": owner_id,
        "owner": owner,
        "private": private,
        "summary": summary,
        "version": version,
        "downloads": downloads,
        "updated_at": updated_at,
        "heads": word_list([name, summary, *keywords], 300),
    }
    if text is not None:
        values["body"] = word_list([text])
    same = (documents.c.kind == kind) & (documents.c.key == key)
    if conn.execute(documents.update().where(same).values(values)).rowcount == 0:
        conn.execute(documents.insert().values({"body": "", **values, "kind": kind, "key": key}))


def remove_document(conn: sa.Connection, kind: str, key: str) -> None:
    """Take a thing out of search: it was deleted or renamed."""
    conn.execute(documents.delete().where(documents.c.kind == kind, documents.c.key == key))


def index_project(conn: sa.Connection, project: int) -> None:
    """Bring search up to date with a project of the package index: call it after any change, in the same transaction."""
    row = conn.execute(sa.select(projects).where(projects.c.id == project)).one()
    other = "package" if row.plugin_id else "plugin"
    remove_document(conn, other, row.key)
    columns = (package_releases.c.version, package_releases.c.yanked_at)
    known = conn.execute(sa.select(*columns).where(package_releases.c.project_id == project)).all()
    offered = [r.version for r in known if r.yanked_at is None] or [r.version for r in known]
    newest = max(offered, key=Version, default=None)
    release = conn.execute(
        sa.select(package_releases.c.description, package_releases.c.manifest).where(
            package_releases.c.project_id == project, package_releases.c.version == newest
        )
    ).one_or_none()
    index_document(
        conn,
        kind="plugin" if row.plugin_id else "package",
        key=row.key,
        name=row.name,
        owner_id=row.owner_id,
        owner=row.owner,
        # A quarantined project is still there for those who own it.
        private=bool(row.private) or row.status == "quarantined",
        summary=row.summary,
        version=newest,
        downloads=row.downloads,
        updated_at=row.updated_at,
        keywords=[row.owner, *_provided(None if release is None else release.manifest)],
        text="" if release is None else release.description,
    )


def index_repo(conn: sa.Connection, repo: int, text: str | None = None) -> None:
    """Bring search up to date with a model or dataset: call it after any change, in the same transaction.

    ``text`` is the card at the head of main, where the caller has it; None keeps what is known.
    """
    row = conn.execute(sa.select(repos).where(repos.c.id == repo)).one()
    columns = (releases.c.version, releases.c.yanked_at)
    known = conn.execute(sa.select(*columns).where(releases.c.repo_id == repo)).all()
    newest = max((r.version for r in known if r.yanked_at is None), key=Version, default=None)
    index_document(
        conn,
        kind=row.kind,
        key=row.key,
        name=f"{row.owner}/{row.name}",
        owner_id=row.owner_id,
        owner=row.owner,
        private=bool(row.private) or row.disabled is not None,
        summary=row.summary,
        version=newest,
        downloads=row.downloads,
        updated_at=row.updated_at,
        keywords=[str(tag) for tag in row.tags or ()],
        text=text,
    )


def _provided(manifest: Any) -> Iterator[str]:
    """Names and summaries of what a plugin brings."""
    provides = manifest.get("provides") if isinstance(manifest, dict) else None
    for item in provides if isinstance(provides, list) else ():
        if isinstance(item, dict):
            yield from (str(item[key]) for key in ("kind", "name", "summary") if key in item)
