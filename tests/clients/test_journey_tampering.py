"""A registry that lies: every lie is refused by stock commands, in words that name what was expected.

Each test changes a copy of the registry's data as somebody could who broke into it, and serves that at the same address.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from journey_machines import MODEL, PLUGIN, Machine, Published
from registries import Server

from llmasos_registry.server.context import Registry
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.tables_accounts import accounts
from llmasos_registry.server.db.tables_api import file_signatures, publisher_keys
from llmasos_registry.server.db.tables_index import package_files
from llmasos_registry.server.index.changes import project_changed
from llmasos_registry.server.serve import open_registry
from llmasos_registry.server.settings import Settings
from llmasos_registry.server.store.blobs import record_blob
from llmasos_registry.signatures.keys import PrivateKey, generate, keyid, public_pem
from llmasos_registry.signatures.wheel_statement import sign_wheel

pytest.importorskip("torch", reason="needs the extra `torch`")


@contextmanager
def broken_into(server: Server) -> Iterator[Path]:
    """The data of a stopped server, to be changed; ``serve`` it afterwards. In the end the true data is served again."""
    server.stop()
    true = server.data.with_name(server.data.name + "-true")
    shutil.copytree(server.data, true)
    try:
        yield server.data
    finally:
        server.stop()
        shutil.rmtree(server.data)
        true.rename(server.data)
        server.restart()


@contextmanager
def opened(data: Path) -> Iterator[Registry]:
    """The registry's own parts, for whoever has its files."""
    registry = open_registry(Settings(data=data))
    try:
        yield registry
    finally:
        registry.db.close()


def flip(data: Path, sha256: str) -> None:
    """Change one bit of a stored file."""
    (place,) = (data / "blobs").rglob(sha256)
    content = bytearray(place.read_bytes())
    content[len(content) // 2] ^= 1
    place.write_bytes(content)


def with_a_line_more(wheel: Path) -> bytes:
    """The same wheel, valid, with other code in it."""
    import base64

    made = io.BytesIO()
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
        record = next(name for name in old.namelist() if name.endswith("/RECORD"))
        lines = old.read(record).decode().splitlines()
        for item in old.infolist():
            content = old.read(item)
            if item.filename == "llmasos_ngram/__init__.py":
                content += b"# and something else\n"
                digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                row = f"{item.filename},sha256={digest},{len(content)}"
                lines = [row if line.startswith(f"{item.filename},") else line for line in lines]
            if item.filename != record:
                new.writestr(item, content)
        new.writestr(record, "\n".join(lines) + "\n")
    return made.getvalue()


def replace_wheel(registry: Registry, wheel: bytes, key: PrivateKey | None = None) -> str:
    """Put another wheel in the place of the published one, signed by ``key`` if one is given; its sha256."""
    stored = registry.store.put(wheel)
    with registry.db.write() as conn:
        record_blob(conn, stored)
        file = conn.execute(package_files.select()).one()
        values: dict[str, Any] = {"sha256": stored.sha256, "size": stored.size}
        conn.execute(package_files.update().where(package_files.c.id == file.id).values(values))
        if key is not None:
            name = keyid(key.public_key())
            envelope = sign_wheel(key, file.filename, stored.sha256, PLUGIN, "0.1.0", "ada")
            conn.execute(file_signatures.update().values(keyid=name, envelope=envelope))
        project_changed(conn, file.project_id)
    return stored.sha256


def register(registry: Registry, account: str, key: PrivateKey) -> None:
    """Say that a key is the publisher's only one."""
    with registry.db.write() as conn:
        owner = conn.execute(accounts.select().where(accounts.c.name == account)).one()
        conn.execute(publisher_keys.delete().where(publisher_keys.c.account_id == owner.id))
        pem = public_pem(key.public_key())
        row = {"account_id": owner.id, "keyid": keyid(key.public_key()), "pem": pem, "created_at": utcnow()}
        conn.execute(publisher_keys.insert().values(row))


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_changed_weight_file(published: Published, machine: Machine) -> None:
    weights = sha256_of(published.author.work / "ngram-demo" / "model.ngram")
    machine.run("install", PLUGIN, "--yes")
    with broken_into(published.registry) as data:
        flip(data, weights)
        published.registry.restart()
        said = machine.refused("model", "pull", MODEL)
    assert f"model.ngram: expected sha256 {weights}, found " in said
    machine.run("model", "pull", MODEL)  # the true one still comes


def test_a_changed_wheel(published: Published, machine: Machine) -> None:
    with broken_into(published.registry) as data:
        flip(data, sha256_of(published.wheel))
        published.registry.restart()
        said = machine.refused("install", PLUGIN, "--yes")
    assert f"{published.wheel.name}: expected sha256 {sha256_of(published.wheel)}, found " in said
    assert PLUGIN not in {p["id"] for p in machine.json("plugin", "list")["plugins"]}


def test_a_changed_wheel_in_an_index_that_agrees_with_it(published: Published, machine: Machine) -> None:
    with broken_into(published.registry) as data, opened(data) as registry:
        other = replace_wheel(registry, with_a_line_more(published.wheel))
        published.registry.restart()
        said = machine.refused("install", PLUGIN, "--yes")
    assert other in said
    assert sha256_of(published.wheel) in said
    assert "expected" in said


@pytest.mark.parametrize("consistent", [False, True])
def test_a_changed_wheel_and_a_lock(published: Published, machine: Machine, consistent: bool) -> None:
    machine.run("lock", PLUGIN)
    locked = sha256_of(published.wheel)
    with broken_into(published.registry) as data, opened(data) as registry:
        if consistent:
            replace_wheel(registry, with_a_line_more(published.wheel))
        else:
            flip(data, locked)
        published.registry.restart()
        said = machine.refused("sync", "--yes", code=5 if consistent else 1)
    assert f"{published.wheel.name}: expected " in said
    assert locked in said


def test_a_signature_by_a_key_that_the_publisher_does_not_have(
    published: Published, machine: Machine, tmp_path: Path
) -> None:
    thief = generate(tmp_path / "thief.pem")
    with broken_into(published.registry) as data, opened(data) as registry:
        replace_wheel(registry, with_a_line_more(published.wheel), thief)
        published.registry.restart()
        said = machine.refused("install", PLUGIN, "--yes")
    assert published.keyid in said
    assert keyid(thief.public_key()) in said


def test_a_replaced_key_and_signature(published: Published, machine: Machine, tmp_path: Path) -> None:
    machine.run("install", PLUGIN, "--yes")  # the first contact
    machine.run("plugin", "uninstall", PLUGIN, "--yes")
    thief = generate(tmp_path / "thief.pem")
    with broken_into(published.registry) as data, opened(data) as registry:
        replace_wheel(registry, with_a_line_more(published.wheel), thief)
        register(registry, "ada", thief)
        published.registry.restart()
        said = machine.refused("install", PLUGIN, "--yes")
    now = keyid(thief.public_key())
    assert f"the keys of the publisher ada changed: pinned {published.keyid}; now {now}" in said


def test_a_model_without_its_signature(published: Published, machine: Machine, tmp_path: Path) -> None:
    """Somebody has the author's token, but not his key."""
    machine.run("install", PLUGIN, "--yes")
    other = tmp_path / "other"
    shutil.copytree(published.author.work / "ngram-demo", other)
    (other / "README.md").write_text((other / "README.md").read_text() + "\nIt is good.\n")
    with broken_into(published.registry):
        published.registry.restart()
        published.author.run("model", "publish", other, MODEL, "--version", "1.0.1", "--no-sign")
        said = machine.refused("model", "pull", f"{MODEL}@1.0.1")
    assert f"expected a signature by {published.keyid}" in said


def test_an_index_that_goes_back(published: Published, machine: Machine) -> None:
    with broken_into(published.registry):
        published.registry.restart()
        newer = published.author.work / "newer"
        shutil.copytree(published.author.work / "ngram-demo", newer)
        (newer / "README.md").write_text((newer / "README.md").read_text() + "\nNow with a word more.\n")
        published.author.run("model", "publish", newer, MODEL, "--version", "1.1.0")
        seen = machine.json("model", "pull", MODEL, "--yes")
        assert seen["version"] == "1.1.0"
    said = machine.refused("model", "pull", MODEL, "--yes")
    assert "went back: serial " in said
    assert "was seen before" in said
