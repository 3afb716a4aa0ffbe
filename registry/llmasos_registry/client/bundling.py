"""Gathering what a lock names into a bundle: everything is fetched and checked as for an installation, and nothing installed."""

from __future__ import annotations

from typing import Any

from llmasos.contracts.evaluation import Progress
from llmasos.sizes import size_text
from llmasos_registry.client.bundle import Contents
from llmasos_registry.client.connection import path_segment
from llmasos_registry.client.locked import Lock
from llmasos_registry.client.model_store import is_code
from llmasos_registry.client.pull import fetch, plan_model
from llmasos_registry.client.session import Session, wheel_for_here

#: What a bundle keeps of a key's row.
_KEY_FIELDS = ("keyid", "pem", "comment", "created_at", "revoked_at")


def gather(session: Session, lock: Lock, progress: Progress) -> Contents:
    """The contents of a bundle for machines like this one. Raises what fetching and checking raise."""
    contents = Contents(lock)
    accounts: set[str] = set()
    keyids = {plugin.name: plugin.keyid for plugin in lock.plugins}
    progress.phase("fetching wheels", len(lock.packages) or None)
    for package in lock.packages:
        wheel = wheel_for_here(package)
        signatures = session.source.signatures(package.name, wheel.filename)
        checked = session.wheelhouse.fetch(
            package.name,
            package.version,
            wheel,
            session.source,
            signatures,
            locked_keyid=keyids.get(package.name),
        )
        contents.blobs[wheel.sha256] = (checked.path.stat().st_size, checked.path)
        contents.signatures[wheel.filename] = signatures
        if signatures.publisher is not None:
            accounts.add(signatures.publisher)
        progress.advance()
    for model in lock.models:
        step = plan_model(model, session.store, session.source, session.verifier, locked=True)
        if step is not None:
            progress.phase(f"fetching {model.id} ({size_text(step.size)})", step.size)
            fetch([step], session.store, session.source, session.verifier, progress.advance)
        folder = session.store.folder(model.kind, model.id, model.commit)
        for file in model.files:
            if not is_code(file.path):
                session.verifier.verify_file(folder / file.path, file.sha256, name=f"{model.id}/{file.path}")
                contents.blobs[file.sha256] = (file.size, folder / file.path)
        accounts.add(model.publisher)
    for account in sorted(accounts):
        contents.keys[account] = _key_rows(session, account)
    return contents


def _key_rows(session: Session, account: str) -> list[dict[str, Any]]:
    """An account's keys as the registry states them, sorted, so that a bundle does not depend on the order of an answer."""
    answer = session.connection.get(f"/v1/publishers/{path_segment(account)}/keys")
    rows = [row for row in answer.get("keys", []) if isinstance(row, dict)]
    kept = [{key: row[key] for key in _KEY_FIELDS if key in row} for row in rows]
    return sorted(kept, key=lambda row: str(row.get("keyid")))
