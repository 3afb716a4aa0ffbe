"""Reference pages say what the code says."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import pytest

from llmasos import errors
from llmasos.errors import ExitCode, LlmasosError
from llmasos.hooks import specs
from llmasos.hooks.reference import hooks_page
from llmasos.kernel.manifest import parse_manifest
from llmasos.kernel.reference import manifest_page

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("name", "make", "command"),
    [
        ("hooks.md", hooks_page, "python -m llmasos.hooks.reference"),
        ("manifest.md", manifest_page, "python -m llmasos.kernel.reference"),
    ],
)
def test_generated_pages_are_up_to_date(name: str, make: object, command: str) -> None:
    assert callable(make)
    written = (DOCS / "reference" / name).read_text(encoding="utf-8")
    assert written == make(), f"run `{command} > docs/reference/{name}`"


@pytest.mark.parametrize("name", sorted(specs.HOOKS))
def test_every_hook_is_specified_and_explained(name: str) -> None:
    spec = getattr(specs, f"llmasos_{name}")
    text = inspect.getdoc(spec) or ""
    assert "Since: API" in text
    assert "Implemented by: " in text
    options = spec.llmasos_spec
    policy = specs.HOOKS[name].policy
    assert bool(options["firstresult"]) == (policy in ("first", "wrap"))
    names = list(inspect.signature(spec).parameters)
    (signature,) = re.findall(rf"```python\nllmasos_{name}\((.*?)\) ->", hooks_page())
    assert re.findall(r"(\w+): ", signature) == names


def test_there_is_no_hook_without_a_policy() -> None:
    found = {name.removeprefix("llmasos_") for name in vars(specs) if name.startswith("llmasos_")}
    assert found == set(specs.HOOKS)


def test_the_example_manifest_is_valid() -> None:
    page = (DOCS / "reference" / "manifest.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(manifest = 1\n.*?)```", page, re.DOTALL)
    assert (
        parse_manifest(example.encode(), source="the page", plugin_id="acme-llama")
        .settings["cache_mb"]
        .default
        == 512
    )


def test_every_exit_code_and_error_is_in_the_table() -> None:
    rows = {}
    for line in (DOCS / "reference" / "exit-codes.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[0].isdigit():
            rows[int(cells[0])] = (cells[1].strip("`"), set(re.findall(r"`(\w+)`", cells[3])))
    assert {code: name for code, (name, _) in rows.items()} == {int(code): code.name for code in ExitCode}
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, LlmasosError):
            assert name in rows[int(value.exit_code)][1], name


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = dict(re.findall(r"(\w+) {2,}(\d)", errors.__doc__ or ""))
    for name, code in drawn.items():
        assert int(getattr(errors, name).exit_code) == int(code)
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, LlmasosError):
            assert re.search(rf"\b{name}\b", errors.__doc__ or ""), name


def test_the_kernel_page_links_to_pages_that_exist() -> None:
    page = DOCS / "explanation" / "kernel.md"
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).is_file(), target


def test_the_schema_is_json() -> None:
    from llmasos.kernel.manifest import json_schema

    assert json.loads(json.dumps(json_schema()))["title"] == "llmasos.toml"
