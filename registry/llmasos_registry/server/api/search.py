"""Search over projects, models and datasets: by name, by beginnings of words, by words of the description.

Every query looks at a bounded number of candidates, so it costs the same in a registry of a hundred thousand projects.
What a caller may not see is left out by the queries themselves: it neither counts nor shifts pages.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import Field
from starlette.responses import Response

from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.api.answers import Found, SearchResults
from llmasos_registry.server.api.documents import words
from llmasos_registry.server.api.moments import read_moment, rfc3339
from llmasos_registry.server.api.operation import Operation, Query, Text, read_query
from llmasos_registry.server.context import Request
from llmasos_registry.server.db.tables_accounts import accounts
from llmasos_registry.server.db.tables_api import documents
from llmasos_registry.server.failures import bad_request
from llmasos_registry.server.responses import json_response

#: Candidates of each kind of match that are looked at.
CANDIDATES = 200
#: Words of a query that count.
MAX_WORDS = 8
_CURSOR = re.compile(r"[qt]\|[^|\x00]{1,40}\|[0-9]{1,18}")


class SearchQuery(Query):
    """What is looked for."""

    q: Text = Field(default="", max_length=200, description="words; empty: everything, newest first")
    kind: Literal["", "plugin", "package", "model", "dataset"] = Field(
        default="", description="only this kind"
    )
    limit: int = Field(default=20, ge=1, le=100, description="results on a page")
    cursor: Text = Field(default="", max_length=200, description="`next` of the page before")


def search(request: Request) -> Response:
    """Projects, models and datasets that match: exact names first, then names, then descriptions; popular ones first."""
    query, caller = read_query(request, SearchQuery), request.caller
    with request.registry.db.read() as conn:
        seen = _visible(conn, caller)
        if query.kind:
            seen = sa.and_(seen, documents.c.kind == query.kind)
        wanted = list(dict.fromkeys(words(query.q)))[:MAX_WORDS]
        if wanted:
            rows, following = _matches(conn, seen, query, wanted)
        elif query.q.strip():
            rows, following = [], None
        else:
            rows, following = _newest(conn, seen, query)
    results: list[Found] = [
        {
            "kind": row.kind,
            "name": row.name,
            "summary": row.summary,
            "version": row.version,
            "owner": row.owner,
            "downloads": row.downloads,
            "updated_at": rfc3339(row.updated_at),
        }
        for row in rows
    ]
    answer: SearchResults = {"results": results, "next": following}
    return json_response(answer)


def _visible(conn: sa.Connection, caller: Caller) -> sa.ColumnElement[bool]:
    """What this caller may know of: everything public, and what is private in his own namespaces."""
    public = sa.not_(documents.c.private)
    if caller.anonymous or "read" not in caller.scopes:
        return public
    if caller.admin and "admin" in caller.scopes and caller.projects is None:
        return sa.true()
    names = [caller.name.lower(), *caller.roles]
    mine = conn.execute(sa.select(accounts.c.id).where(accounts.c.name_key.in_(names))).scalars().all()
    own: sa.ColumnElement[bool] = documents.c.owner_id.in_(mine)
    if caller.projects is not None:
        # A restricted token sees what it covers; patterns are those of the shell.
        own = own & sa.or_(*(documents.c.key.like(_like(p), escape="\\") for p in caller.projects))
    return sa.or_(public, own)


def _like(pattern: str) -> str:
    """A shell pattern as SQL's, never wider: a character class is taken as nothing at all."""
    text = pattern.lower()
    if "[" in text:
        return "\\%"
    for special in ("\\", "%", "_"):
        text = text.replace(special, "\\" + special)
    return text.replace("*", "%").replace("?", "_")


def _newest(
    conn: sa.Connection, seen: sa.ColumnElement[bool], query: SearchQuery
) -> tuple[Sequence[sa.Row[Any]], str | None]:
    """Without words: everything, the last change first, page by page along the index."""
    statement = sa.select(documents).where(seen)
    if query.cursor:
        moment, number = _read_cursor("t", query.cursor)
        place = sa.tuple_(documents.c.updated_at, documents.c.id)
        statement = statement.where(place < sa.tuple_(_moment(moment), sa.literal(number)))
    rows = conn.execute(
        statement.order_by(documents.c.updated_at.desc(), documents.c.id.desc()).limit(query.limit + 1)
    ).all()
    if len(rows) <= query.limit:
        return rows, None
    last = rows[query.limit - 1]
    return rows[: query.limit], _cursor("t", last.updated_at.isoformat(), last.id)


def _matches(
    conn: sa.Connection, seen: sa.ColumnElement[bool], query: SearchQuery, wanted: list[str]
) -> tuple[Sequence[sa.Row[Any]], str | None]:
    start = 0
    if query.cursor:
        start = _read_cursor("q", query.cursor)[1]
    found = _ranked(conn, seen, query.q.strip().lower(), wanted)
    page = found[start : start + query.limit]
    rows = {row.id: row for row in conn.execute(sa.select(documents).where(documents.c.id.in_(page)))}
    more = _cursor("q", "-", start + query.limit) if start + query.limit < len(found) else None
    return [rows[number] for number in page if number in rows], more


def _ranked(conn: sa.Connection, seen: sa.ColumnElement[bool], text: str, wanted: list[str]) -> list[int]:
    """Ids in order: names that are the query, begin with it, hold its words; then heads, then descriptions.

    Within each, what is downloaded most goes first; of very common words the newest and the most popular are looked at.
    """
    best: dict[int, tuple[int, int, str]] = {}
    joined, first = "-".join(wanted), wanted[0]
    spellings = {text, joined, text.replace("_", "-")}

    def note(rows: Iterable[Any], tier: int) -> None:
        for number, key, downloads, *_ in rows:
            if number in best:
                continue
            short = key.rpartition("/")[2]
            if key in spellings or short in spellings:
                place = 0
            elif key.startswith(joined) or short.startswith(joined):
                place = 1
            elif first in key and _holds(
                " ".join(words(key)), wanted
            ):  # the second is slow, the first seldom true
                place = 2
            else:
                place = tier
            best[number] = (place, -downloads, key)

    columns = sa.select(documents.c.id, documents.c.key, documents.c.downloads)
    beginning = documents.c.key.between(joined, joined + "\U0010ffff")
    note(conn.execute(columns.where(seen, documents.c.key.in_(spellings))).all(), 0)
    note(conn.execute(columns.where(seen, beginning).limit(CANDIDATES)).all(), 1)
    note(conn.execute(_matching(conn, columns, "documents_heads", wanted, seen)).all(), 3)
    if len(best) >= CANDIDATES:
        popular = columns.add_columns(documents.c.heads).where(seen)
        rows = conn.execute(popular.order_by(documents.c.downloads.desc()).limit(CANDIDATES)).all()
        note((row for row in rows if _holds(row.heads, wanted)), 3)
    else:
        note(conn.execute(_matching(conn, columns, "documents_texts", wanted, seen)).all(), 4)
    return sorted(best, key=best.__getitem__)


def _holds(heads: str, wanted: list[str]) -> bool:
    """Whether every word is the beginning of one of ``heads``, which are separated by spaces."""
    padded = f" {heads}"
    return all(f" {word}" in padded for word in wanted)


def _matching(
    conn: sa.Connection,
    columns: sa.Select[Any],
    index: Literal["documents_heads", "documents_texts"],
    wanted: list[str],
    seen: sa.ColumnElement[bool],
) -> sa.Select[Any]:
    """Documents whose heads hold words that begin with every word; or that hold every word itself anywhere."""
    heads = index == "documents_heads"
    if conn.dialect.name == "postgresql":
        vector: sa.ColumnElement[Any] = sa.literal_column(f"documents.{index}")
        asked = sa.func.to_tsquery("simple", " & ".join(f"{word}:*" if heads else word for word in wanted))
        return columns.where(seen, vector.op("@@")(asked)).limit(CANDIDATES)
    # Words hold letters and digits only: nothing in them means anything to FTS5.
    match = " ".join(f'"{word}"*' if heads else f'"{word}"' for word in wanted)
    table = sa.table(index, sa.column("rowid"), sa.column(index))
    return (
        columns.join(table, table.c.rowid == documents.c.id)
        .where(table.c[index].op("MATCH")(match), seen)
        .order_by(table.c.rowid.desc())
        .limit(CANDIDATES)
    )


def _cursor(kind: str, text: str, number: int) -> str:
    return base64.urlsafe_b64encode(f"{kind}|{text}|{number}".encode()).decode().rstrip("=")


def _read_cursor(kind: str, cursor: str) -> tuple[str, int]:
    """(text, number) of a cursor of this kind. Raises Failure 400."""
    try:
        padded = cursor.encode() + b"=" * (-len(cursor) % 4)
        text = base64.b64decode(padded, altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError):
        text = ""
    if not _CURSOR.fullmatch(text) or not text.startswith(kind):
        raise bad_request("the cursor is none of this search", hint="use `next` of the page before as it is")
    _, part, number = text.split("|")
    return part, int(number)


def _moment(text: str) -> Any:
    try:
        moment = read_moment(text)
    except ValueError:
        raise bad_request("the cursor is none of this search") from None
    return sa.literal(moment, documents.c.updated_at.type)


OPERATIONS = (Operation("GET", "/v1/search", search, "public", {200: SearchResults}, query=SearchQuery),)
