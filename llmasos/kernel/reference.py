"""Writes docs/reference/manifest.md from the schema: ``python -m llmasos.kernel.reference > docs/reference/manifest.md``."""

from __future__ import annotations

import sys
from typing import Any

from llmasos.kernel.manifest import KINDS, MANIFEST_VERSION, VERBS, json_schema

HEADER = """\
# The manifest: llmasos.toml

<!-- Written by `python -m llmasos.kernel.reference`; a test compares this page with llmasos/kernel/manifest.py. -->

A data file inside the plugin's top-level package, found through an entry point and read without importing anything:

```toml
# pyproject.toml of the plugin
[project.entry-points."llmasos.plugins"]
acme-llama = "acme_llama:llmasos.toml"
```

The entry point's name is the plugin's id; its value is a *top-level* package and the file name. Everything needed to list,
search, resolve and refuse the plugin is in this file; everything needed to run it is not. Unknown keys are errors.

```toml
manifest = 1
id = "acme-llama"
summary = "Llama-family models"
module = "acme_llama.plugin"
api = ">=1.0,<2"
license = "Apache-2.0"
hooks = ["eval_finished"]

[requires]
python = ">=3.11"
torch = ">=2.6"
packages = ["sentencepiece>=0.2"]
devices = ["cuda>=8.0", "cpu"]
extras_hint = "pip install 'acme-llama[gpu]'"

[permissions]
network = ["models.acme.example"]
filesystem = "cache"

[[provides]]
kind = "model_architecture"
name = "llama"
summary = "Decoder-only Llama 2 and 3"
matches = { model_type = ["llama"], architectures = ["LlamaForCausalLM"] }
capabilities = { kv_cache = true }

[settings.cache_mb]
type = "int"
default = 512
help = "Memory for cached keys and values, in MiB"
```

What is promised must be delivered, both ways: each `[[provides]]` by the collect hook of its kind, each name in `hooks` by a
function `llmasos_<name>` in `module`. The check runs when the plugin is first used and in `llmasos plugin check`.

A setting is read from the environment (`LLMASOS_ACME_LLAMA_CACHE_MB`), then from `[plugins.acme-llama]` in `config.toml`, then
from its default; `hub.plugin_settings("acme-llama")` has the values.

A `probe` is for things that are not the same on every machine, such as a back end: `llmasos doctor` calls it, in a process of
its own and for at most ten seconds, and shows each line it returns.

`[permissions]` is a declaration that is shown before installing. It is not a sandbox: plugins run with the user's rights.
"""

TABLES = (
    ("Top level", None),
    ("[requires]", "Requires"),
    ("[permissions]", "Permissions"),
    ("[[provides]]", "Provides"),
    ("[settings.NAME]", "SettingDef"),
)


def manifest_page() -> str:
    """The whole page."""
    schema = json_schema()
    parts = [HEADER]
    for title, name in TABLES:
        table = schema if name is None else schema["$defs"][name]
        parts.append(f"## {title}\n\n{_table(table)}\n")
    kinds = ", ".join(f"`{kind}`" for kind in sorted(KINDS))
    verbs = ", ".join(f"`{verb}`" for verb in sorted(VERBS))
    parts.append(
        f"## Words\n\nSchema version: {MANIFEST_VERSION}. Kinds: {kinds}. Hooks: {verbs}. [All hooks](hooks.md).\n"
    )
    return "\n".join(parts)


def _table(schema: dict[str, Any]) -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    required = set(schema.get("required", []))
    for key, field in schema["properties"].items():
        default = "required" if key in required else f"`{_default(field)}`"
        rows.append(f"| `{key}` | {_type(field)} | {default} | {field.get('description', '')} |")
    return "\n".join(rows)


def _default(field: dict[str, Any]) -> str:
    value = field.get("default")
    if value is None:
        return "none"
    if isinstance(value, dict):
        return "the defaults below" if value else "{}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return "table"
    if "anyOf" in field:
        return " or ".join(_type(part) for part in field["anyOf"] if part.get("type") != "null")
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field and field.get("title") != "Kind":
        return " or ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        return "list of tables" if "$ref" in field["items"] else "list of strings"
    return {
        "object": "table",
        "string": "string",
        "integer": "integer",
        "boolean": "boolean",
        "number": "number",
    }.get(str(field.get("type")), "any")


if __name__ == "__main__":
    sys.stdout.write(manifest_page())
