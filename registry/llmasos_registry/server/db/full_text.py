"""The full-text indexes over ``documents``, kept up to date by the databases themselves.

One over the heads (name, summary, keywords) that also finds beginnings of words, one over everything for whole words.
The texts are lists of folded words already; nothing is left for a database's own idea of language.
"""

from __future__ import annotations

_UNLIST = """
    INSERT INTO documents_heads (documents_heads, rowid, heads) VALUES ('delete', old.id, old.heads);
    INSERT INTO documents_texts (documents_texts, rowid, heads, body) VALUES ('delete', old.id, old.heads, old.body);
"""
_LIST = """
    INSERT INTO documents_heads (rowid, heads) VALUES (new.id, new.heads);
    INSERT INTO documents_texts (rowid, heads, body) VALUES (new.id, new.heads, new.body);
"""
_HEADS = """CREATE VIRTUAL TABLE documents_heads
    USING fts5 (heads, content='documents', content_rowid='id', detail=none,
    prefix='1 2 3 4 5 6 7 8 9 10')"""
_TEXTS = """CREATE VIRTUAL TABLE documents_texts
    USING fts5 (heads, body, content='documents', content_rowid='id', detail=none)"""
_ADDED = f"CREATE TRIGGER documents_added AFTER INSERT ON documents BEGIN {_LIST} END"
_REMOVED = f"CREATE TRIGGER documents_removed AFTER DELETE ON documents BEGIN {_UNLIST} END"
# Dates and numbers of downloads change often, words seldom.
_CHANGED = f"""CREATE TRIGGER documents_changed AFTER UPDATE OF heads, body ON documents
    WHEN old.heads <> new.heads OR old.body <> new.body BEGIN {_UNLIST} {_LIST} END"""
_COLUMN = "ALTER TABLE documents ADD COLUMN"

#: Dialect -> statements that make the indexes, after the table was made.
CREATE: dict[str, tuple[str, ...]] = {
    "sqlite": (_HEADS, _TEXTS, _ADDED, _REMOVED, _CHANGED),
    # Columns, not indexes over expressions: a plan that reads rows would split their texts again, 0.2 ms each.
    "postgresql": (
        f"{_COLUMN} documents_heads tsvector GENERATED ALWAYS AS (to_tsvector('simple', heads)) STORED",
        f"{_COLUMN} documents_texts tsvector GENERATED ALWAYS AS (to_tsvector('simple', heads || ' ' || body)) STORED",
        "CREATE INDEX ix_documents_heads ON documents USING gin (documents_heads)",
        "CREATE INDEX ix_documents_texts ON documents USING gin (documents_texts)",
    ),
}
