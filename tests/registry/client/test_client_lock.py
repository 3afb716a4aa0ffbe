"""Locks and bundles: one environment written down, another made equal to it, with a registry and without a network."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from installing import Place, build_wheel, key_for, publish, publish_tiny, requests_so_far, upload
from packaging.pylock import Pylock

from llmasos.config import load_config
from llmasos.errors import InputError
from llmasos_registry.client.bundle import Bundle, BundleRefused
from llmasos_registry.client.locked import Lock, LockedModel, ModelFile
from llmasos_registry.client.lockfile import lock_bytes, parse_lock
from llmasos_registry.client.locking import connect_to


@pytest.fixture(scope="module")
def world(registry: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A registry with a signed plugin, its library, and a signed model that requires the plugin."""
    folder = tmp_path_factory.mktemp("content")
    acme, libs = registry.user("acme"), registry.user("libs")
    key = key_for(registry.url, acme, "acme", folder / "acme.pem")
    for version in ("1.0.0", "1.1.0"):
        wheel = build_wheel(
            folder, "acme-hello", version, requires=["llmasos", "tiny-lib"], permissions={"subprocess": True}
        )
        publish(registry.url, acme, wheel, key)
    publish(registry.url, acme, build_wheel(folder, "acme-other"), key)
    upload(registry.url, libs, build_wheel(folder, "tiny-lib", "1.5.0", plugin=False))
    publish_tiny(
        registry.url,
        acme,
        folder / "model",
        "acme/tiny",
        requires=["acme-hello>=1.1"],
        key=folder / "acme.pem",
    )
    registry.acme_key, registry.acme_token = key, acme
    return registry


@pytest.fixture(scope="module")
def first(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """An environment with the plugin, and a lock of it and the model."""
    place = Place(tmp_path_factory.mktemp("first"), world.url)
    place.run("install", "--yes", "acme-hello")
    place.run("lock", "acme-hello", "--model", "acme/tiny@1.0")
    place.run("bundle", "create", "--lock", "pylock.toml", "-o", "one.bundle")
    return place


def own(place: Place) -> dict[str, bytes]:
    """What was installed, file by file."""
    return {
        path: data
        for path, data in place.tree().items()
        if "site-packages/acme_" in path or "site-packages/tiny_" in path
    }


def test_the_lock_is_one_that_others_read(first: Place) -> None:
    data = (first.root / "pylock.toml").read_bytes()
    lock = Pylock.from_dict(tomllib.loads(data.decode()))
    lock.validate()
    assert {str(one.name): str(one.version) for one in lock.packages} == {
        "acme-hello": "1.1.0",
        "tiny-lib": "1.5.0",
    }
    table = tomllib.loads(data.decode())["tool"]["llmasos"]
    assert [
        (one["name"], one["publisher"], one["permissions"]["subprocess"]) for one in table["plugins"]
    ] == [("acme-hello", "acme", True)]
    (model,) = table["models"]
    assert (model["id"], model["version"], model["signature"]) == ("acme/tiny", "1.0.0", "model.sig")
    assert model["keyid"] == table["plugins"][0]["keyid"]
    assert {"config.json", "llmasos.toml", "model.safetensors"} <= {file["path"] for file in model["files"]}
    assert "llmasos" in table["facts"]
    assert "torch" not in {str(one.name) for one in lock.packages}
    # Without names: what is installed.
    first.run("lock", "-o", "pylock.here.toml")
    here = parse_lock((first.root / "pylock.here.toml").read_bytes(), "here")
    assert (here.packages, here.models) == (parse_lock(data, "lock").packages, ())
    # Reading and writing gives the same bytes.
    assert lock_bytes(parse_lock(data, "lock")) == data


@pytest.mark.parametrize("tool", ["uv", "pip"])
def test_stock_tools_install_the_package_part(first: Place, tmp_path: Path, tool: str) -> None:
    from uv import find_uv_bin

    bare = Place(tmp_path)
    (bare.site / "outer.pth").unlink()  # nothing of ours is there
    lock = str(first.root / "pylock.toml")
    if tool == "uv":
        command = [find_uv_bin(), "pip", "sync", "--no-config", "--python", str(bare.python), lock]
    else:
        # This environment's pip, told to work on the other one.
        command = [str(first.python), "-m", "pip", "--python", str(bare.python), "install"]
        command += ["--no-index", "--no-deps", "-r", lock]
    done = subprocess.run(command, env=bare.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert bare.installed() == {"acme-hello": "1.1.0", "tiny-lib": "1.5.0"}


def test_sync_makes_another_environment_equal(world: Any, first: Place, tmp_path: Path) -> None:
    second = Place(tmp_path, world.url)
    second.run("install", "--yes", "acme-other", "acme-hello==1.0.0")
    lock = str(first.root / "pylock.toml")
    refused = second.run("sync", lock, code=2)
    for line in (
        "change  acme-hello 1.0.0 -> 1.1.0",
        "remove  acme-other 1.0.0",
        "fetch   model acme/tiny 1.0.0",
    ):
        assert line in refused.stderr
    second.run("sync", "--yes", lock)
    assert second.installed() == {"acme-hello": "1.1.0", "tiny-lib": "1.5.0"}
    assert own(second) == own(first)
    assert "nothing to do" in second.run("sync", "--yes", lock).stdout
    # The model is there too, complete.
    (folder,) = (second.cache / "registry").glob("*/models/acme/tiny/" + "?" * 40)
    assert (folder / "model.safetensors").is_file()


def test_a_lock_that_was_changed_is_refused(world: Any, first: Place, tmp_path: Path) -> None:
    place = Place(tmp_path, world.url)
    text = (first.root / "pylock.toml").read_text()
    table = tomllib.loads(text)
    digest = table["packages"][1]["wheels"][0]["hashes"]["sha256"]
    (tmp_path / "pylock.toml").write_text(text.replace(f'sha256 = "{digest}"', f'sha256 = "{"0" * 64}"'))
    done = place.run("sync", "--yes", code=1)
    assert f"expected sha256 {'0' * 64}, found {digest}" in done.stderr
    keyid = table["tool"]["llmasos"]["plugins"][0]["keyid"]
    (tmp_path / "pylock.toml").write_text(text.replace(keyid, "sha256:" + "1" * 64, 1))
    done = place.run("sync", "--yes", code=3)
    assert f"the lock names the key sha256:{'1' * 64}, found {keyid}" in done.stderr
    assert place.installed() == {}


def test_a_bundle_needs_no_network(world: Any, first: Place, tmp_path: Path) -> None:
    place = Place(tmp_path)
    bundle = str(first.root / "one.bundle")
    seen = len(requests_so_far(world))
    plan = place.run("bundle", "install", bundle, code=2, LLMASOS_OFFLINE="1")
    assert "NEW key, will be pinned" in plan.stderr
    place.run("bundle", "install", "--yes", bundle, LLMASOS_OFFLINE="1")
    assert own(place) == own(first)
    assert "nothing to do" in place.run("bundle", "install", "--yes", bundle, LLMASOS_OFFLINE="1").stdout
    offline = {"LLMASOS_OFFLINE": "1", "LLMASOS_REGISTRY": world.url}
    described = json.loads(place.run("model", "info", "registry://acme/tiny@1.0", "--json", **offline).stdout)
    assert described["provenance"]["version"] == "1.0.0"
    assert len(requests_so_far(world)) == seen


def test_bundles_of_the_same_content_are_equal(first: Place) -> None:
    first.run("bundle", "create", "acme-hello", "--model", "acme/tiny@1.0", "-o", "two.bundle")
    one, two = (Bundle(first.root / f"{name}.bundle") for name in ("one", "two"))
    assert one.lock.packages == two.lock.packages
    first.run("bundle", "create", "--lock", "pylock.toml", "-o", "three.bundle")
    assert (first.root / "three.bundle").read_bytes() == (first.root / "one.bundle").read_bytes()


def test_a_bundle_with_other_keys_than_those_pinned_is_refused(
    world: Any, first: Place, tmp_path: Path
) -> None:
    from llmasos_registry.signatures.keys import generate, keyid, public_pem

    place = Place(tmp_path)
    place.run("bundle", "install", "--yes", str(first.root / "one.bundle"))
    other = generate(tmp_path / "other.pem").public_key()
    forged = tmp_path / "forged.bundle"

    def change(index: dict[str, Any]) -> None:
        index["keys"]["acme"][0].update(keyid=keyid(other), pem=public_pem(other))

    rewrite(first.root / "one.bundle", forged, change)
    place.run("plugin", "uninstall", "--yes", "acme-hello")
    done = place.run("bundle", "install", "--yes", str(forged), code=1)
    assert "the keys of the publisher acme changed: pinned" in done.stderr
    assert "acme-hello" not in place.installed()


Members = list[tuple[tarfile.TarInfo, bytes]]


def members(path: Path) -> Members:
    with tarfile.open(path) as archive:
        found = []
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            found.append((member, file.read()))
        return found


def write(path: Path, content: Members) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for member, data in content:
            if member.type == tarfile.REGTYPE:
                member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def rewrite(source: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = members(source)
    index = json.loads(content[0][1])
    change(index)
    content[0] = (content[0][0], json.dumps(index).encode())
    write(target, content)


def _renamed(content: Members, name: str) -> Members:
    content[2][0].name = name
    return content


def _typed(content: Members, kind: bytes) -> Members:
    member = tarfile.TarInfo("blobs/" + "0" * 64)
    member.type, member.linkname = kind, "/etc/passwd"
    return [*content[:2], (member, b""), *content[2:]]


def _changed(content: Members) -> Members:
    member, data = content[-1]
    return [*content[:-1], (member, bytes([data[0] ^ 1]) + data[1:])]


HOSTILE: dict[str, Callable[[Members], Members]] = {
    "another order": lambda content: [content[1], content[0], *content[2:]],
    "a file missing": lambda content: content[:-1],
    "a file more": lambda content: [*content, (tarfile.TarInfo("blobs/" + "f" * 64), b"x")],
    "two of one": lambda content: [*content, content[-1]],
    "a path that leads out": lambda content: _renamed(content, "../../etc/cron.d/x"),
    "an absolute path": lambda content: _renamed(content, "/etc/cron.d/x"),
    "a symbolic link": lambda content: _typed(content, tarfile.SYMTYPE),
    "a hard link": lambda content: _typed(content, tarfile.LNKTYPE),
    "a device": lambda content: _typed(content, tarfile.CHRTYPE),
    "a folder": lambda content: _typed(content, tarfile.DIRTYPE),
    "a lock that is not the one": lambda content: [content[0], (content[1][0], b"x = 1\n"), *content[2:]],
    "an index that is no JSON": lambda content: [(content[0][0], b"[" * 100_000), *content[1:]],
    "nothing": lambda content: [],
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_bundles(first: Place, tmp_path: Path, name: str) -> None:
    write(tmp_path / "bad", HOSTILE[name](members(first.root / "one.bundle")))
    with pytest.raises(BundleRefused, match="is not a bundle"):
        Bundle(tmp_path / "bad")


@pytest.mark.parametrize("change", ["cut off", "appended", "garbage", "absent"])
def test_damaged_bundles(first: Place, tmp_path: Path, change: str) -> None:
    data = (first.root / "one.bundle").read_bytes()
    path = tmp_path / "bad"
    if change != "absent":
        path.write_bytes(
            {"cut off": data[:-20_000], "appended": data + b"x", "garbage": b"\xff" * 4096}[change]
        )
    with pytest.raises(InputError):
        Bundle(path)


def test_a_changed_file_in_a_bundle_is_refused_when_it_is_taken(first: Place, tmp_path: Path) -> None:
    write(tmp_path / "bad.bundle", _changed(members(first.root / "one.bundle")))
    place = Place(tmp_path)
    done = place.run("bundle", "install", "--yes", "bad.bundle", code=1)
    assert "expected sha256" in done.stderr
    assert place.installed() == {}


# ---- the file itself ----

EXAMPLE = Lock(
    registry="http://registry.example",
    models=(
        LockedModel("model", "org/name", "1.0.0", "a" * 40, "org", (ModelFile("config.json", 2, "b" * 64),)),
    ),
)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("format = 1", "format = 2", "has the format 2"),
        ("tool.llmasos", "tool.other", r"no table \[tool.llmasos\]"),
        ('lock-version = "1.0"', 'lock-version = "9.0"', "not supported"),
        ('id = "org/name"', 'id = "../name"', "not the name of a repository"),
        ('id = "org/name"', 'id = "org/../x"', "not the name of a repository"),
        ('kind = "model"', 'kind = "space"', "`kind` is 'space'"),
        ('path = "config.json"', 'path = "../config.json"', "a file is called"),
        ('path = "config.json"', 'path = "/etc/passwd"', "a file is called"),
        ("size = 2", "size = -2", "has the size"),
        ("b" * 64, "short", "has the sha256"),
        ("a" * 40, "main", "not a commit"),
        ("http://registry.example", "file:///etc", "not the address of a registry"),
        ('lock-version = "1.0"', "lock-version = [", "not a lock"),
    ],
)
def test_locks_that_are_refused(old: str, new: str, message: str) -> None:
    text = lock_bytes(EXAMPLE).decode()
    assert old in text
    with pytest.raises(InputError, match=message) as caught:
        parse_lock(text.replace(old, new).encode(), "pylock.toml")
    assert "pylock.toml" in caught.value.message


@pytest.mark.parametrize(
    "source",
    [
        'sdist = { url = "https://x.example/a-1.0.tar.gz", hashes = { sha256 = "0" } }',
        'vcs = { type = "git", url = "https://x.example/a", commit-id = "0" }',
        'directory = { path = "." }',
        'wheels = [{ path = "a-1.0-py3-none-any.whl", hashes = { sha256 = "0" } }]',
        'wheels = [{ url = "https://x.example/a-1.0-py3-none-any.whl", hashes = { md5 = "0" } }]',
    ],
)
def test_a_lock_leads_to_wheels_with_digests_and_nowhere_else(source: str) -> None:
    text = lock_bytes(EXAMPLE).decode().replace("packages = []\n", "")
    text = text.replace(
        "[tool.llmasos]", f'[[packages]]\nname = "a"\nversion = "1.0"\n{source}\n\n[tool.llmasos]'
    )
    with pytest.raises(InputError, match=r"a has no wheel|not a lock"):
        parse_lock(text.encode(), "pylock.toml")


def test_the_token_does_not_follow_a_lock_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMASOS_TOKEN", "llma_secret")
    config = load_config({"registry": "http://mine.example", "config_dir": tmp_path, "offline": False})
    with connect_to(config, "http://mine.example/") as connection:
        assert connection.token == "llma_secret"
    with connect_to(config, "http://theirs.example") as connection:
        assert connection.token is None


def test_the_lock_on_the_page_is_one() -> None:
    import re

    page = Path(__file__).parents[3] / "docs" / "reference" / "lock.md"
    (example,) = re.findall(r"```toml\n(lock-version.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lock = parse_lock(example.encode(), "the page")
    assert lock.plugins[0].keyid == lock.models[0].keyid
    assert parse_lock(lock_bytes(lock), "again") == lock
