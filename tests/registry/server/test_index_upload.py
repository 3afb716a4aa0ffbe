"""Uploads: what twine and uv send is taken once, what lies is refused, and published files never change."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from registries import InProcess
from wheelsmith import (
    make_plugin_wheel,
    make_sdist,
    make_wheel,
    record_row,
    wheel_members,
    wheel_name,
    zipped,
)

from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.tables_api import audit_log, events
from llmasos_registry.server.db.tables_index import package_files, package_releases, projects
from llmasos_registry.signatures.keys import generate, prove, public_pem
from llmasos_registry.signatures.wheel_statement import sign_wheel

JSON = {"Accept": "application/vnd.pypi.simple.v1+json"}


def upload(
    app: InProcess,
    token: str | None,
    path: Path,
    *,
    filename: str | None = None,
    query: str = "",
    **fields: str,
) -> Any:
    """The form that twine sends, as far as the server reads it."""
    name, version = path.name.split("-")[:2]
    form = {
        ":action": "file_upload",
        "protocol_version": "1",
        "name": name,
        "version": version.removesuffix(".tar.gz"),
        "filetype": "bdist_wheel" if path.suffix == ".whl" else "sdist",
        "sha256_digest": hashlib.sha256(path.read_bytes()).hexdigest(),
        "blake2_256_digest": hashlib.blake2b(path.read_bytes(), digest_size=32).hexdigest(),
        "requires_dist": "ignored",
        **fields,
    }
    files = {"content": (filename or path.name, path.read_bytes(), "application/octet-stream")}
    return app.post(f"/legacy/{query}", token, data=form, files=files)


def page(app: InProcess, key: str, token: str | None = None) -> Any:
    answer = app.get(f"/simple/{key}/", token, headers=JSON)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_first_upload_makes_the_project_and_a_second_changes_nothing(
    app: InProcess, tmp_path: Path
) -> None:
    token = app.user("ann")
    wheel = make_plugin_wheel(
        tmp_path, "acme-ngram", metadata=["Requires-Python: >=3.11", "Requires-Dist: packaging"]
    )
    assert upload(app, token, wheel).json() == {
        "name": "acme-ngram", "version": "1.0", "filename": wheel.name, "new": True
    }  # fmt: skip
    first = page(app, "acme-ngram")
    (file,) = first["files"]
    assert file["hashes"]["sha256"] == hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert (file["size"], file["requires-python"], file["yanked"]) == (wheel.stat().st_size, ">=3.11", False)
    assert first["versions"] == ["1.0"]
    again = upload(app, token, wheel)
    assert (again.status_code, again.json()["new"]) == (200, False)
    assert page(app, "acme-ngram") == first, "not even the serial moved"
    described = app.get("/v1/plugins/acme-ngram").json()
    assert (described["plugin_id"], described["owner"]) == ("acme-ngram", "ann")
    assert described["versions"][0]["manifest"]["id"] == "acme-ngram"
    assert described["versions"][0]["requires_dist"] == ["packaging"]
    with app.db.read() as conn:
        actions = conn.execute(sa.select(audit_log.c.action)).scalars().all()
        assert actions.count("plugin.publish") == 1
        assert "plugin.publish" in conn.execute(sa.select(events.c.event)).scalars().all()


def test_files_and_their_metadata_are_served_as_they_were_sent(app: InProcess, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "acme")
    upload(app, app.user("ann"), wheel)
    (file,) = page(app, "acme")["files"]
    address = "/simple/acme/" + file["url"]
    whole = app.get(address)
    assert whole.content == wheel.read_bytes()
    assert "immutable" in whole.headers["cache-control"]
    assert app.get(address, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    part = app.get(address, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, wheel.read_bytes()[10:20])
    metadata = app.get(address + ".metadata")
    assert hashlib.sha256(metadata.content).hexdigest() == file["core-metadata"]["sha256"]
    assert metadata.content == wheel_members("acme")["acme-1.0.dist-info/METADATA"]
    assert app.get(address.replace(file["hashes"]["sha256"], "0" * 64)).status_code == 404


def test_changed_bytes_are_refused_as_twine_expects(app: InProcess, tmp_path: Path) -> None:
    token = app.user("ann")
    wheel = make_wheel(tmp_path, "acme")
    old = hashlib.sha256(wheel.read_bytes()).hexdigest()
    upload(app, token, wheel)
    make_wheel(tmp_path, "acme", files={"acme/__init__.py": "other = 1\n"})
    for fields in ({}, {"sha256_digest": ""}):
        answer = upload(app, token, wheel, **fields)
        assert answer.status_code == 400
        assert "File already exists" in answer.json()["error"]
        assert old in answer.json()["error"], "the message names what was expected"
    assert page(app, "acme")["files"][0]["hashes"]["sha256"] == old


LIES: tuple[tuple[dict[str, str], str], ...] = (
    ({"name": "other"}, "is of 'acme'"),
    ({"version": "2.0"}, "is of 1.0"),
    ({"version": "x y"}, "not a version"),
    ({"filetype": "sdist"}, "is a bdist_wheel"),
    ({"sha256_digest": "0" * 64}, "what arrived has"),
    ({"blake2_256_digest": "0" * 64}, "what arrived has"),
    ({":action": "submit"}, "not known"),
    ({"attestations": '[{"version": 1}]'}, "--no-attestations"),
    ({"llmasos_signature": "{}"}, "signature"),
    ({"llmasos_owner": "bob"}, "may not publish"),
)


def test_the_form_agrees_with_the_file(app: InProcess, tmp_path: Path) -> None:
    token = app.user("ann")
    app.user("bob")
    wheel = make_wheel(tmp_path, "acme")
    for fields, said in LIES:
        answer = upload(app, token, wheel, **fields)
        assert answer.status_code in (400, 403, 422), fields
        assert said in answer.text
    for name in ("acme-2.0-py3-none-any.whl", "other-1.0-py3-none-any.whl", "../acme-1.0-py3-none-any.whl",
                 "acme.exe", "acme-1.0.zip", "", "acme-1.0-py3-none-any.whl\x00"):  # fmt: skip
        assert upload(app, token, wheel, filename=name, name="", version="").status_code == 400, name
    assert app.get("/simple/acme/").status_code == 404, "nothing is half visible"
    with app.db.read() as conn:
        assert conn.execute(sa.select(projects.c.id)).first() is None


def test_hostile_wheels_are_refused_with_the_rule(app: InProcess, tmp_path: Path) -> None:
    token = app.user("ann")
    path = tmp_path / wheel_name("acme")
    members = wheel_members("acme")
    members["acme/__init__.py"] = b"changed\n"
    path.write_bytes(zipped(members))
    answer = upload(app, token, path)
    assert answer.status_code == 400
    assert "acme/__init__.py: RECORD says 16 bytes" in answer.json()["error"]
    path.write_bytes(zipped(wheel_members("acme", files={"acme.pth": "import os\n"})))
    answer = upload(app, token, path)
    assert "runs at start-up" in answer.json()["error"]
    path.write_bytes(zipped(wheel_members("acme", files={"acme/x": bytes(200_000_000)})))
    assert "a bomb" in upload(app, token, path).json()["error"]
    bad = make_plugin_wheel(tmp_path, "acme", api="one")
    assert "llmasos.toml" in upload(app, token, bad).json()["error"]


def test_who_may_publish(app: InProcess, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "acme")
    assert upload(app, None, wheel).status_code == 401
    assert upload(app, "llma_wrong", wheel).status_code == 401
    assert upload(app, app.user("ann", ("write",)), wheel).status_code == 403
    assert upload(app, app.user("ann", projects=["other"]), wheel).status_code == 403
    assert upload(app, app.user("ann", projects=["acme*"]), wheel).status_code == 200
    newer = make_wheel(tmp_path, "acme", "2.0")
    answer = upload(app, app.user("bob"), newer)
    assert (answer.status_code, "belongs to somebody else" in answer.json()["error"]) == (403, True)
    assert upload(app, app.user("ann"), newer).status_code == 200


def test_only_an_administrator_publishes_the_kernel(app: InProcess, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "llmasos", "99.0")
    refused = upload(app, app.user("ann"), wheel)
    assert refused.status_code == 403
    assert "LLMasOS itself" in refused.text
    assert upload(app, app.user("boss", ("admin",), admin=True), wheel).status_code == 200


def test_organisations_own_projects(app: InProcess, tmp_path: Path) -> None:
    ann, bob, eve, stranger = (app.user(name) for name in ("ann", "bob", "eve", "stranger"))
    app.org("lab", {"ann": "owner", "bob": "maintainer", "eve": "reader"})
    first = make_wheel(tmp_path, "acme")
    assert upload(app, eve, first, llmasos_owner="lab").status_code == 403
    assert upload(app, stranger, first, llmasos_owner="lab").status_code == 403
    # twine cannot send further fields; the address can.
    assert upload(app, bob, first, query="?owner=lab").status_code == 200
    assert upload(app, ann, make_wheel(tmp_path, "acme", "2.0")).status_code == 200
    assert upload(app, eve, make_wheel(tmp_path, "acme", "3.0")).status_code == 403
    assert app.get("/v1/plugins/acme").json()["owner"] == "lab"


def test_http_basic_is_what_twine_sends(app: InProcess, tmp_path: Path) -> None:
    token = app.user("ann")
    wheel = make_wheel(tmp_path, "acme")
    files = {"content": (wheel.name, wheel.read_bytes())}
    answer = app.client.post(
        "/legacy/", data={":action": "file_upload"}, files=files, auth=("__token__", token)
    )
    assert answer.status_code == 200


def test_names_that_look_like_others_are_refused(app: InProcess, tmp_path: Path) -> None:
    token, other = app.user("ann"), app.user("bob")
    assert upload(app, token, make_wheel(tmp_path, "acme-tools")).status_code == 200
    for name in ("acmetools", "acme-too1s", "acme-t00ls", "acme-tooIs", "a-c-m-e-tools"):
        answer = upload(app, other, make_wheel(tmp_path, name))
        assert (answer.status_code, "looks like" in answer.json()["error"]) == (409, True), name
    for name in (
        "llmas0s-core",
        "11masos-core",
        "ilmasos",
        "t0rch",
        "requirements-txt",
        "json",
        "os",
        "site-packages",
    ):
        assert upload(app, other, make_wheel(tmp_path, name, files={})).status_code == 403, name
    same = make_wheel(tmp_path, "Acme.Tools", "2.0", files={"acme_tools/__init__.py": ""})
    assert upload(app, token, same).status_code == 200, "another spelling of the same name"
    assert len(page(app, "acme-tools")["files"]) == 2


def test_two_projects_do_not_install_the_same_package(app: InProcess, tmp_path: Path) -> None:
    ann, bob = app.user("ann"), app.user("bob")
    upload(app, ann, make_wheel(tmp_path, "acme"))
    grabs = make_wheel(tmp_path, "better", files={"better/__init__.py": "", "acme/__init__.py": ""})
    answer = upload(app, bob, grabs)
    assert (answer.status_code, "already installed by the project `acme`" in answer.json()["error"]) == (
        400,
        True,
    )
    namespace = make_wheel(tmp_path, "better", files={"better/__init__.py": "", "shared/better.py": ""})
    assert upload(app, bob, namespace).status_code == 200
    joins = make_wheel(tmp_path, "acme", "2.0", files={"acme/__init__.py": "", "shared/acme.py": ""})
    assert upload(app, ann, joins).status_code == 200, "namespace packages are shared"
    twin = make_plugin_wheel(tmp_path, "twin")
    assert upload(app, ann, twin).status_code == 200
    points = "[llmasos.plugins]\ntwin = copy_of:llmasos.toml\n"
    files = {"copy_of/plugin.py": "", "copy_of/llmasos.toml": _toml("twin", "copy_of.plugin")}
    answer = upload(app, bob, make_wheel(tmp_path, "copy-of", files=files, entry_points=points))
    assert (answer.status_code, "plugin id `twin`" in answer.json()["error"]) == (409, True)


def _toml(plugin_id: str, module: str) -> str:
    return f'manifest = 1\nid = "{plugin_id}"\nsummary = "x"\nmodule = "{module}"\napi = ">=1.0,<2"\nlicense = "MIT"\n'


def test_a_version_is_sealed_after_its_grace(make_app: Callable[..., InProcess], tmp_path: Path) -> None:
    app = make_app(seal_after=600)
    token = app.user("ann")
    upload(app, token, make_wheel(tmp_path, "acme"))
    assert upload(app, token, make_wheel(tmp_path, "acme", tag="cp311-abi3-linux_x86_64")).status_code == 200
    with app.db.write() as conn:
        conn.execute(package_releases.update().values(created_at=utcnow() - timedelta(hours=1)))
    answer = upload(app, token, make_wheel(tmp_path, "acme", tag="cp312-abi3-linux_x86_64"))
    assert (answer.status_code, "sealed" in answer.json()["error"]) == (409, True)
    assert upload(app, token, make_wheel(tmp_path, "acme")).status_code == 200, (
        "what is there may be sent again"
    )
    assert upload(app, token, make_wheel(tmp_path, "acme", "1.1")).status_code == 200


def test_wheels_of_one_version_hold_one_manifest(app: InProcess, tmp_path: Path) -> None:
    token = app.user("ann")
    upload(app, token, make_plugin_wheel(tmp_path, "acme"))
    points = "[llmasos.plugins]\nacme = acme:llmasos.toml\n"
    files = {"acme/__init__.py": "", "acme/plugin.py": "", "acme/llmasos.toml": _toml("acme", "acme.plugin")}
    other = make_wheel(tmp_path, "acme", files=files, entry_points=points, tag="cp311-abi3-linux_x86_64")
    answer = upload(app, token, other)
    assert (answer.status_code, "another llmasos.toml" in answer.json()["error"]) == (400, True)


def test_one_wheel_has_one_spelling(app: InProcess, tmp_path: Path) -> None:
    token = app.user("ann")
    upload(app, token, make_wheel(tmp_path, "acme", tag="py2.py3-none-any"))
    wheel = make_wheel(tmp_path, "acme", tag="py3.py2-none-any")
    answer = upload(app, token, wheel)
    assert (answer.status_code, "another spelling" in answer.json()["error"]) == (400, True)


def test_source_distributions_only_where_the_owner_allows_them(app: InProcess, tmp_path: Path) -> None:
    token = app.user("ann")
    sdist = make_sdist(tmp_path, "acme")
    answer = upload(app, token, sdist)
    assert (answer.status_code, "wheels only" in answer.json()["error"]) == (400, True)
    upload(app, token, make_wheel(tmp_path, "acme"))
    assert app.call("PATCH", "/v1/plugins/acme", app.user("bob"), json={"sdists": True}).status_code == 403
    assert app.call("PATCH", "/v1/plugins/acme", token, json={"sdists": True}).json()["sdists"] is True
    assert upload(app, token, sdist).status_code == 200
    listed = {file["filename"]: file for file in page(app, "acme")["files"]}
    assert "core-metadata" not in listed[sdist.name]


def test_sizes_are_limited_while_the_file_arrives(make_app: Callable[..., InProcess], tmp_path: Path) -> None:
    app = make_app(max_wheel=3_000_000)
    token = app.user("ann", quota=100_000)
    big = make_wheel(tmp_path, "big", files={"big/x.bin": hashlib.shake_256(b"x").digest(3_000_001)})
    assert upload(app, token, big).status_code == 413
    wide = make_wheel(tmp_path, "wide", files={"wide/x.bin": hashlib.shake_256(b"x").digest(200_000)})
    answer = upload(app, token, wide)
    assert (answer.status_code, "quota" in answer.json()["error"]) == (413, True)
    small = make_wheel(tmp_path, "wide")
    assert upload(app, token, small).status_code == 200
    used = app.get("/v1/accounts/ann/usage", token).json()["used"]
    assert used == small.stat().st_size
    app.delete(f"/v1/plugins/wide/files/{small.name}", token)
    assert app.get("/v1/accounts/ann/usage", token).json()["used"] == 0
    left = [entry for entry in (app.registry.settings.data / "tmp").iterdir() if entry.is_file()]
    assert left == [], "temporary files are removed"


def test_broken_forms_are_refused(app: InProcess) -> None:
    token = app.user("ann")
    kind = {"Content-Type": "multipart/form-data; boundary=xx"}

    def send(body: bytes, headers: dict[str, str] | None = None) -> int:
        return int(app.post("/legacy/", token, content=body, headers=headers or kind).status_code)

    part = b'--xx\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    assert send(b"{}", {"Content-Type": "application/json"}) == 400
    assert send(b"") == 400
    assert send(b"garbage") == 400
    assert send(part % (b"name", b"acme") + b"--xx--\r\n") == 400, "no file"
    assert send(part % (b"name", b"a") + part % (b"name", b"b") + b"--xx--\r\n") == 400, "a field twice"
    assert send(part % (b"name", b"\xff") + b"--xx--\r\n") == 400, "not UTF-8"
    assert send(b"".join(part % (b"classifiers", b"x") for _ in range(6000)) + b"--xx--\r\n") == 400, (
        "too many"
    )
    assert send(part % (b"name", bytes(5 << 20)) + b"--xx--\r\n") == 400, "too long"
    file = b'--xx\r\nContent-Disposition: form-data; name="content"; filename="acme-1.0-py3-none-any.whl"\r\n\r\n'
    assert send(file + b"cut short") == 400
    assert send(file + b"no zip\r\n" + file + b"\r\n--xx--\r\n") == 400, "two files"
    assert send(file + b"no zip\r\n--xx--\r\n") == 400


def test_a_signature_comes_with_the_file_or_after_it(app: InProcess, tmp_path: Path) -> None:
    token = app.user("ann")
    key = generate(tmp_path / "publisher.pem")
    proof = prove(key, "ann")
    answer = app.post(
        "/v1/publishers/ann/keys", token, json={"pem": public_pem(key.public_key()), "proof": proof}
    )
    assert answer.status_code == 201, answer.text

    def envelope(wheel: Path, version: str) -> str:
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        return json.dumps(sign_wheel(key, wheel.name, digest, "acme", version, "ann"))

    def signatures(wheel: Path) -> int:
        return len(app.get(f"/v1/plugins/acme/files/{wheel.name}/signatures").json()["signatures"])

    first, second = make_wheel(tmp_path, "acme"), make_wheel(tmp_path, "acme", "2.0")
    assert upload(app, token, first, llmasos_signature=envelope(first, "1.0")).json()["new"] is True
    assert signatures(first) == 1
    wrong = upload(app, token, second, llmasos_signature=envelope(first, "1.0"))
    assert (wrong.status_code, "expected" in wrong.json()["error"]) == (422, True)
    assert len(page(app, "acme")["files"]) == 1, "neither the file nor its signature"
    assert upload(app, token, second).status_code == 200
    for _ in range(2):
        again = upload(app, token, second, llmasos_signature=envelope(second, "2.0"))
        assert (again.status_code, again.json()["new"]) == (200, False)
        assert signatures(second) == 1


def test_of_many_uploads_of_one_name_one_wins(app: InProcess, tmp_path: Path) -> None:
    token = app.user("ann")
    wheels = []
    for number in range(6):
        folder = tmp_path / str(number)
        folder.mkdir()
        wheels.append(make_wheel(folder, "acme", files={"acme/__init__.py": f"number = {number}\n"}))
    codes: list[int] = []
    threads = [
        threading.Thread(target=lambda w=wheel: codes.append(upload(app, token, w).status_code))
        for wheel in wheels
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [200, 400, 400, 400, 400, 400]
    with app.db.read() as conn:
        assert len(conn.execute(sa.select(package_files.c.id)).all()) == 1
    assert len(page(app, "acme")["files"]) == 1


def test_record_rows_are_what_the_reader_expects() -> None:
    """The factory's own row, against a digest computed elsewhere."""
    assert record_row("a", b"") == "a,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0\n"
