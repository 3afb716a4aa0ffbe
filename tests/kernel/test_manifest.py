"""The manifest: what is accepted, and what the one line says when it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmasos.errors import ManifestError
from llmasos.hooks.specs import HOOKS
from llmasos.kernel import index
from llmasos.kernel.manifest import (
    KINDS,
    MANIFEST_VERSION,
    MAX_BYTES,
    VERBS,
    Manifest,
    json_schema,
    parse_manifest,
    read_manifest,
)
from llmasos.testing.tmp import manifest, toml_text

PROVIDES = {"kind": "metric", "name": "wer", "summary": "Word error rate"}


def parse(**changes: Any) -> Manifest:
    return parse_manifest(toml_text(manifest("acme", **changes)).encode(), source="x/llmasos.toml")


def test_a_full_manifest_is_accepted() -> None:
    found = parse(
        hooks=["eval_finished", "run_evaluation"],
        requires={
            "python": ">=3.11",
            "torch": ">=2.6",
            "packages": ["a>=1"],
            "devices": ["cuda>=8.0", "cpu"],
            "extras_hint": "x",
        },
        permissions={
            "network": ["example.org"],
            "filesystem": "user",
            "subprocess": True,
            "runs_remote_code": False,
        },
        provides=[
            {
                **PROVIDES,
                "capabilities": {"a": [1]},
                "aliases_for": ["WER"],
                "matches": {"files": ["*.x"]},
                "probe": "acme.here:lines",
            }
        ],
        settings={"cache_mb": {"type": "int", "default": 5, "help": "Memory"}},
    )
    assert found.provides[0].matches == {"files": ["*.x"]}
    assert found.settings["cache_mb"].default == 5
    assert found.requires.devices == ["cuda>=8.0", "cpu"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sumary": "x"}, "unknown key `sumary` in the top level, did you mean `summary`?"),
        ({"requires": {"pyton": ">=3"}}, "unknown key `pyton` in [requires], did you mean `python`?"),
        ({"permissions": {"netwrk": []}}, "unknown key `netwrk` in [permissions], did you mean `network`?"),
        (
            {"provides": [{**PROVIDES, "sumary": "x"}]},
            "unknown key `sumary` in [provides.1], did you mean `summary`?",
        ),
        (
            {"settings": {"a": {"type": "int", "default": 1, "help": "h", "hlp": "x"}}},
            "unknown key `hlp` in [settings.a]",
        ),
        ({"provides": [{"kind": "metric", "name": "wer"}]}, "key `summary` is missing in [provides.1]"),
        ({"provides": [{**PROVIDES, "kind": "metrc"}]}, "unknown kind `metrc`, did you mean `metric`?"),
        ({"provides": [PROVIDES, PROVIDES]}, "metric `wer` is provided twice"),
        ({"provides": [{**PROVIDES, "name": "a/b"}]}, "`provides.1.name`"),
        ({"provides": [{**PROVIDES, "probe": "acme.here"}]}, "'acme.here' does not name a function"),
        ({"provides": [{**PROVIDES, "probe": "acme here:lines"}]}, "`provides.1.probe`"),
        ({"hooks": ["eval_finnished"]}, "unknown hook `eval_finnished`, did you mean `eval_finished`?"),
        ({"hooks": ["llmasos_eval_finished"]}, "write `eval_finished` without the prefix"),
        ({"hooks": ["metrics"]}, '`metrics` is implied by [[provides]] kind = "metric"'),
        ({"hooks": ["eval_failed", "eval_failed"]}, "listed twice"),
        ({"api": "one"}, "'one' is not a version range"),
        ({"requires": {"torch": "2"}}, "'2' is not a version range"),
        ({"requires": {"packages": [">=1"]}}, "'>=1' is not a requirement"),
        ({"requires": {"devices": ["CUDA 8"]}}, "'CUDA 8' is not a device"),
        ({"module": "acme..plugin"}, "'acme..plugin' is not a dotted module name"),
        ({"module": "acme.class"}, "'acme.class' is not a dotted module name"),
        ({"id": "Acme"}, "`id`"),
        ({"summary": "two\nlines"}, "`summary`"),
        ({"summary": ""}, "`summary`"),
        ({"summary": "\x1b[2Jgone"}, "`summary`"),
        ({"permissions": {"network": ["\x9b2J"]}}, "`permissions.network.1`"),
        ({"stability": "beta"}, "`stability`"),
        ({"hooks": "eval_failed"}, "`hooks`"),
        ({"settings": {"a": {"type": "int", "default": "1", "help": "h"}}}, "default '1' is not of type int"),
        (
            {"settings": {"a": {"type": "int", "default": True, "help": "h"}}},
            "default True is not of type int",
        ),
        ({"manifest": 0}, "`manifest`"),
    ],
)
def test_what_is_wrong_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse(**changes)
    assert message in caught.value.message
    assert caught.value.message.startswith("x/llmasos.toml: ")
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 3


def test_further_problems_are_counted() -> None:
    with pytest.raises(ManifestError, match=r"\(and 1 more\)"):
        parse(sumary="x", licence="y")


def test_a_newer_schema_says_what_to_upgrade() -> None:
    with pytest.raises(ManifestError, match="version 2 is newer") as caught:
        parse(manifest=2, anything="else")
    assert caught.value.hint is not None
    assert "upgrade llmasos" in caught.value.hint


@pytest.mark.parametrize("data", [b"\xff\xfe", b"id = ", b"a = 1\na = 2", b"[" * 5000, b"x = " + b"[" * 5000])
def test_bytes_that_are_not_toml(data: bytes) -> None:
    with pytest.raises(ManifestError, match="not valid TOML"):
        parse_manifest(data, source="x")


def test_a_huge_file_is_refused_without_being_parsed(tmp_path: Path) -> None:
    path = tmp_path / "llmasos.toml"
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ManifestError, match="too many"):
        read_manifest(path)


def test_id_must_be_the_entry_points_name() -> None:
    data = toml_text(manifest("acme")).encode()
    assert parse_manifest(data, source="x", plugin_id="acme").id == "acme"
    with pytest.raises(ManifestError, match="id is `acme` but the entry point is named `other`"):
        parse_manifest(data, source="x", plugin_id="other")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot read"):
        read_manifest(tmp_path / "llmasos.toml")


def test_kinds_and_verbs_are_the_hooks() -> None:
    assert set(VERBS) | {name for name, info in HOOKS.items() if info.kind} == set(HOOKS)
    assert len(KINDS) == len(set(KINDS)) == len(HOOKS) - len(VERBS)


def test_the_schema_for_editors_knows_kinds_and_hooks() -> None:
    schema = json_schema()
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Provides"]["properties"]["kind"]["enum"] == sorted(KINDS)
    assert schema["properties"]["hooks"]["items"]["enum"] == sorted(VERBS)
    assert set(schema["required"]) == {"manifest", "id", "summary", "module", "api", "license"}


def test_the_index_knows_the_schema_version() -> None:
    assert index.MANIFEST_SCHEMA == MANIFEST_VERSION
