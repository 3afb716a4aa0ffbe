"""The package index under attack: names that are not told, requirements past the index, files that others may read."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
from test_index_upload import upload
from wheelsmith import make_plugin_wheel, make_sdist, make_wheel

from llmasos_registry.server.index.upstream import Upstream
from llmasos_registry.server.serve import open_registry
from llmasos_registry.server.settings import Settings
from llmasos_registry.wheel.archive import read_wheel
from llmasos_registry.wheel.hosting import check_hosted
from llmasos_registry.wheel.refusal import WheelRefused

JSON = {"Accept": "application/vnd.pypi.simple.v1+json"}
ADDRESS = "Requires-Dist: helper @ https://evil.test/helper-1.0-py3-none-any.whl"


def test_requirements_past_the_index_are_refused(app: Any, tmp_path: Path) -> None:
    """pip follows an address in METADATA wherever it leads, so the index would vouch for what it never saw."""
    token = app.user("ann")
    answer = upload(app, token, make_plugin_wheel(tmp_path, "acme-ngram", metadata=[ADDRESS]))
    assert (answer.status_code, "from the address" in answer.json()["error"]) == (400, True)
    assert app.post("/v1/plugins", token, json={"name": "acme-lib"}).status_code == 201
    assert app.call("PATCH", "/v1/plugins/acme-lib", token, json={"sdists": True}).status_code == 200
    info = f"Metadata-Version: 2.1\nName: acme-lib\nVersion: 1.0\n{ADDRESS}\n"
    answer = upload(app, token, make_sdist(tmp_path, "acme-lib", files={"PKG-INFO": info}))
    assert (answer.status_code, "from the address" in answer.json()["error"]) == (400, True)


def test_taken_names_are_taken_in_any_case(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "acme-lib", files={"Torch/__init__.py": b""})
    with pytest.raises(WheelRefused, match="belongs to the distribution torch"):
        check_hosted(read_wheel(wheel))


def test_private_names_answer_as_names_that_nobody_has(
    make_app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Upstream, "page", lambda self, key: None)
    app = make_app(upstream_index="http://upstream.test/simple/")
    admin = app.user("boss", ["admin"], admin=True)
    assert app.post("/v1/plugins", admin, json={"name": "hidden", "private": True}).status_code == 201
    for address in (
        "/simple/{}/",
        f"/files/upstream/{{}}/{'0' * 64}/x-1.0-py3-none-any.whl",
        "/v1/plugins/{}",
    ):
        hidden, nothing = (app.get(address.format(name), headers=JSON) for name in ("hidden", "nothing"))
        assert hidden.status_code == nothing.status_code == 404
        assert hidden.text.replace("hidden", "nothing") == nothing.text


def test_an_administrator_s_weaker_token_does_not_shadow_the_upstream(make_app: Any) -> None:
    app = make_app(upstream_index="http://upstream.test/simple/")
    weak = app.user("boss", ["publish"], admin=True)
    assert app.post("/v1/plugins", weak, json={"name": "requests-like"}).status_code == 403


def test_nobody_else_on_the_machine_reads_the_data_folder(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "data")
    registry = open_registry(settings)
    registry.db.close()
    assert stat.S_IMODE(settings.data.stat().st_mode) == 0o700
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in settings.data.iterdir() if p.is_file()}
    assert set(modes.values()) == {0o600}, modes
