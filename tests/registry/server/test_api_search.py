"""Search: what is found, in which order, page by page, and what nobody learns from it."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from registries import InProcess
from registry_seeds import CARD_TEXT, seed_project, seed_repo

from llmasos_registry.server.api.documents import index_document, remove_document, word_list, words
from llmasos_registry.server.db.engine import utcnow


@pytest.fixture
def ann(app: InProcess) -> str:
    return app.user("ann")


def found(app: InProcess, q: str, token: str | None = None, **more: Any) -> list[str]:
    answer = app.get("/v1/search", token, params={"q": q, **more})
    assert answer.status_code == 200, answer.text
    return [row["name"] for row in answer.json()["results"]]


def add(app: InProcess, name: str, **more: Any) -> None:
    values = {
        "kind": "plugin",
        "key": name.lower(),
        "name": name,
        "owner_id": 1,
        "owner": "ann",
        "private": False,
        "summary": "",
        "version": "1.0",
        "downloads": 0,
        "updated_at": utcnow(),
        **more,
    }
    with app.db.write() as conn:
        index_document(conn, **values)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("llmasos-acme_2.Fast", ["llmasos", "acme", "2", "fast"]),
        ("Überraschung café", ["uberraschung", "cafe"]),
        ("\u6a21\u578bgpt2", ["\u6a21", "\u578b", "gpt2"]),
        ("\ud55c\uae00", ["\ud55c", "\uae00"]),
        ("x" * 41 + " ok", ["ok"]),
        ('a" OR b* NEAR(c) -d:e', ["a", "or", "b", "near", "c", "d", "e"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert list(words(text)) == expected


def test_word_lists_are_bounded() -> None:
    assert word_list(["a b a", "b c"]) == "a b c"
    assert len(word_list([" ".join(str(n) for n in range(10_000))], 50).split()) == 50


def test_names_beginnings_and_descriptions(app: InProcess, ann: str) -> None:
    seed_project(app, "ann", "llmasos-rivers", {"1.0.0": b"a", "1.2.0": b"b"}, summary="Flow of water")
    seed_repo(app, "ann/Tiny", {"README.md": CARD_TEXT})
    seed_repo(app, "ann/corpus", {"README.md": b"# Corpus\n\nLetters about rivers."}, kind="dataset")
    assert found(app, "rivers")[0] == "llmasos-rivers"
    assert set(found(app, "rivers")) == {"llmasos-rivers", "ann/Tiny", "ann/corpus"}
    assert found(app, "riv") == found(app, "RIV\u00c9")
    assert found(app, "llmasos_riv") == ["llmasos-rivers"]
    assert found(app, "riv")[0] == "llmasos-rivers"
    assert found(app, "tiny") == found(app, "ann/tiny") == ["ann/Tiny"]
    assert found(app, "tiny rivers") == ["ann/Tiny"]
    assert found(app, "rivers", kind="dataset") == ["ann/corpus"]
    assert found(app, "water flow") == ["llmasos-rivers"]
    assert found(app, "nothing of the kind") == found(app, "!!!") == []
    row = app.get("/v1/search", params={"q": "llmasos-rivers"}).json()["results"][0]
    assert (row["kind"], row["version"], row["summary"], row["owner"]) == (
        "plugin",
        "1.2.0",
        "Flow of water",
        "ann",
    )


def test_newest_version_that_was_not_taken_back(app: InProcess, ann: str) -> None:
    seed_project(app, "ann", "llmasos-acme", {"1.9.0": b"a", "1.10.0": b"b"})
    app.post("/v1/plugins/llmasos-acme/versions/1.10.0/yank", ann, json={})
    assert app.get("/v1/search", params={"q": "acme"}).json()["results"][0]["version"] == "1.9.0"


def test_exact_then_beginning_then_popular(app: InProcess, ann: str) -> None:
    for name, downloads in [("alpha-river", 9), ("river-tools", 1), ("river", 0), ("beta-river", 50)]:
        add(app, name, downloads=downloads)
    add(app, "popular", downloads=1000, text="about a river")
    assert found(app, "river") == ["river", "river-tools", "beta-river", "alpha-river", "popular"]


def test_pages_hold_everything_once(app: InProcess, ann: str) -> None:
    for number in range(23):
        add(app, f"thing-{number:02}")
    for q in ("thing", ""):
        names: list[str] = []
        cursor = ""
        for _ in range(10):
            answer = app.get("/v1/search", params={"q": q, "limit": 5, "cursor": cursor}).json()
            names += [row["name"] for row in answer["results"]]
            if answer["next"] is None:
                break
            cursor = answer["next"]
        assert sorted(names) == [f"thing-{number:02}" for number in range(23)]


@pytest.mark.parametrize("cursor", ["x", "AAAA", "cXwtfDF8", "\u00e9", "dHx4fDE"])
def test_foreign_cursors_are_refused(app: InProcess, cursor: str) -> None:
    assert app.get("/v1/search", params={"cursor": cursor}).status_code == 400


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "2026-01-01"])
def test_a_cursor_with_a_time_that_no_utc_has_is_refused(app: InProcess, moment: str) -> None:
    cursor = base64.urlsafe_b64encode(f"t|{moment}|1".encode()).decode()
    assert app.get("/v1/search", params={"cursor": cursor}).status_code == 400
    cursor = base64.urlsafe_b64encode(json.dumps([moment, 1]).encode()).decode()
    listed = app.get("/api/models", params={"sort": "lastModified", "cursor": cursor})
    assert listed.status_code == 400


@pytest.mark.parametrize(
    "query", [{"limit": 0}, {"limit": 101}, {"limit": "x"}, {"kind": "space"}, {"q": "a" * 201}]
)
def test_queries_are_checked(app: InProcess, query: dict[str, Any]) -> None:
    refused = app.get("/v1/search", params=query)
    assert refused.status_code == 400
    assert next(iter(query)) in refused.json()["error"]


def test_private_things_do_not_show(app: InProcess, ann: str) -> None:
    bob, restricted = app.user("bob"), app.user("ann", ["read"], projects=["ann/secret-a*"])
    app.org("acme", {"bob": "owner", "ann": "reader"})
    seed_repo(app, "ann/secret-a", {"README.md": CARD_TEXT}, private=True)
    seed_repo(app, "ann/secret-b", {"README.md": CARD_TEXT}, private=True)
    seed_repo(app, "acme/secret-c", {"README.md": CARD_TEXT}, private=True)
    seed_repo(app, "ann/secretly-public", {"README.md": CARD_TEXT})
    public = ["ann/secretly-public"]
    for q in ("secret", "rivers", ""):
        assert found(app, q) == public
        assert set(found(app, q, ann)) == {*public, "ann/secret-a", "ann/secret-b", "acme/secret-c"}
        assert set(found(app, q, bob)) == {*public, "acme/secret-c"}
        assert set(found(app, q, restricted)) == {*public, "ann/secret-a"}
        # Nor do they shift pages: one result, and no page after it.
        answer = app.get("/v1/search", params={"q": q, "limit": 1}).json()
        assert (len(answer["results"]), answer["next"]) == (1, None)


@pytest.mark.parametrize(
    ("pattern", "seen"), [("ann/x_1", ["ann/x_1"]), ("ann/[x]*", []), ("*", ["ann/x_1", "ann/xa1"])]
)
def test_patterns_of_tokens_mean_what_they_say(
    app: InProcess, ann: str, pattern: str, seen: list[str]
) -> None:
    for name in ("ann/x_1", "ann/xa1"):
        seed_repo(app, name, {"README.md": CARD_TEXT}, private=True)
    assert found(app, "ann", app.user("ann", ["read"], projects=[pattern])) == seen


def test_changes_and_removals_show_at_once(app: InProcess, ann: str) -> None:
    add(app, "old-words", summary="lakes", text="ponds")
    assert found(app, "lakes") == found(app, "ponds") == ["old-words"]
    add(app, "old-words", summary="seas")
    assert found(app, "lakes") == []
    assert found(app, "seas") == found(app, "ponds") == ["old-words"]
    with app.db.write() as conn:
        remove_document(conn, "plugin", "old-words")
    assert found(app, "seas") == found(app, "ponds") == found(app, "old-words") == []


def test_common_words_still_find_the_popular_and_the_exact(app: InProcess, ann: str) -> None:
    add(app, "zz-first", summary="common", downloads=10_000)
    add(app, "common", downloads=0)
    for number in range(300):
        add(app, f"filler-{number}", summary="common thing")
    names = found(app, "common", limit=100)
    assert names[:2] == ["common", "zz-first"]


@pytest.mark.parametrize(
    "q", ['"', "'; DROP TABLE documents", "a AND", "col:x", "*", "%", "\\", "\U0001f600", "NOT", "a' | b"]
)
def test_queries_are_words_not_syntax(app: InProcess, ann: str, q: str) -> None:
    add(app, "thing")
    assert app.get("/v1/search", params={"q": q}).status_code == 200
