"""Publishing results: what is taken, what is refused and why, and that nothing is ever changed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from registries import InProcess
from result_documents import a_record, an_attestation, packed, samples_of, signed

from llmasos.contracts.fingerprint import record_digest
from llmasos_registry.server.accounts.quota import used_bytes
from llmasos_registry.server.api.access import find_account
from llmasos_registry.signatures.keys import PrivateKey, generate, keyid, prove, public_pem

VALUES = [1.0, 0.0, 1.0, 1.0] * 5
PATH = "/v1/records"


class Author:
    """An account with a registered key."""

    def __init__(self, app: InProcess, folder: Path, name: str) -> None:
        self.app, self.name, self.token = app, name, app.user(name)
        self.key: PrivateKey = generate(folder / f"{name}.pem")
        body = {"pem": public_pem(self.key.public_key()), "proof": prove(self.key, name)}
        assert app.post(f"/v1/publishers/{name}/keys", self.token, json=body).status_code == 201

    def publish(self, record: dict[str, Any], **changed: Any) -> Any:
        body = {"account": self.name, "record": record, "signature": signed(record, self.key), **changed}
        return self.app.post(PATH, self.token, json=body)

    def send(self, record: dict[str, Any], samples: bytes, task: str = "quick") -> Any:
        return self.app.call("PUT", f"{PATH}/{record['digest']}/samples/{task}", self.token, content=samples)

    def attest(self, record: dict[str, Any], attestation: dict[str, Any], **changed: Any) -> Any:
        body = {"account": self.name, "attestation": attestation, "signature": signed(attestation, self.key)}
        return self.app.post(f"{PATH}/{record['digest']}/attestations", self.token, json=body | changed)


@pytest.fixture
def ann(app: InProcess, tmp_path: Path) -> Author:
    return Author(app, tmp_path, "ann")


@pytest.fixture
def bob(app: InProcess, tmp_path: Path) -> Author:
    return Author(app, tmp_path, "bob")


def test_publish_and_read(app: InProcess, ann: Author) -> None:
    record = a_record(VALUES)
    first = ann.publish(record)
    assert first.status_code == 201, first.text
    assert ann.publish(record).status_code == 200
    found = app.get(f"{PATH}/{record['digest']}").json()
    assert found["record"] == record
    assert (found["owner"], found["state"], found["keyid"]) == (
        "ann",
        "self-reported",
        keyid(ann.key.public_key()),
    )
    assert found["signature"] == signed(record, ann.key) | {"signatures": found["signature"]["signatures"]}


def test_samples_come_back_as_they_were_sent(app: InProcess, ann: Author) -> None:
    record, samples = a_record(VALUES), packed(samples_of(VALUES))
    ann.publish(record)
    assert ann.send(record, samples).json() == {"task": "quick", "documents": 20, "bytes": len(samples)}
    assert ann.send(record, samples).status_code == 201
    answer = app.get(f"{PATH}/{record['digest']}/samples/quick", follow_redirects=False)
    assert answer.content == samples
    assert app.get(f"{PATH}/{record['digest']}").json()["samples"] == {"quick": 20}
    with app.db.read() as conn:
        used = used_bytes(conn, find_account(conn, "ann").id)
    assert used > len(samples) + len(json.dumps(record)) // 2


@pytest.mark.parametrize("change", ["value", "n", "model", "schema"])
def test_a_record_that_was_changed_is_refused(app: InProcess, ann: Author, change: str) -> None:
    record = a_record(VALUES)
    if change == "model":
        record["model"]["ref"] = "better"
    elif change == "schema":
        record["schema"] = "llmasos-record/1"
    else:
        record["tasks"][0]["scores"][0][change] = 1
    answer = ann.publish(record)
    assert answer.status_code == 422
    assert ("schema" if change == "schema" else "digest") in answer.json()["error"]
    assert app.get(f"{PATH}/{record['digest']}").status_code == 404


def test_a_signature_must_be_of_the_account_and_of_this_record(ann: Author, bob: Author) -> None:
    record, other = a_record(VALUES), a_record(VALUES[::-1])
    for signature in (
        signed(record, bob.key),
        signed(other, ann.key),
        signed(an_attestation(record), ann.key),
        {},
    ):
        answer = ann.publish(record, signature=signature)
        assert answer.status_code == 422
        assert "ignature" in answer.json()["error"]


def test_a_changed_environment_breaks_the_signature_and_not_the_digest(ann: Author) -> None:
    record = a_record(VALUES)
    signature = signed(record, ann.key)
    record["environment"]["python"] = "3.12"
    assert record_digest(record) == record["digest"]
    assert "another document" in ann.publish(record, signature=signature).json()["error"]


def test_nobody_publishes_for_another(app: InProcess, ann: Author, bob: Author) -> None:
    record = a_record(VALUES)
    assert ann.publish(record, account="bob").status_code == 403
    assert ann.publish(record, account="nobody").status_code == 404
    assert ann.publish(record).status_code == 201
    assert bob.publish(record).status_code == 409
    assert bob.send(record, packed(samples_of(VALUES))).status_code == 403
    assert app.post(f"{PATH}/{record['digest']}/withdraw", bob.token, json={"reason": "x"}).status_code == 403


def test_a_revoked_key_signs_nothing_new(app: InProcess, ann: Author) -> None:
    assert app.delete(f"/v1/publishers/ann/keys/{keyid(ann.key.public_key())}", ann.token).status_code == 200
    assert ann.publish(a_record(VALUES)).status_code == 422


BOMB = gzip.compress(b"\0" * (40 << 20))


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (packed(samples_of(VALUES[::-1])), "not the samples"),
        (packed(samples_of(VALUES[:-1])), "not the samples"),
        (packed(samples_of(VALUES))[:-20], "end in the middle"),
        (b"plain", "no gzip"),
        (gzip.compress(b"{}\n"), "line 1"),
        (gzip.compress(b"[1, 2]\n"), "line 1"),
        (BOMB, "bytes"),
    ],
    ids=("other", "fewer", "torn", "plain", "empty", "list", "bomb"),
)
def test_other_samples_are_refused(app: InProcess, ann: Author, samples: bytes, words: str) -> None:
    record = a_record(VALUES)
    ann.publish(record)
    answer = ann.send(record, samples)
    assert answer.status_code in (413, 422)
    assert words in answer.json()["error"]
    assert app.get(f"{PATH}/{record['digest']}").json()["samples"] == {}


def test_samples_must_come_to_the_score(ann: Author) -> None:
    record = a_record(VALUES)
    record["tasks"][0]["scores"][0]["value"] = 0.9
    record["digest"] = record_digest(record)
    assert ann.publish(record).status_code == 201
    answer = ann.send(record, packed(samples_of(VALUES)))
    assert answer.status_code == 422
    assert "come to acc 0.75, the record says 0.9" in answer.json()["error"]


def test_samples_of_a_task_that_is_not_there(ann: Author) -> None:
    record = a_record(VALUES)
    ann.publish(record)
    assert ann.send(record, packed(samples_of(VALUES)), task="slow").status_code == 404


def test_standing(app: InProcess, ann: Author, bob: Author) -> None:
    record = a_record(VALUES)
    ann.publish(record)

    def state() -> str:
        return str(app.get(f"{PATH}/{record['digest']}").json()["state"])

    # What the publisher says of his own record counts for nothing.
    assert ann.attest(record, an_attestation(record)).status_code == 201
    assert state() == "self-reported"
    spot = an_attestation(record, sample=9, agreed=9)
    assert bob.attest(record, spot).status_code == 201
    assert bob.attest(record, spot).status_code == 200
    assert state() == "spot-checked"
    full = an_attestation(record, kind="full", sample=20, agreed=20)
    assert bob.attest(record, full).json()["independent"] is True
    assert state() == "fully re-run"
    bad = an_attestation(
        record, verdict="refuted", agreed=7, refuted=[{"task": "quick", "index": 1, "what": "x"}]
    )
    assert bob.attest(record, bad).status_code == 201
    assert state() == "refuted"
    entries = app.get(f"{PATH}/{record['digest']}").json()["attestations"]
    assert [entry["by"] for entry in entries] == ["ann", "bob", "bob", "bob"]


@pytest.mark.parametrize(
    "changed",
    [
        {"record": "0" * 64},
        {"samples_digest": "0" * 64},
        {"verdict": "refuted"},
        {"refuted": [{}]},
        {"documents": 21},
        {"sample": 21},
        {"kind": "full"},
        {"agreed": 9},
        {"schema": "llmasos-attestation/9"},
    ],
)
def test_an_attestation_that_cannot_be_is_refused(ann: Author, bob: Author, changed: dict[str, Any]) -> None:
    record = a_record(VALUES)
    ann.publish(record)
    assert bob.attest(record, an_attestation(record, **changed)).status_code == 422


def test_an_attestation_needs_the_key_of_its_account(app: InProcess, ann: Author, bob: Author) -> None:
    record = a_record(VALUES)
    ann.publish(record)
    attestation = an_attestation(record)
    assert bob.attest(record, attestation, signature=signed(attestation, ann.key)).status_code == 422
    assert bob.attest(record, attestation, account="ann").status_code == 403
    carol = app.user("carol", ["read"])
    body = {"account": "carol", "attestation": attestation, "signature": signed(attestation, bob.key)}
    assert app.post(f"{PATH}/{record['digest']}/attestations", carol, json=body).status_code == 403


def test_withdrawn_records_stay_readable(app: InProcess, ann: Author) -> None:
    record = a_record(VALUES)
    ann.publish(record)
    answer = app.post(f"{PATH}/{record['digest']}/withdraw", ann.token, json={"reason": "wrong weights"})
    assert answer.json()["withdrawn"] == "wrong weights"
    assert app.get(f"{PATH}/{record['digest']}").json()["withdrawn"] == "wrong weights"
    assert app.get("/v1/leaderboards/quick").status_code == 404
