"""What the tests of the store need: commits through the Hub API, and everything that can be read from a registry."""

from __future__ import annotations

import base64
import json
from typing import Any


def make_repo(app: Any, token: str, name: str, kind: str = "model") -> None:
    answer = app.post("/api/repos/create", token, json={"name": name, "type": kind})
    assert answer.status_code == 200, answer.text


def commit(app: Any, token: str, repo: str, files: dict[str, bytes | None], branch: str = "main") -> str:
    """Put files (None: delete) into a model repository; the commit's id."""
    lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": "change", "description": ""}}]
    for path, content in files.items():
        if content is None:
            lines.append({"key": "deletedFile", "value": {"path": path}})
        else:
            text = base64.b64encode(content).decode()
            lines.append({"key": "file", "value": {"path": path, "content": text, "encoding": "base64"}})
    answer = app.post(
        f"/api/models/{repo}/commit/{branch}",
        token,
        content="\n".join(json.dumps(line) for line in lines),
        headers={"Content-Type": "application/x-ndjson"},
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["commitOid"])


def read_all(app: Any, token: str, repo: str, revision: str = "main") -> dict[str, bytes]:
    """Every file of a revision."""
    tree = app.get(f"/api/models/{repo}/tree/{revision}?recursive=true", token)
    assert tree.status_code == 200, tree.text
    found = {}
    for entry in tree.json():
        if entry["type"] == "file":
            answer = app.get(f"/{repo}/resolve/{revision}/{entry['path']}", token)
            assert answer.status_code == 200, answer.text
            found[entry["path"]] = answer.content
    return found
