"""Signatures over files of the index: checked when they come, never replaced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from registries import InProcess
from registry_seeds import seed_project, sha256

from llmasos_registry.signatures.keys import PrivateKey, generate, keyid, prove, public_pem
from llmasos_registry.signatures.wheel_statement import check_wheel, sign_wheel

FILE = "llmasos_acme-1.0.0-py3-none-any.whl"
PATH = f"/v1/plugins/llmasos-acme/files/{FILE}/signatures"
DATA = b"a wheel"


@pytest.fixture
def ann(app: InProcess) -> str:
    token = app.user("ann")
    seed_project(app, "ann", "llmasos-acme", {"1.0.0": DATA, "1.1.0": b"another"})
    return token


def register(app: InProcess, token: str, key: PrivateKey) -> None:
    body = {"pem": public_pem(key.public_key()), "proof": prove(key, "ann")}
    assert app.post("/v1/publishers/ann/keys", token, json=body).status_code == 201


def envelope(key: PrivateKey, **changed: str) -> dict[str, Any]:
    facts = {
        "filename": FILE,
        "sha256": sha256(DATA),
        "project": "llmasos-acme",
        "version": "1.0.0",
        "publisher": "ann",
        **changed,
    }
    return sign_wheel(key, **facts)


def test_signature_is_kept_and_verifies(app: InProcess, ann: str, tmp_path: Path) -> None:
    key = generate(tmp_path / "key.pem")
    assert app.get(PATH).json() == {
        "filename": FILE,
        "sha256": sha256(DATA),
        "publisher": "ann",
        "signatures": [],
    }
    register(app, ann, key)
    sent = envelope(key)
    before = app.get("/v1/plugins/llmasos-acme").json()["serial"]
    made = app.post(PATH, ann, json=sent)
    assert made.status_code == 201, made.text
    assert made.json()["signatures"] == [sent]
    assert app.get("/v1/plugins/llmasos-acme").json()["serial"] > before
    (kept,) = app.get(PATH).json()["signatures"]
    key_name = check_wheel(kept, [key.public_key()], FILE, sha256(DATA), "llmasos-acme", "1.0.0", "ann")
    assert key_name == keyid(key.public_key())
    # Another signature by the same key replaces nothing.
    again = app.post(PATH, ann, json=envelope(key))
    assert again.status_code == 200
    assert again.json()["signatures"] == [sent]
    second = generate(tmp_path / "second.pem")
    register(app, ann, second)
    assert len(app.post(PATH, ann, json=envelope(second)).json()["signatures"]) == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"filename": "llmasos_acme-1.1.0-py3-none-any.whl"},
        {"sha256": sha256(b"another")},
        {"project": "llmasos-other"},
        {"version": "1.1.0"},
        {"publisher": "bob"},
    ],
)
def test_signature_of_something_else(
    app: InProcess, ann: str, tmp_path: Path, changed: dict[str, str]
) -> None:
    key = generate(tmp_path / "key.pem")
    register(app, ann, key)
    refused = app.post(PATH, ann, json=envelope(key, **changed))
    assert refused.status_code == 422
    assert next(iter(changed.values()))[:12] in refused.json()["error"]
    assert app.get(PATH).json()["signatures"] == []


def test_unknown_revoked_and_malformed(app: InProcess, ann: str, tmp_path: Path) -> None:
    key, other = generate(tmp_path / "key.pem"), generate(tmp_path / "other.pem")
    register(app, ann, key)
    assert app.post(PATH, ann, json=envelope(other)).status_code == 422
    good = envelope(key)
    for bad in (
        {},
        {**good, "signatures": []},
        {**good, "signatures": good["signatures"] * 2},
        {**good, "payload": "AAAA"},
        {**good, "extra": 1},
        {**good, "payloadType": "text/plain"},
    ):
        assert app.post(PATH, ann, json=bad).status_code == 422, bad
    twice = json.dumps(good)[:-1] + ', "payload": "AAAA"}'
    assert app.post(PATH, ann, content=twice.encode()).status_code == 422
    assert app.post(PATH, ann, content=b"x" * 300_000).status_code == 413
    app.delete(f"/v1/publishers/ann/keys/{keyid(key.public_key())}", ann)
    assert app.post(PATH, ann, json=good).status_code == 422


def test_only_publishers_of_the_project_sign(app: InProcess, ann: str, tmp_path: Path) -> None:
    key = generate(tmp_path / "key.pem")
    register(app, ann, key)
    sent = envelope(key)
    assert app.post(PATH, app.user("bob"), json=sent).status_code == 403
    assert app.post(PATH, json=sent).status_code == 401
    assert app.post(PATH.replace("1.0.0", "9.9"), ann, json=sent).status_code == 404
    assert app.get("/v1/plugins/llmasos-acme/files/a%00b/signatures").status_code == 400
