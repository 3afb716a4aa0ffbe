"""Models by name and version: pulled once, checked, kept by commit, resumed; and used through ``registry://``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from installing import Place, build_wheel, key_for, publish, publish_tiny, requests_so_far

from llmasos.config import load_config
from llmasos.errors import ModelNotFound, RunError, UsageError
from llmasos_registry.client.connection import Connection, RegistryError
from llmasos_registry.client.locked import LockedModel, ModelFile, model_files, release_range
from llmasos_registry.client.model_store import ModelStore
from llmasos_registry.client.pull import ask, fetch, parse_reference, plan_model
from llmasos_registry.client.sources import RegistrySource
from llmasos_registry.client.verify import Verifier, registry_keys


@pytest.fixture(scope="module")
def world(registry: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A registry with a model in three releases, one of them yanked, and a model that requires a plugin."""
    folder = tmp_path_factory.mktemp("content")
    acme = registry.user("acme")
    key = key_for(registry.url, acme, "acme", folder / "acme.pem")
    publish(registry.url, acme, build_wheel(folder, "acme-hello", "1.2.0"), key)
    registry.commits = {}
    for version in ("1.0.0", "1.1.0", "2.0.0"):
        done = publish_tiny(
            registry.url,
            acme,
            folder / "plain",
            "acme/plain",
            version=version,
            key=folder / "acme.pem",
            files={"notes.txt": version.encode()},
        )
        registry.commits[version] = done["commit"]
    with Connection(registry.url, acme) as connection:
        connection.post("/v1/models/acme/plain/releases/2.0.0/yank", {"reason": "wrong weights"})
    publish_tiny(
        registry.url,
        acme,
        folder / "needy",
        "acme/needy",
        requires=["acme-hello>=1,<2"],
        key=folder / "acme.pem",
    )
    registry.acme_token = acme
    return registry


class Desk:
    """A user's store and trust, in this process."""

    def __init__(self, world: Any, root: Path) -> None:
        self.connection = Connection(world.url)
        self.source = RegistrySource(self.connection)
        self.store = ModelStore(root / "cache", world.url)
        self.verifier = Verifier(world.url, root / "config", registry_keys(self.connection))

    def pull(self, text: str) -> tuple[LockedModel, Path]:
        model, _ = ask(self.connection, parse_reference(text), self.verifier)
        step = plan_model(model, self.store, self.source, self.verifier)
        if step is not None:
            fetch([step], self.store, self.source, self.verifier)
        self.store.remember(model, parse_reference(text).asked)
        return model, self.store.folder(model.kind, model.id, model.commit)


@pytest.fixture
def desk(world: Any, tmp_path: Path) -> Desk:
    return Desk(world, tmp_path)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("acme/plain", "1.1.0"),  # 2.0.0 was yanked
        ("registry://acme/plain@1.0", "1.0.0"),
        ("acme/plain@1", "1.1.0"),
        ("acme/plain@1.0.0", "1.0.0"),
        ("acme/plain@>=1,<1.1", "1.0.0"),
        ("acme/plain@2.0.0", "2.0.0"),  # by its whole name a yanked one is still there
    ],
)
def test_what_a_reference_stands_for(world: Any, desk: Desk, text: str, version: str) -> None:
    model, warnings = ask(desk.connection, parse_reference(text), desk.verifier)
    assert (model.version, model.commit) == (version, world.commits[version])
    assert [text for text in warnings if "yanked: wrong weights" in text] == (
        [] if version < "2" else warnings
    )


def test_a_branch_and_a_commit(world: Any, desk: Desk) -> None:
    head, _ = ask(desk.connection, parse_reference("acme/plain@main"), desk.verifier)
    # The head is sealed as a release, and the registry says which.
    assert (head.version, head.commit) == ("2.0.0", world.commits["2.0.0"])
    commit = world.commits["1.0.0"]
    assert ask(desk.connection, parse_reference(f"acme/plain@{commit}"), desk.verifier)[0].commit == commit


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("acme/absent", ModelNotFound),
        ("acme/plain@9", ModelNotFound),
        ("acme/plain@nowhere", ModelNotFound),
        ("plain", UsageError),
        ("../plain", UsageError),
        ("acme/plain/../../x", UsageError),
        ("acme/plain@", UsageError),
    ],
)
def test_references_that_lead_nowhere(desk: Desk, text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        ask(desk.connection, parse_reference(text), desk.verifier)


@pytest.mark.parametrize(
    ("asked", "inside", "outside"),
    [
        ("1.2", ["1.2.0", "1.2.9"], ["1.3.0", "1.20.0"]),
        ("1", ["1.0.0", "1.9.0"], ["2.0.0"]),
        ("1.2.0", ["1.2.0"], ["1.2.1"]),
        (">=1.2,<2", ["1.2.0", "1.9.0"], ["2.0.0"]),
        ("1.2.0-rc.1", ["1.2.0rc1"], ["1.2.0"]),
    ],
)
def test_ranges(asked: str, inside: list[str], outside: list[str]) -> None:
    wanted = release_range(asked)
    assert wanted is not None
    assert [wanted.contains(one, prereleases=True) for one in inside] == [True] * len(inside)
    assert [wanted.contains(one, prereleases=True) for one in outside] == [False] * len(outside)


@pytest.mark.parametrize("asked", ["main", "refs/pr/1", "a" * 40, "1" * 40, ">=x", ""])
def test_what_is_no_range(asked: str) -> None:
    assert release_range(asked) is None


def test_the_second_pull_makes_one_request(world: Any, desk: Desk) -> None:
    model, folder = desk.pull("acme/plain@1.0")
    assert (folder / "notes.txt").read_text() == "1.0.0"
    assert (folder / "model.safetensors").stat().st_size == 50_672
    seen = len(requests_so_far(world))
    assert desk.pull("acme/plain@1.0") == (model, folder)
    assert [line.split("?")[0] for line in requests_so_far(world)[seen:]] == [
        "GET /v1/models/acme/plain/resolve 200"
    ]


def test_an_interrupted_file_goes_on_where_it_stopped(world: Any, desk: Desk, tmp_path: Path) -> None:
    model, _ = ask(desk.connection, parse_reference("acme/plain@1.0"), desk.verifier)
    (weights,) = [file for file in model.files if file.path == "model.safetensors"]
    with desk.source.model_file(model, weights.path, weights.sha256) as (_, pieces):
        data = b"".join(pieces)
    partial = desk.store.folder("model", "a/b", "c").parents[3] / "partial" / weights.sha256
    partial.parent.mkdir(parents=True)
    partial.write_bytes(data[:30_000])
    sent: list[int] = []
    step = plan_model(model, desk.store, desk.source, desk.verifier)
    assert step is not None
    fetch([step], desk.store, desk.source, desk.verifier, sent.append)
    assert sum(sent) == sum(file.size for file in model.files) - 30_000
    folder = desk.store.folder(model.kind, model.id, model.commit)
    assert (folder / "model.safetensors").read_bytes() == data
    assert not list(partial.parent.iterdir())


@pytest.mark.parametrize("damage", ["changed", "longer"])
def test_a_wrong_partial_file_is_not_believed(world: Any, desk: Desk, damage: str) -> None:
    model, _ = ask(desk.connection, parse_reference("acme/plain@1.0"), desk.verifier)
    (weights,) = [file for file in model.files if file.path == "model.safetensors"]
    partial = desk.store.folder("model", "a/b", "c").parents[3] / "partial" / weights.sha256
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x" * (1000 if damage == "changed" else weights.size + 1))
    if damage == "changed":
        with pytest.raises(RunError, match=f"model.safetensors: expected sha256 {weights.sha256}"):
            desk.pull("acme/plain@1.0")
        assert not desk.store.folder(model.kind, model.id, model.commit).exists()
    desk.pull("acme/plain@1.0")  # what was wrong is gone, so this fetches it from the start


def test_a_tampered_file_is_refused_and_nothing_appears(world: Any, desk: Desk) -> None:
    model, _ = ask(desk.connection, parse_reference("acme/plain@1.1"), desk.verifier)
    (notes,) = [file for file in model.files if file.path == "notes.txt"]
    blobs = [path for path in world.data.rglob(f"*{notes.sha256[4:]}*") if path.is_file()]
    assert len(blobs) == 1
    blobs[0].chmod(0o644)
    blobs[0].write_bytes(b"9.9.9")
    try:
        with pytest.raises(RunError) as caught:
            desk.pull("acme/plain@1.1")
    finally:
        blobs[0].write_bytes(b"1.1.0")
    assert notes.sha256 in caught.value.message
    folder = desk.store.folder(model.kind, model.id, model.commit)
    assert not folder.exists()
    assert [path for path in folder.parent.iterdir() if path.suffix != ".json"] == []
    desk.pull("acme/plain@1.1")


class Altered:
    """The registry, with one key of its answer changed."""

    url = "http://registry.example"

    def __init__(self, answer: dict[str, Any], **change: Any) -> None:
        self._answer = {**answer, **change}

    def get(self, path: str, params: Any = None) -> Any:
        return self._answer


@pytest.mark.parametrize(
    ("asked", "change", "message"),
    [
        ("1.0", {"version": "2.0.0"}, "asked for was 1.0"),
        ("1.0", {"version": None}, "nonsense"),
        ("a" * 40, {}, "asked for was " + "a" * 40),
        ("1.0", {"id": "acme/other"}, "it is about the model 'acme/other'"),
        ("1.0", {"kind": "dataset"}, "it is about the dataset"),
        ("1.0", {"commit": "../../x"}, "not a commit"),
        ("1.0", {"files": [{"path": "../x", "size": 1, "sha256": "0" * 64}]}, "a file is called"),
        ("1.0", {"files": None}, "nonsense"),
    ],
)
def test_a_registry_that_answers_something_else_is_refused(
    desk: Desk, asked: str, change: dict[str, Any], message: str
) -> None:
    answer = desk.connection.get("/v1/models/acme/plain/resolve", {"version": "1.0.0"})
    with pytest.raises(RegistryError, match=message):
        ask(Altered(answer, **change), parse_reference(f"acme/plain@{asked}"), desk.verifier)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "rows",
    [
        [{"path": "a", "size": 1, "sha256": "0" * 64}, {"path": "a", "size": 1, "sha256": "0" * 64}],
        [{"path": "a", "size": 1, "sha256": "0" * 64}, {"path": "a/b", "size": 1, "sha256": "0" * 64}],
        [{"path": "a\\b", "size": 1, "sha256": "0" * 64}],
        [{"path": "a\x1b[2J", "size": 1, "sha256": "0" * 64}],
        [{"path": "a", "size": True, "sha256": "0" * 64}],
        [{"path": "x" * 2000, "size": 1, "sha256": "0" * 64}],
    ],
)
def test_lists_of_files_that_make_no_sense(rows: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=r"called|twice|lies below|has the size"):
        model_files(rows)


def test_code_is_never_fetched(tmp_path: Path, desk: Desk) -> None:
    from dataclasses import replace

    model, _ = ask(desk.connection, parse_reference("acme/plain@1.0"), desk.verifier)
    code = ModelFile("modeling_plain.py", 10, "0" * 64)
    changed = replace(model, files=(*model.files, code))
    folder = desk.store.put(changed, desk.source, desk.verifier)
    assert not (folder / "modeling_plain.py").exists()


def test_offline_the_newest_that_fits_is_taken_from_here(world: Any, tmp_path: Path) -> None:
    from llmasos.hub import Hub

    desk = Desk(world, tmp_path)
    desk.pull("acme/plain@1.0.0")
    desk.pull("acme/plain@1.1.0")
    settings = {"cache_dir": tmp_path / "cache", "config_dir": tmp_path / "config", "registry": world.url}
    seen = len(requests_so_far(world))
    with Hub(offline=True, **settings) as hub:
        for asked, version in (("@1", "1.1.0"), ("@<1.1", "1.0.0"), (f"@{world.commits['1.0.0']}", "1.0.0")):
            found = hub.resolve_model(f"registry://acme/plain{asked}")
            assert found.provenance["version"] == version
            assert found.revision == world.commits[version]
        with pytest.raises(ModelNotFound, match="offline") as caught:
            hub.resolve_model("registry://acme/plain@2")
        assert "llmasos model pull acme/plain@2" in str(caught.value.hint)
    assert len(requests_so_far(world)) == seen
    assert load_config({**settings}).registry == world.url


def test_a_model_that_requires_a_plugin_brings_it_with_consent(world: Any, tmp_path: Path) -> None:
    place = Place(tmp_path)
    named = place.run("model", "pull", "acme/needy", "--registry", world.url, code=3)
    assert f"hint: llmasos install 'acme-hello<2,>=1' --registry {world.url}" in named.stderr
    one = place.run("model", "pull", "acme/needy/config.json", "--registry", world.url, code=2)
    assert "the whole model is taken here" in one.stderr
    unasked = place.run("install", "acme-hello", "--allow-unsigned", "--registry", world.url, code=2)
    said = f"run: llmasos install acme-hello --allow-unsigned --registry {world.url} --yes"
    assert said in " ".join(unasked.stderr.split())
    place.run("model", "pull", "acme/needy", "--registry", world.url, "--yes")
    assert place.installed() == {"acme-hello": "1.2.0"}
    place.run("plugin", "uninstall", "acme-hello", "--yes")
    place.environ["LLMASOS_REGISTRY"] = world.url
    done = place.run("generate", "registry://acme/needy", "Once", "--max-new-tokens", "2", code=3)
    assert "hint: llmasos install 'acme-hello<2,>=1'" in done.stderr
    assert place.installed() == {}
    place.run("generate", "--yes", "registry://acme/needy", "Once", "--max-new-tokens", "2")
    assert place.installed() == {"acme-hello": "1.2.0"}
    pulled = json.loads(place.run("model", "pull", "acme/needy", "--json").stdout)
    assert (pulled["fetched"], pulled["version"]) == (False, "1.0.0")
    assert pulled["keyid"].startswith("sha256:")


def test_no_answer_to_the_offer_of_a_plugin_is_nobodys_fault(world: Any, tmp_path: Path) -> None:
    """The end of the input, as Ctrl-C, ends click's question with an exception; the hook that runs then must not be blamed."""
    import os
    import pty
    import subprocess

    place = Place(tmp_path, world.url)
    ours, theirs = pty.openpty()
    os.write(ours, b"\x04")
    done = subprocess.run(
        [str(place.python), "-m", "llmasos", "eval", "registry://acme/needy", "quickstart_prose"],
        env={**place.environ, "TERM": "dumb"},
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        timeout=120,
    )
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    os.close(theirs)
    assert "Install it? [y/N]" in shown
    assert "error: interrupted" in shown
    assert "hook" not in shown
    assert done.returncode == 130
