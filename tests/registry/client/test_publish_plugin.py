"""`llmasos plugin publish` against a real server."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from community_project import write_project
from person import Person
from registries import Server

from llmasos_registry.client.connection import Connection
from llmasos_registry.signatures.keys import load_private
from llmasos_registry.signatures.wheel_statement import check_wheel


@pytest.fixture(scope="module")
def dan(registry: Server, tmp_path_factory: pytest.TempPathFactory) -> Person:
    person = Person(tmp_path_factory.mktemp("dan"), registry.url, registry.user("dan"))
    person.run("registry", "key", "new", "--register")
    return person


def ask(registry: Server, path: str) -> Any:
    with Connection(registry.url) as connection:
        return connection.get(path)


def signatures(registry: Server, done: dict[str, Any]) -> list[dict[str, Any]]:
    answer = ask(registry, f"/v1/plugins/{done['name']}/files/{done['filename']}/signatures")
    assert answer["sha256"] == done["sha256"]
    return list(answer["signatures"])


def test_a_project_is_built_checked_signed_and_published_once(
    registry: Server, dan: Person, tmp_path: Path
) -> None:
    project = write_project(tmp_path / "acme", "1.2.0", "llmasos-dan-acme")
    done = dan.json("plugin", "publish", str(project))
    assert (done["name"], done["version"], done["plugin"]) == (
        "llmasos-dan-acme",
        "1.2.0",
        "llmasos-dan-acme",
    )
    assert (done["publisher"], done["uploaded"]) == ("dan", True)
    page = ask(registry, "/v1/plugins/llmasos-dan-acme")
    (version,) = page["versions"]
    assert version["manifest"]["id"] == "llmasos-dan-acme"
    (file,) = version["files"]
    assert (file["filename"], file["sha256"], file["size"]) == (
        done["filename"],
        done["sha256"],
        done["size"],
    )
    with Connection(registry.url) as connection, connection.stream(file["url"]) as answer:
        assert hashlib.sha256(answer.read()).hexdigest() == done["sha256"]
    public = load_private(dan.config / "keys" / "publisher.pem").public_key()
    (envelope,) = signatures(registry, done)
    asked = (done["filename"], done["sha256"], "llmasos-dan-acme", "1.2.0", "dan")
    assert check_wheel(envelope, [public], *asked) == done["keyid"]

    mark = len(registry.requests())
    again = dan.run("plugin", "publish", str(project))
    assert "already published: llmasos-dan-acme 1.2.0" in again.stdout
    assert not [line for line in registry.requests()[mark:] if line.startswith("POST")]
    assert len(signatures(registry, done)) == 1

    write_project(project, "1.2.0", "llmasos-dan-acme", text="other")
    words = dan.refused("plugin", "publish", str(project))
    assert "llmasos-dan-acme 1.2.0 is published with other bytes" in words
    assert done["sha256"] in words
    assert "raise `version`" in words
    write_project(project, "1.3.0", "llmasos-dan-acme", text="other")
    assert dan.json("plugin", "publish", str(project))["version"] == "1.3.0"


def test_a_signature_is_added_to_what_another_tool_uploaded(
    registry: Server, dan: Person, tmp_path: Path
) -> None:
    project = write_project(tmp_path / "later", "1.0.0", "llmasos-dan-later")
    done = dan.json("plugin", "publish", str(project), "--no-sign")
    assert done["keyid"] is None
    assert signatures(registry, done) == []
    signed = dan.json("plugin", "publish", str(project))
    assert signed["uploaded"] is False
    assert len(signatures(registry, done)) == 1


def test_somebody_elses_project_is_refused(registry: Server, dan: Person, tmp_path: Path) -> None:
    project = write_project(tmp_path / "mine", "1.0.0", "llmasos-dan-mine")
    dan.run("plugin", "publish", str(project))
    eve = Person(tmp_path / "eve", registry.url, registry.user("eve"))
    eve.run("registry", "key", "new", "--register")
    write_project(project, "1.1.0", "llmasos-dan-mine")
    assert "not registered for dan" in eve.refused("plugin", "publish", str(project))
    eve.refused("plugin", "publish", str(project), "--no-sign", code=1)
    assert [row["version"] for row in ask(registry, "/v1/plugins/llmasos-dan-mine")["versions"]] == ["1.0.0"]


def test_what_breaks_the_rules_is_refused_before_it_is_sent(
    registry: Server, dan: Person, tmp_path: Path
) -> None:
    project = write_project(tmp_path / "bad", "1.0.0", "llmasos-dan-bad")
    manifest = project / "llmasos_dan_bad" / "llmasos.toml"
    good = manifest.read_text()
    mark = len(registry.requests())
    manifest.write_text(good.replace("summary", "sumary", 1))
    assert "sumary" in dan.refused("plugin", "publish", str(project), code=3)
    manifest.write_text(good)
    dan.run("plugin", "publish", str(project))
    posted = [line for line in registry.requests()[mark:] if line.startswith("POST")]
    assert len(posted) == 1

    wheel = tmp_path / "no_plugin-1.0.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("no_plugin/__init__.py", "")
    assert "dist-info" in dan.refused("plugin", "publish", str(wheel))


def test_a_library_is_no_plugin(dan: Person, tmp_path: Path) -> None:
    project = write_project(tmp_path / "lib", "1.0.0", "llmasos-dan-lib")
    backend = project / "backend.py"
    backend.write_text(backend.read_text().replace("[llmasos.plugins]", "[other.group]"))
    words = dan.refused("plugin", "publish", str(project))
    assert "holds no plugin" in words
    assert "first-plugin.md" in words


def test_a_project_of_an_organisation(registry: Server, dan: Person, tmp_path: Path) -> None:
    registry.org("danorg", {"dan": "owner"})
    project = write_project(tmp_path / "org", "1.0.0", "llmasos-danorg-acme")
    publish = ("plugin", "publish", str(project), "--owner", "danorg")
    assert "not registered for danorg" in dan.refused(*publish)
    dan.run("registry", "key", "register", "--account", "danorg")
    done = dan.json(*publish)
    assert (done["publisher"], len(signatures(registry, done))) == ("danorg", 1)
    assert ask(registry, "/v1/plugins/llmasos-danorg-acme")["owner"] == "danorg"
    assert "belongs to danorg, not to dan" in dan.refused("plugin", "publish", str(project), "--owner", "dan")


def test_a_version_is_taken_back_and_offered_again(registry: Server, dan: Person, tmp_path: Path) -> None:
    project = write_project(tmp_path / "yanked", "1.0.0", "llmasos-dan-yanked")
    dan.run("plugin", "publish", str(project))
    dan.run("plugin", "yank", "llmasos-dan-yanked", "1.0.0", "--reason", "wrong numbers")
    (row,) = ask(registry, "/v1/plugins/llmasos-dan-yanked")["versions"]
    assert (row["yanked"], row["yanked_reason"]) == (True, "wrong numbers")
    dan.run("plugin", "yank", "llmasos-dan-yanked", "1.0.0", "--undo")
    assert ask(registry, "/v1/plugins/llmasos-dan-yanked")["versions"][0]["yanked"] is False
    dan.run("plugin", "yank", "llmasos-dan-yanked", "9.0.0", code=5)
    assert "not of the form" in dan.refused("model", "yank", "tiny", "1.0.0")
