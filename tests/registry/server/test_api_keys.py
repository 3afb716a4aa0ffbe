"""Publishers' keys: proof of possession, revocation, and who may."""

from __future__ import annotations

from pathlib import Path

import pytest
from registries import InProcess

from llmasos_registry.signatures.keys import PrivateKey, generate, keyid, prove, public_pem


@pytest.fixture
def key(tmp_path: Path) -> PrivateKey:
    return generate(tmp_path / "key.pem")


def body(key: PrivateKey, account: str, comment: str = "") -> dict[str, str]:
    return {"pem": public_pem(key.public_key()), "proof": prove(key, account), "comment": comment}


def test_register_list_revoke(app: InProcess, key: PrivateKey) -> None:
    ann = app.user("ann")
    name = keyid(key.public_key())
    assert app.get("/v1/publishers/ann/keys").json() == {"account": "ann", "keys": []}
    made = app.post("/v1/publishers/ann/keys", ann, json=body(key, "ann", "laptop"))
    assert made.status_code == 201
    assert made.json()["keyid"] == name
    assert made.json()["revoked_at"] is None
    before = app.get("/v1/info").json()["serial"]
    assert app.post("/v1/publishers/ann/keys", ann, json=body(key, "ann")).status_code == 200
    (row,) = app.get("/v1/publishers/ANN/keys").json()["keys"]
    assert row == made.json()
    gone = app.delete(f"/v1/publishers/ann/keys/{name}", ann)
    assert gone.json()["revoked_at"] is not None
    assert app.delete(f"/v1/publishers/ann/keys/{name}", ann).json() == gone.json()
    assert app.get("/v1/publishers/ann/keys").json()["keys"] == [gone.json()]
    assert app.get("/v1/info").json()["serial"] == before + 1
    again = app.post("/v1/publishers/ann/keys", ann, json=body(key, "ann"))
    assert again.status_code == 409
    assert "revoked" in again.json()["error"]


def test_proof_is_for_one_account_and_one_key(app: InProcess, key: PrivateKey, tmp_path: Path) -> None:
    ann, _ = app.user("ann"), app.user("bob")
    other = generate(tmp_path / "other.pem")
    for proof in (prove(key, "bob"), prove(other, "ann"), "", "AAAA", "no base64!"):
        sent = {**body(key, "ann"), "proof": proof}
        refused = app.post("/v1/publishers/ann/keys", ann, json=sent)
        assert refused.status_code == 400, proof
    private = (tmp_path / "key.pem").read_text()
    assert (
        app.post("/v1/publishers/ann/keys", ann, json={**body(key, "ann"), "pem": private}).status_code == 400
    )
    assert app.get("/v1/publishers/ann/keys").json()["keys"] == []


def test_text_around_the_key_is_not_kept(app: InProcess, key: PrivateKey) -> None:
    ann = app.user("ann")
    sent = body(key, "ann")
    sent["pem"] = f"Comment: <script>\n{sent['pem']}\ntrailing"
    made = app.post("/v1/publishers/ann/keys", ann, json=sent)
    assert made.json()["pem"] == public_pem(key.public_key())


def test_only_owners_register(app: InProcess, key: PrivateKey) -> None:
    ann, bob, eve = app.user("ann"), app.user("bob"), app.user("eve")
    app.org("acme", {"ann": "owner", "bob": "maintainer"})
    sent = body(key, "acme")
    for token in (bob, eve, app.user("ann", ["write"]), app.user("ann", projects=["acme/*"])):
        assert app.post("/v1/publishers/acme/keys", token, json=sent).status_code == 403
    assert app.post("/v1/publishers/acme/keys", json=sent).status_code == 401
    assert app.post("/v1/publishers/acme/keys", ann, json=sent).status_code == 201
    name = keyid(key.public_key())
    assert app.delete(f"/v1/publishers/acme/keys/{name}", bob).status_code == 403
    assert app.delete("/v1/publishers/acme/keys/sha256:00", ann).status_code == 404
    assert app.get("/v1/publishers/nobody/keys").status_code == 404
    assert app.get("/v1/publishers/a%00b/keys").status_code == 400
