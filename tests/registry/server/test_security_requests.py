"""Requests of attackers: what breaks pages for others, what tells of private things, what a restricted token must not do."""

from __future__ import annotations

import base64
import json
from typing import Any, cast

import pytest
from hub_uploads import NDJSON, actions, commit, file, header, large, line, make_repo, send, sha256

from llmasos_registry.server.accounts import routes as accounts_face
from llmasos_registry.server.failures import Failure
from llmasos_registry.server.hub import leaderboard, preupload
from llmasos_registry.server.hub.card import check_card
from llmasos_registry.server.hub.xet_flatten import Flattener
from llmasos_registry.server.hub.xet_format import ShardFile
from llmasos_registry.server.store import filesystem
from llmasos_registry.server.store.git import lfs_pointer

WEIGHTS = bytes(range(256)) * 40


@pytest.fixture
def ann(app: Any) -> str:
    token: str = app.user("ann")
    make_repo(app, token, "ann/m")
    return token


HOSTILE_FILES = {
    "README.md": b'---\nfoo: "\\ud800"\n---\ntext',
    ".eval_results/a.yaml": b'- dataset: {id: ann/d}\n  value: 1\n  notes: "\\udfff"\n',
    "llmasos.toml": b"x = " + b"[" * 40 + b"]" * 40,
}


def test_no_file_makes_an_answer_for_others_fail(app: Any, ann: str) -> None:
    for path, data in HOSTILE_FILES.items():
        assert commit(app, ann, "ann/m", file(path, data)).status_code == 400, path
    assert app.get("/api/models?full=true").status_code == 200


def test_every_value_of_toml_can_be_kept(app: Any, ann: str) -> None:
    for text in (b"x = 2020-01-01\ny = 12:00:00\n", b"x = nan\ny = [inf]\n"):
        assert commit(app, ann, "ann/m", file("llmasos.toml", text)).status_code == 200


COSTLY = {
    "hex": "a: 0x" + "f" * 5000,
    "base 60": "a: " + "1:" * 60_000 + "1",
    "pairs": "a: b\n" * 50_000,
    "items": "[" + "a," * 100_000 + "]",
    "nested": "[" * 900,
    "aliases": "a: &x 1\nb: *x\n",
}


@pytest.mark.parametrize("name", COSTLY)
def test_costly_yaml_is_refused_before_it_is_built(name: str) -> None:
    errors, value = check_card(f"---\n{COSTLY[name]}\n---\n")
    assert (len(errors), value) == (1, {})


def _cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


NONSENSE: dict[str, tuple[int, dict[str, Any]]] = {
    "/ann/m/resolve/main/a": (200, {"Range": f"bytes={'9' * 5000}-"}),
    "/api/models": (401, {"Authorization": b"Basic \xe9"}),
    f"/api/models?limit={'9' * 5000}": (200, {}),
    "/api/models?cursor=" + _cursor('["2020-01-01T00:00:00+00:00", 99999999999999999999]'): (400, {}),
    "/api/models?sort=downloads&cursor=" + _cursor("[Infinity, 1]"): (400, {}),
    "/v1/search?cursor=" + _cursor("t|2020-01-01T00:00:00|5"): (400, {}),
    f"/api/models/ann/m/user-access-request/pending?cursor={'9' * 30}": (400, {}),
    "/v1/models/ann/b%1b": (404, {}),
    "/api/models/ann/%7fb%0d%0aX: y": (404, {}),
}


def test_nonsense_is_refused_in_one_clean_line(app: Any, ann: str) -> None:
    commit(app, ann, "ann/m", file("a", b"text"))
    for path, (status, headers) in NONSENSE.items():
        answer = app.get(path, None if "Authorization" in headers else ann, headers=headers)
        assert answer.status_code == status, path
        assert answer.headers.get("x-error-message", "").isprintable()


def test_a_title_that_is_no_text_is_refused(app: Any, ann: str) -> None:
    assert commit(app, ann, "ann/m", header("\ud800"), file("a", b"1")).status_code == 400


def test_a_pointer_in_a_padded_line_takes_no_git_id_and_tells_nothing(app: Any, ann: str) -> None:
    """Whoever sends the pointer of somebody else's file must not keep that id, nor learn whether the file is here."""
    bea = app.user("bea")
    make_repo(app, bea, "bea/m")
    pointer = lfs_pointer(sha256(WEIGHTS), len(WEIGHTS))
    value = {"path": "p", "encoding": "base64", "content": base64.b64encode(pointer).decode(), "pad": ""}
    short = len(json.dumps({"key": "file", "value": value}))
    value["pad"] = "x" * ((1 << 20) + 4 - short)
    body = line("header", summary="x") + json.dumps({"key": "file", "value": value}).encode() + b"\n"

    def attack() -> tuple[int, str]:
        answer = app.post("/api/models/bea/m/commit/main", bea, content=body, headers=NDJSON)
        return answer.status_code, answer.text

    before = attack()
    send(app, ann, "ann/m", WEIGHTS)
    assert commit(app, ann, "ann/m", large("w.safetensors", WEIGHTS)).status_code == 200
    assert before[0] == 400
    assert attack() == before


def test_refusals_do_not_tell_whether_a_private_repository_is_there(app: Any, ann: str) -> None:
    make_repo(app, ann, "ann/secret", private=True)
    bea = app.user("bea")
    there, not_there = (
        app.post("/api/repos/create", bea, json={"name": name, "organization": "ann"})
        for name in ("secret", "nothing")
    )
    assert (there.status_code, there.json()) == (not_there.status_code, not_there.json())


def test_a_token_for_projects_never_speaks_for_an_account(app: Any) -> None:
    whole = app.user("ann")
    app.org("acme", {"ann": "owner"})
    made = app.post(
        "/v1/tokens", whole, json={"name": "part", "scopes": ["publish"], "projects": ["acme*"]}
    ).json()
    hook = {"url": "https://example.com/", "events": ["*"], "account": "acme"}
    assert app.post("/v1/webhooks", whole, json=hook).status_code == 201
    assert app.post("/v1/webhooks", made["token"], json=hook).status_code == 403
    assert app.get("/v1/webhooks?account=acme", made["token"]).status_code == 403
    assert app.delete("/v1/webhooks/1", made["token"]).status_code == 404
    assert app.get("/v1/audit?account=acme", made["token"]).status_code == 403
    key = {"pem": "x", "proof": "x"}
    assert app.post("/v1/publishers/acme/keys", made["token"], json=key).status_code == 403


def test_patterns_have_so_much_time_and_no_more(app: Any, ann: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preupload, "_PATTERN_SECONDS", 0.2)
    files = [{"path": "/".join(["a" * 15] * 60) + str(n), "size": 1} for n in range(1000)]
    body = {"files": files, "gitIgnore": "*a*a*a*a*a*b\n" * 2000}
    answer = app.post("/api/models/ann/m/preupload/main", ann, json=body)
    assert (answer.status_code, "take more than" in answer.json()["error"]) == (400, True)


def test_what_the_registry_reads_of_one_commit_has_a_limit(app: Any, ann: str) -> None:
    long = b"- {dataset: {id: d}, value: 1, notes: " + b"x" * 900_000 + b"}\n"
    files = (file(f".eval_results/{n}.yaml", long) for n in range(6))
    assert commit(app, ann, "ann/m", *files).status_code == 413


def test_a_part_that_is_sent_again_takes_the_place_of_the_first(make_app: Any) -> None:
    app = make_app(multipart_chunk=1000)
    ann = app.user("ann")
    make_repo(app, ann, "ann/m")
    body = {"operation": "upload", "transfers": ["multipart"]}
    body["objects"] = [{"oid": sha256(WEIGHTS), "size": len(WEIGHTS)}]  # type: ignore[assignment]
    answer = app.post("/ann/m.git/info/lfs/objects/batch", ann, json=body).json()
    address = answer["objects"][0]["actions"]["upload"]["header"]["00001"].removeprefix(
        "http://registry.test"
    )
    for fill in (b"a", b"b", b"c"):
        assert app.call("PUT", address, content=fill * 1000).status_code == 200
    (folder,) = (p for p in app.registry.store.parts.iterdir() if p.is_dir())
    assert len(list(folder.iterdir())) == 1


def test_private_rows_do_not_use_up_a_leaderboard(
    app: Any, ann: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaderboard, "MAX_ENTRIES", 1)
    bea = app.user("bea")
    make_repo(app, ann, "ann/d", kind="dataset")
    make_repo(app, bea, "bea/hidden", private=True)
    rows = "".join(f"- {{dataset: {{id: ann/d}}, value: {n}}}\n" for n in range(2, 20))
    assert commit(app, bea, "bea/hidden", file(".eval_results/a.yaml", rows.encode())).status_code == 200
    row = b"- {dataset: {id: ann/d}, value: 1}\n"
    assert commit(app, ann, "ann/m", file(".eval_results/a.yaml", row)).status_code == 200
    answer = app.get("/api/datasets/ann/d/leaderboard")
    assert [entry["modelId"] for entry in answer.json()] == ["ann/m"]


def test_a_token_for_projects_speaks_in_no_other(app: Any, ann: str) -> None:
    bea = app.user("bea")
    make_repo(app, bea, "bea/m")
    app.call("PUT", "/api/models/bea/m/settings", bea, json={"gated": "auto"})
    body = {"name": "part", "scopes": ["write"], "projects": ["ann/*"]}
    part = app.post("/v1/tokens", ann, json=body).json()["token"]
    said = {"title": "t", "description": "d"}
    assert app.post("/api/models/bea/m/discussions", part, json=said).status_code == 403
    assert app.post("/api/models/bea/m/discussions", ann, json=said).status_code == 200
    for path in ("comment", "title", "status"):
        body = {"comment": "c", "title": "t", "status": "closed"}
        assert app.post(f"/api/models/bea/m/discussions/1/{path}", part, json=body).status_code == 403
    assert app.post("/bea/m/ask-access", part, json={}).status_code == 403
    assert app.post("/bea/m/ask-access", ann, json={}).json() == {"status": "accepted"}


def test_an_address_of_a_file_ends_with_the_right_to_it(app: Any, ann: str) -> None:
    send(app, ann, "ann/m", WEIGHTS)
    commit(app, ann, "ann/m", large("w", WEIGHTS))
    bea = app.user("bea")
    asked = {"operation": "download", "objects": [{"oid": sha256(WEIGHTS), "size": len(WEIGHTS)}]}

    def address(token: str | None) -> str:
        answer = app.post("/ann/m.git/info/lfs/objects/batch", token, json=asked).json()
        href: str = answer["objects"][0]["actions"]["download"]["href"]
        return href.removeprefix("http://registry.test")

    known = {None: address(None), bea: address(bea), ann: address(ann)}
    assert [app.get(path).status_code for path in known.values()] == [200, 200, 200]
    app.call("PUT", "/api/models/ann/m/settings", ann, json={"gated": "manual"})
    assert [app.get(path).status_code for path in known.values()] == [401, 403, 200]
    app.call("PUT", "/api/models/ann/m/settings", ann, json={"private": True})
    assert [app.get(path).status_code for path in known.values()] == [401, 404, 200]
    made = app.get("/v1/tokens", ann).json()["tokens"]
    app.delete(f"/v1/tokens/{made[0]['id']}", ann)
    assert app.get(known[ann]).status_code == 401


def test_uploads_in_parts_count_before_they_are_complete(make_app: Any) -> None:
    app = make_app(multipart_chunk=1000)
    ann = app.user("ann", quota=15_000)
    make_repo(app, ann, "ann/m")

    def begin(data: bytes) -> int:
        body: dict[str, Any] = {"operation": "upload", "transfers": ["multipart"]}
        body["objects"] = [{"oid": sha256(data), "size": len(data)}]
        status: int = app.post("/ann/m.git/info/lfs/objects/batch", ann, json=body).status_code
        return status

    assert begin(WEIGHTS) == 200
    assert begin(WEIGHTS) == 200
    assert begin(WEIGHTS[::-1]) == 413


def test_few_webhooks_are_tried_at_once(app: Any) -> None:
    ann = app.user("ann")
    hook = app.post("/v1/webhooks", ann, json={"url": "http://127.0.0.1/", "events": ["*"]}).json()
    assert app.post(f"/v1/webhooks/{hook['id']}/test", ann).status_code == 200
    while app.registry.outside.acquire(blocking=False):
        pass
    answer = app.post(f"/v1/webhooks/{hook['id']}/test", ann)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "10")


def test_no_upload_fills_the_disk(app: Any, ann: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = actions(app, ann, "ann/m", WEIGHTS)
    address = found["upload"]["href"].removeprefix("http://registry.test")
    monkeypatch.setattr(filesystem, "RESERVE", 1 << 60)
    assert app.call("PUT", address, content=WEIGHTS).status_code == 507
    flattener = Flattener(app.registry, 1, cast(Any, None))
    with pytest.raises(Failure, match="no room"):
        flattener.add(ShardFile("0" * 64, 1 << 20, memoryview(b""), 0, 0))
    flattener.close()
    monkeypatch.undo()
    assert app.call("PUT", address, content=WEIGHTS).status_code == 200


def test_organisations_are_no_way_to_any_quota(app: Any, ann: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts_face, "MAX_ORGS", 2)
    made = [app.post("/v1/orgs", ann, json={"name": f"org{n}"}).status_code for n in range(3)]
    assert made == [201, 201, 403]
