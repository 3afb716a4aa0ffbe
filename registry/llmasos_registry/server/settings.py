"""What an operator may set: ``registry.toml`` in the data folder, then ``LLMASOS_REGISTRY_<NAME>`` variables, then flags."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmasos.errors import ConfigError

#: The operator's file in the data folder.
FILE = "registry.toml"
PREFIX = "LLMASOS_REGISTRY_"
#: Settings that are lists; in a variable their parts stand between commas.
_LISTS = frozenset({"reserved_prefixes", "trusted_proxies"})


class Settings(BaseModel):
    """Settings in force. Sizes are bytes, times are seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Path = Field(description="folder of the database, blobs and temporary files")
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(default=8765, description="port to listen on")
    workers: Annotated[int, Field(ge=1, le=64)] = Field(default=1, description="server processes")
    stop_timeout: int = Field(
        default=20, ge=1, description="how long requests under way may take to end when the server stops"
    )
    public_url: str | None = Field(
        default=None,
        pattern=r"^https?://\S*[^/\s]$",
        description="the address clients use, when a proxy stands in front; no slash at the end",
    )
    database: str | None = Field(
        default=None,
        pattern=r"^postgresql\+psycopg://\S+$",
        description="postgresql+psycopg://user@host/name; without it SQLite in the data folder",
    )
    storage: str | None = Field(
        default=None, description="s3://bucket/prefix; without it files in the data folder"
    )
    storage_options: dict[str, str] = Field(
        default={}, description="options of the object store client: endpoint, region, access keys"
    )
    storage_redirect: bool = Field(
        default=True,
        description="send clients to the object store for files; else the bytes pass through this server",
    )
    require_login: bool = Field(default=False, description="strangers see nothing, not even public projects")
    idle_timeout: int = Field(
        default=60, ge=1, description="how long a client may send nothing in the middle of a request"
    )
    max_wheel: int = Field(default=100 << 20, ge=0, description="largest file of the package index")
    max_blob: int = Field(
        default=500 << 30, ge=0, description="largest file of a model or dataset repository"
    )
    max_inline: int = Field(
        default=10 << 20, ge=0, description="files up to this size come inside the commit, larger ones as LFS"
    )
    multipart_chunk: int = Field(default=64 << 20, ge=1, description="part size of large LFS uploads")
    quota: int = Field(
        default=1 << 40, ge=0, description="bytes an account may keep, unless it has its own number"
    )
    url_lifetime: int = Field(default=6 * 3600, ge=1, description="how long signed upload addresses work")
    gc_grace: int = Field(default=24 * 3600, ge=0, description="blobs younger than this are never swept")
    seal_after: int = Field(
        default=3600,
        ge=0,
        description="a package version takes more files for this long after its first file",
    )
    upstream_index: str | None = Field(
        default=None,
        description="simple index that other names are fetched from, e.g. https://pypi.org/simple/",
    )
    upstream_ttl: int = Field(
        default=600, ge=0, description="how long a page of the upstream is used without asking"
    )
    upstream_max_file: int = Field(default=4 << 30, ge=0, description="largest file taken from the upstream")
    reserved_prefixes: list[str] = Field(
        default=["llmasos-"], description="package names never looked up upstream"
    )
    rate_api: int = Field(
        default=3000, ge=0, description="API requests in five minutes for each caller; 0: no limit"
    )
    rate_files: int = Field(
        default=20000, ge=0, description="file requests in five minutes for each caller; 0: no limit"
    )
    trusted_proxies: list[str] = Field(
        default=[], description="addresses of proxies whose X-Forwarded-For is believed"
    )
    webhook_private: bool = Field(
        default=False, description="let webhooks reach private addresses (a trusted network)"
    )


def load_settings(flags: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from flags (None = not given), environment and file. Raises ConfigError naming the key."""
    variables = os.environ if environ is None else environ
    given = {key: value for key, value in flags.items() if value is not None}
    named: dict[str, Any] = {}
    for name in Settings.model_fields:
        text = variables.get(PREFIX + name.upper())
        if text:
            named[name] = _parts(text) if name in _LISTS else text
            if name == "storage_options":
                named[name] = dict(part.partition("=")[::2] for part in _parts(text))
    data = Path(given.get("data") or named.get("data") or "registry-data")
    table = _file(data / FILE)
    try:
        return Settings.model_validate({**table, **named, **given, "data": data.absolute()})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        hint = f"correct the flag, {PREFIX}{where.upper()} or {data / FILE}"
        said = str(first["msg"])
        if first["type"] == "extra_forbidden":
            said, hint = (
                "there is no such setting",
                f"correct {data / FILE}; settings: {', '.join(Settings.model_fields)}",
            )
        elif first["type"] == "string_pattern_mismatch":
            said = f"{first['input']!r} is not what it takes: {Settings.model_fields[where].description}"
        raise ConfigError(f"registry setting `{where}`: {said}", hint=hint) from error


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def settings_table() -> str:
    """The table of docs/reference/registry-server.md."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "`registry-data`" if field.is_required() else _shown(field.default)
        rows.append(f"| `{name}` | {default} | {field.description} |")
    return "\n".join(rows)


def _shown(value: object) -> str:
    if value is None or value == {}:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if value > 65_535 else str(value)
    return f"`{tomli_w.dumps({'x': value}).partition(' = ')[2].strip()}`"


def _file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}", hint="correct or remove the file") from error
