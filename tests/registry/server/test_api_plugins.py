"""Pages' data of projects, and taking versions back."""

from __future__ import annotations

import pytest
from registries import InProcess
from registry_seeds import seed_project, sha256


@pytest.fixture
def ann(app: InProcess) -> str:
    return app.user("ann")


def test_page_lists_versions_newest_first(app: InProcess, ann: str) -> None:
    seed_project(
        app, "ann", "LLMasOS.Acme", {"1.2.0": b"a", "1.10.0": b"b", "2.0.0rc1": b"c"}, summary="Acme"
    )
    page = app.get("/v1/plugins/llmasos_acme").json()
    assert page["name"] == "LLMasOS.Acme"
    assert page["plugin_id"] == "llmasos-acme"
    assert [v["version"] for v in page["versions"]] == ["2.0.0rc1", "1.10.0", "1.2.0"]
    newest = page["versions"][1]
    assert newest["requires_dist"] == ["llmasos>=0.1"]
    assert newest["manifest"] == {"id": "llmasos-acme"}
    (file,) = newest["files"]
    assert file["sha256"] == sha256(b"b")
    assert file["filename"] == "llmasos_acme-1.10.0-py3-none-any.whl"
    assert file["url"].startswith("http://registry.test/")
    assert page["owner"] == "ann"
    assert page["serial"] <= app.get("/v1/info").json()["serial"]


def test_libraries_have_no_manifest(app: InProcess, ann: str) -> None:
    seed_project(app, "ann", "helper-lib", {"1.0": b"x"}, plugin=False)
    page = app.get("/v1/plugins/helper-lib").json()
    assert (page["plugin_id"], page["versions"][0]["manifest"]) == (None, None)


def test_yank_and_back(app: InProcess, ann: str) -> None:
    seed_project(app, "ann", "llmasos-acme", {"1.0.0": b"x"})
    path = "/v1/plugins/llmasos-acme/versions/1.0.0/yank"
    before = app.get("/v1/plugins/llmasos-acme").json()["serial"]
    yanked = app.post(path, ann, json={"reason": "broken on 3.13"}).json()
    assert yanked == {
        "version": "1.0.0",
        "yanked": True,
        "yanked_reason": "broken on 3.13",
        "serial": before + 1,
    }
    assert app.post(path, ann, json={"reason": "broken on 3.13"}).json() == yanked
    (version,) = app.get("/v1/plugins/llmasos-acme").json()["versions"]
    assert (version["yanked"], version["yanked_reason"]) == (True, "broken on 3.13")
    back = app.delete(path, ann).json()
    assert (back["yanked"], back["serial"]) == (False, before + 2)
    assert app.post("/v1/plugins/llmasos-acme/versions/9.9/yank", ann, json={}).status_code == 404
    assert app.post("/v1/plugins/llmasos-acme/versions/%00/yank", ann, json={}).status_code == 400
    # The version is a version, however it is spelt.
    assert app.post("/v1/plugins/LLMasOS_acme/versions/v1.0.0/yank", ann, json={}).json()["yanked"] is True


def test_private_projects_do_not_exist_for_others(app: InProcess, ann: str) -> None:
    bob = app.user("bob")
    seed_project(app, "ann", "secret-plugin", {"1.0.0": b"x"}, private=True)
    for token in (None, bob):
        secret = app.get("/v1/plugins/secret-plugin", token)
        missing = app.get("/v1/plugins/absent-plugin", token)
        assert secret.status_code == missing.status_code == 404
        assert secret.text.replace("secret", "absent") == missing.text
    assert app.post("/v1/plugins/secret-plugin/versions/1.0.0/yank", bob, json={}).status_code == 404
    assert app.get("/v1/plugins/secret-plugin", ann).json()["private"] is True


def test_who_may_yank(app: InProcess, ann: str) -> None:
    seed_project(app, "ann", "llmasos-acme", {"1.0.0": b"x"})
    path = "/v1/plugins/llmasos-acme/versions/1.0.0/yank"
    tokens = (app.user("bob"), app.user("ann", ["write"]), app.user("ann", projects=["other"]))
    for token in tokens:
        assert app.post(path, token, json={}).status_code == 403
        assert app.delete(path, token).status_code == 403
    assert app.post(path, json={}).status_code == 401
    assert app.post(path, app.user("ann", projects=["llmasos-*"]), json={}).status_code == 200
