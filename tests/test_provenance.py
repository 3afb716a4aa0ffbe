"""Digests of weight files and plugin code, and what is said of the machine."""

from __future__ import annotations

import hashlib
import json
import os

import pytest

from llmasos.contracts.hub import PluginInfo
from llmasos.errors import WeightsError
from llmasos.provenance import environment, file_digests, plugin_lock, tree_digest


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_names_are_relative_to_the_shared_folder(tmp_path):
    (tmp_path / "model" / "sub").mkdir(parents=True)
    (tmp_path / "model" / "a.bin").write_bytes(b"a")
    (tmp_path / "model" / "sub" / "b.bin").write_bytes(b"b")
    files = [tmp_path / "model" / "sub" / "b.bin", tmp_path / "model" / "a.bin"]
    assert file_digests(files, cache_dir=tmp_path / "cache") == {"a.bin": sha(b"a"), "sub/b.bin": sha(b"b")}
    assert file_digests([], cache_dir=tmp_path / "cache") == {}


def test_a_digest_is_remembered_until_the_file_changes(tmp_path):
    weights = tmp_path / "w.bin"
    weights.write_bytes(b"one")
    os.utime(weights, ns=(1, 1))
    cache = tmp_path / "cache"
    assert file_digests([weights], cache_dir=cache) == {"w.bin": sha(b"one")}

    (entry,) = (cache / "digests").iterdir()
    stored = json.loads(entry.read_text())
    entry.write_text(json.dumps(stored | {"sha256": "remembered"}))
    assert file_digests([weights], cache_dir=cache) == {"w.bin": "remembered"}

    weights.write_bytes(b"two")  # same size, new modification time
    assert file_digests([weights], cache_dir=cache) == {"w.bin": sha(b"two")}


@pytest.mark.parametrize("text", ["", "[]", "not json", '{"path": 1}'])
def test_a_damaged_cache_entry_is_computed_again(tmp_path, text):
    weights = tmp_path / "w.bin"
    weights.write_bytes(b"one")
    file_digests([weights], cache_dir=tmp_path / "cache")
    (entry,) = (tmp_path / "cache" / "digests").iterdir()
    entry.write_text(text)
    assert file_digests([weights], cache_dir=tmp_path / "cache") == {"w.bin": sha(b"one")}


def test_a_file_that_is_not_what_its_source_says_is_refused(tmp_path):
    weights = tmp_path / "w.bin"
    weights.write_bytes(b"one")
    assert file_digests([weights], cache_dir=tmp_path, known={weights: sha(b"one").upper()})
    with pytest.raises(WeightsError, match="vouches for") as caught:
        file_digests([weights], cache_dir=tmp_path, known={weights: sha(b"other")})
    assert caught.value.hint


def test_a_missing_file_is_an_error_of_ours(tmp_path):
    with pytest.raises(WeightsError, match="cannot read"):
        file_digests([tmp_path / "none.bin"], cache_dir=tmp_path)


def test_a_plugin_is_locked_by_its_code(tmp_path):
    package = tmp_path / "acme"
    (package / "__pycache__").mkdir(parents=True)
    (package / "plugin.py").write_text("x = 1\n")
    (package / "__pycache__" / "plugin.pyc").write_bytes(b"1")
    before = tree_digest(package)
    (package / "__pycache__" / "plugin.pyc").write_bytes(b"2")
    assert tree_digest(package) == before

    info = PluginInfo("acme", "1.0", "acme-dist", package)
    assert plugin_lock([info]) == [
        {"id": "acme", "version": "1.0", "distribution": "acme-dist", "digest": before}
    ]
    (package / "plugin.py").write_text("x = 2\n")
    assert plugin_lock([info])[0]["digest"] != before


def test_environment_names_machine_and_libraries():
    facts = environment()
    assert facts["cores"] >= 1
    assert facts["libraries"]["llmasos"]
    json.dumps(facts)
