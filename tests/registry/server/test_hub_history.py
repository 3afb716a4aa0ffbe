"""The git model over tables: trees, commits and refs with the ids git gives them."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.context import Registry
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.tables_accounts import accounts
from llmasos_registry.server.db.tables_hub import commits, repos
from llmasos_registry.server.db.tables_store import git_blobs, git_trees
from llmasos_registry.server.failures import Failure
from llmasos_registry.server.hub.card import read_facts
from llmasos_registry.server.hub.history import Change, Delete, Put, Written, first_commit, write_commit
from llmasos_registry.server.hub.objects import Objects, listing, walk
from llmasos_registry.server.hub.paths import safe_path, safe_ref
from llmasos_registry.server.hub.repository import Repo, find_repo, head, repo_by_id, resolve_revision
from llmasos_registry.server.serve import open_registry
from llmasos_registry.server.settings import Settings
from llmasos_registry.server.store.blobs import record_blob
from llmasos_registry.server.store.git import blob_id, commit_data

ANN = Caller(account=1, name="ann", scopes=frozenset({"read", "write"}))


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    made = open_registry(Settings(data=tmp_path / "data"))
    with made.db.write() as conn:
        conn.execute(
            accounts.insert().values(id=1, name="ann", name_key="ann", kind="user", created_at=utcnow())
        )
    yield made
    made.db.close()


@pytest.fixture
def repo(registry: Registry) -> Repo:
    now = utcnow()
    with registry.db.write() as conn:
        number = conn.execute(
            repos.insert()
            .values(
                kind="model",
                owner_id=1,
                owner="ann",
                name="Tiny",
                key="ann/tiny",
                created_at=now,
                updated_at=now,
            )
            .returning(repos.c.id)
        ).scalar_one()
        made = repo_by_id(conn, number)
        first_commit(conn, made, "ann")
    return made


def blob(registry: Registry, conn: sa.Connection, data: bytes) -> str:
    stored = registry.store.put(data)
    record_blob(conn, stored)
    oid = blob_id(data)
    if not conn.execute(sa.select(git_blobs.c.oid).where(git_blobs.c.oid == oid)).first():
        conn.execute(git_blobs.insert().values(oid=oid, sha256=stored.sha256, size=stored.size, lfs=False))
    return oid


def commit(
    registry: Registry,
    repo: Repo,
    files: dict[str, bytes],
    *deleted: Delete,
    title: str = "change",
    parent: str | None = None,
    objects: Objects | None = None,
) -> Written:
    facts = read_facts(files)
    with registry.db.write() as conn:
        changes: list[Change] = [*deleted, *(Put(p, blob(registry, conn, data)) for p, data in files.items())]
        return write_commit(
            conn,
            objects or registry.objects,
            repo,
            "main",
            changes,
            caller=ANN,
            title=title,
            parent=parent,
            facts=facts,
        )


def paths(registry: Registry, repo: Repo, after: str = "") -> list[str]:
    with registry.db.read() as conn:
        tree = resolve_revision(conn, repo, "main").tree
        return [e.name for e in listing(conn, registry.objects, tree, recursive=True, after=after)]


def test_ids_are_those_of_git(registry: Registry, repo: Repo, tmp_path: Path) -> None:
    files = {"a.txt": b"one\n", "a/b.txt": b"two", "a-b": b"", "z/y/x.bin": bytes(range(256))}
    commit(registry, repo, files)
    work = tmp_path / "work"
    for name, data in files.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True) if name != "a/b.txt" else None
        target = work / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def git(*words: str, data: bytes | None = None) -> str:
        done = subprocess.run(["git", *words], cwd=work, input=data, capture_output=True, check=True)
        return done.stdout.decode().strip()

    git("init", "-q")
    git("add", ".")
    with registry.db.read() as conn:
        last = resolve_revision(conn, repo, "main")
        assert last.tree == git("write-tree")
        data = commit_data(last.tree, [last.parent or ""], "ann", last.created_at, f"{last.title}\n")
        assert last.oid == git("hash-object", "-t", "commit", "--stdin", "--literally", data=data)
        entry = walk(conn, registry.objects, last.tree, "z/y/x.bin")
        assert entry is not None
        assert entry.oid == git("hash-object", "z/y/x.bin")


def test_a_change_writes_only_the_folders_on_its_way(registry: Registry, repo: Repo) -> None:
    commit(registry, repo, {f"d{i}/f{j}": f"{i}{j}".encode() for i in range(4) for j in range(4)})
    with registry.db.read() as conn:
        before = conn.execute(sa.select(sa.func.count()).select_from(git_trees)).scalar_one()
    commit(registry, repo, {"d1/f1": b"new"})
    with registry.db.read() as conn:
        assert conn.execute(sa.select(sa.func.count()).select_from(git_trees)).scalar_one() == before + 2


def test_the_same_change_again_is_no_commit(registry: Registry, repo: Repo) -> None:
    first = commit(registry, repo, {"a": b"1", "b": b"2"})
    again = commit(registry, repo, {"a": b"1", "b": b"2"})
    assert (first.created, again.created) == (True, False)
    assert again.oid == first.oid


def test_a_repeated_request_is_answered_as_the_first_time(registry: Registry, repo: Repo) -> None:
    start = commit(registry, repo, {"a": b"1"})
    first = commit(registry, repo, {"b": b"2"}, Delete("a"), title="swap", parent=start.oid)
    again = commit(registry, repo, {"b": b"2"}, Delete("a"), title="swap", parent=start.oid)
    assert again == dataclasses.replace(first, created=False)
    with pytest.raises(Failure) as refused:
        commit(registry, repo, {"b": b"3"}, title="swap", parent=start.oid)
    assert refused.value.status == 412
    assert start.oid in refused.value.message
    with pytest.raises(Failure) as missing:
        commit(registry, repo, {}, Delete("a"), title="another")
    assert (missing.value.status, missing.value.code) == (404, "EntryNotFound")


def test_folders_vanish_with_their_files(registry: Registry, repo: Repo) -> None:
    commit(registry, repo, {"x/y/z": b"1", "x/w": b"2", "k": b"3"})
    commit(registry, repo, {}, Delete("x/y/z"))
    assert paths(registry, repo) == ["k", "x", "x/w"]
    commit(registry, repo, {"x": b"now a file"}, Delete("x/", folder=True))
    assert paths(registry, repo) == ["k", "x"]
    with pytest.raises(Failure, match="x is a file, not a folder"):
        commit(registry, repo, {"x/deep": b"4"})


def test_listing_goes_on_after_any_path(registry: Registry, repo: Repo) -> None:
    commit(registry, repo, {n: n.encode() for n in ("a/b/c", "a/b/d", "a/e", "a.b", "b", "c/d")})
    whole = paths(registry, repo)
    assert whole == ["a.b", "a", "a/b", "a/b/c", "a/b/d", "a/e", "b", "c", "c/d"]
    for number, path in enumerate(whole):
        assert paths(registry, repo, after=path) == whole[number + 1 :]


def test_names_that_differ_by_case_are_reported(registry: Registry, repo: Repo) -> None:
    assert commit(registry, repo, {"d/Read": b"1", "d/read": b"2", "e": b""}).collisions == ("d/read",)


def test_unknown_content_is_refused(registry: Registry, repo: Repo) -> None:
    with registry.db.write() as conn, pytest.raises(Failure, match="content of a was not uploaded"):
        write_commit(conn, registry.objects, repo, "main", [Put("a", "0" * 40)], caller=ANN, title="t")


def test_card_manifest_and_results_follow_main(registry: Registry, repo: Repo) -> None:
    card = b"---\nlicense: mit\ntags: [a, b]\nlanguage: en\ndate: 2024-01-01\n---\n# Tiny\n\nA tiny\nmodel.\n\nMore.\n"
    result = b"- dataset: {id: Acme/Quiz, task_id: main}\n  value: 0.5\n"
    commit(
        registry, repo, {"README.md": card, ".eval_results/q.yaml": result, "llmasos.toml": b"manifest = 1\n"}
    )
    with registry.db.read() as conn:
        found = repo_by_id(conn, repo.id)
        kept = conn.execute(sa.select(repos.c.card, repos.c.manifest)).one()
    assert found.tags == ["a", "b", "en", "license:mit"]
    assert found.summary == "A tiny model."
    assert kept.card["date"] == "2024-01-01"
    assert kept.manifest == {"manifest": 1}
    assert found.bytes == len(card) + len(result) + 13
    commit(registry, repo, {"other": b"1"}, Delete("llmasos.toml"))
    with registry.db.read() as conn:
        kept = conn.execute(sa.select(repos.c.summary, repos.c.manifest)).one()
    assert (kept.summary, kept.manifest) == ("A tiny model.", None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("---\na: [1\n---\n", "not valid YAML: line"),
        ("---\nlicense: 5\n---\n", '"license" must be a string'),
        ("---\nlanguage: no\n---\n", "put quotes around"),
        ("---\na: &x [1]\nb: *x\n---\n", "aliases"),
        ("---\n- 1\n---\n", "key: value"),
        ("---\na: !!python/object:os.system 1\n---\n", "not valid YAML"),
        ("---\n" + "[" * 5000 + "\n---\n", "not valid YAML"),
        ("---\nwhen: 2024-13-45\n---\n", "not valid YAML"),
    ],
)
def test_bad_cards_are_refused_with_the_reason(text: str, said: str) -> None:
    with pytest.raises(Failure, match=r"README\.md") as refused:
        read_facts({"README.md": text.encode()})
    assert said in refused.value.message


def test_revisions(registry: Registry, repo: Repo) -> None:
    made = commit(registry, repo, {"a": b"1"})
    with registry.db.read() as conn:
        for revision in ("main", made.oid, made.oid[:9], "refs/heads/main"):
            assert resolve_revision(conn, repo, revision).oid == made.oid
        for revision in ("refs/pr/1", "missing", "0" * 40, made.oid[:6], "", "refs/tags/main"):
            with pytest.raises(Failure) as refused:
                resolve_revision(conn, repo, revision)
            assert (refused.value.status, refused.value.code) == (404, "RevisionNotFound")
        assert head(conn, repo, "main") == resolve_revision(conn, repo, "main")
        assert conn.execute(sa.select(sa.func.count()).select_from(commits)).scalar_one() == 2


def test_who_finds_a_repository(registry: Registry, repo: Repo) -> None:
    def refused(caller: Caller, need: str) -> tuple[int, str | None]:
        with registry.db.read() as conn, pytest.raises(Failure) as failure:
            find_repo(conn, "model", "Ann/tiny", caller, need)  # type: ignore[arg-type]
        return failure.value.status, failure.value.code

    stranger, bob = Caller(), Caller(account=2, name="bob", scopes=frozenset({"read", "write"}))
    with registry.db.read() as conn:
        assert find_repo(conn, "model", "ANN/Tiny", stranger).full_name == "ann/Tiny"
    assert refused(stranger, "write") == (401, None)
    assert refused(bob, "write") == (403, None)
    with registry.db.write() as conn:
        conn.execute(repos.update().values(gated="manual"))
    assert refused(stranger, "content") == (401, "GatedRepo")
    assert refused(bob, "content") == (403, "GatedRepo")
    with registry.db.write() as conn:
        conn.execute(repos.update().values(private=True))
    assert refused(stranger, "read") == (401, "RepoNotFound")
    assert refused(bob, "read") == (404, "RepoNotFound")
    assert refused(Caller(account=1, name="ann", scopes=frozenset()), "read") == (404, "RepoNotFound")
    with registry.db.read() as conn:
        assert find_repo(conn, "model", "ann/tiny", ANN, "own").private
    with registry.db.write() as conn:
        conn.execute(repos.update().values(disabled="bad"))
    assert refused(ANN, "read") == (403, None)


BAD = [
    "",
    "/a",
    "a/",
    "a//b",
    "..",
    "a/../b",
    "./a",
    ".git",
    "a/.GIT/x",
    ".git. ",
    "git~1/x",
    ".g\u200cit/config",
    "a\\b",
]
BAD += ["a\0b", "a\nb", "\x9b", "x" * 256, "d/" * 64 + "f", ("x" * 200 + "/") * 6 + "y", "\udc80"]


@pytest.mark.parametrize("path", BAD)
def test_paths_that_are_refused(path: str) -> None:
    with pytest.raises(Failure) as refused:
        safe_path(path)
    assert refused.value.status == 400
    assert refused.value.message.isascii()


@pytest.mark.parametrize(
    "path", ["a", ".gitattributes", "a b/ü.txt", "...", "a/.gitignore", "x" * 255, "日本/語"]
)
def test_paths_that_are_taken(path: str) -> None:
    assert safe_path(path) == path


@pytest.mark.parametrize(
    "name",
    ["", "a b", "a..b", "/a", "a/", "a.lock", "-a", "refs/heads/x", "0" * 40, "a~1", "@", "a//b", "HEAD"],
)
def test_ref_names_that_are_refused(name: str) -> None:
    with pytest.raises(Failure):
        safe_ref(name)


@pytest.mark.parametrize("name", ["main", "dev/x", "1.2.0", "v1", "ü", "feature/a-b_c"])
def test_ref_names_that_are_taken(name: str) -> None:
    assert safe_ref(name) == name
