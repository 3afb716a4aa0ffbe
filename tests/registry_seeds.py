"""Repositories and projects put straight into an in-process registry, for tests of what is done with them."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from packaging.utils import canonicalize_name
from registries import InProcess

from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.accounts.people import find_account
from llmasos_registry.server.api.documents import index_project, index_repo
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.serial import next_serial
from llmasos_registry.server.db.tables_hub import repos
from llmasos_registry.server.db.tables_index import package_files, package_releases, projects
from llmasos_registry.server.db.tables_store import git_blobs
from llmasos_registry.server.hub.card import CARD, read_facts
from llmasos_registry.server.hub.history import Put, first_commit, write_commit
from llmasos_registry.server.hub.repository import repo_by_id
from llmasos_registry.server.store.blobs import record_blob
from llmasos_registry.server.store.git import blob_id

CARD_TEXT = b"---\nlicense: apache-2.0\n---\n# Tiny\n\nA tiny model of rivers.\n"


def seed_repo(
    app: InProcess,
    name: str,
    files: Mapping[str, bytes],
    *,
    kind: str = "model",
    private: bool = False,
    title: str = "files",
) -> str:
    """A commit of these files on main of ``owner/name``, which is made when it is not there: the commit's id."""
    owner, _, short = name.partition("/")
    with app.db.write() as conn:
        account = find_account(conn, owner)
        number = conn.execute(
            sa.select(repos.c.id).where(repos.c.kind == kind, repos.c.key == name.lower())
        ).scalar_one_or_none()
        if number is None:
            number = conn.execute(
                repos.insert()
                .values(
                    kind=kind,
                    owner_id=account.id,
                    owner=account.name,
                    name=short,
                    key=name.lower(),
                    private=private,
                    created_at=utcnow(),
                    updated_at=utcnow(),
                )
                .returning(repos.c.id)
            ).scalar_one()
            first_commit(conn, repo_by_id(conn, number), owner)
        changes = []
        for path, data in files.items():
            stored = app.registry.store.put(data)
            record_blob(conn, stored)
            oid = blob_id(data)
            if not conn.execute(sa.select(git_blobs.c.oid).where(git_blobs.c.oid == oid)).first():
                values = {"oid": oid, "sha256": stored.sha256, "size": stored.size, "lfs": False}
                conn.execute(git_blobs.insert().values(values))
            changes.append(Put(path, oid))
        written = write_commit(
            conn,
            app.registry.objects,
            repo_by_id(conn, number),
            "main",
            changes,
            caller=Caller(account=account.id, name=owner, scopes=frozenset({"write"})),
            title=title,
            facts=read_facts({path: data for path, data in files.items() if path in (CARD, "llmasos.toml")}),
        )
        index_repo(conn, number, files.get(CARD, b"").decode())
    return written.oid


def seed_project(
    app: InProcess,
    owner: str,
    name: str,
    versions: Mapping[str, bytes | None],
    *,
    private: bool = False,
    summary: str = "",
    plugin: bool = True,
) -> int:
    """A project with a wheel a version (of these bytes; None: a version without files): the row's id."""
    key = canonicalize_name(name)
    with app.db.write() as conn:
        account = find_account(conn, owner)
        project = conn.execute(
            projects.insert()
            .values(
                name=name,
                key=key,
                skeleton=key,
                owner_id=account.id,
                owner=account.name,
                private=private,
                summary=summary,
                plugin_id=key if plugin else None,
                serial=next_serial(conn),
                created_at=utcnow(),
                updated_at=utcnow(),
            )
            .returning(projects.c.id)
        ).scalar_one()
        for version, data in versions.items():
            release = conn.execute(
                package_releases.insert()
                .values(
                    project_id=project,
                    version=version,
                    requires_python=">=3.11",
                    requires_dist=["llmasos>=0.1"],
                    description=f"{name} does things",
                    manifest={"id": key} if plugin else None,
                    created_at=utcnow(),
                )
                .returning(package_releases.c.id)
            ).scalar_one()
            if data is None:
                continue
            stored = app.registry.store.put(data)
            record_blob(conn, stored)
            values: dict[str, Any] = {
                "release_id": release,
                "project_id": project,
                "filename": f"{key.replace('-', '_')}-{version}-py3-none-any.whl",
                "kind": "bdist_wheel",
                "sha256": stored.sha256,
                "size": stored.size,
                "uploaded_at": utcnow(),
                "uploader": owner,
            }
            conn.execute(package_files.insert().values(values))
        index_project(conn, project)
    return int(project)


def safetensors(value: float = 1.0) -> bytes:
    """A weight file with one number."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + struct.pack("<f", value)


def sha256(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()
