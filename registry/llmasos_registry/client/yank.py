"""Taking a published version back, and offering it again."""

from __future__ import annotations

from llmasos_registry.client.connection import Connection, path_segment
from llmasos_registry.client.publish_model import address


def yank_plugin(connection: Connection, name: str, version: str, reason: str | None) -> None:
    """Yank a version of a plugin; ``reason`` None offers it again. Raises RegistryNotFound, RegistryError."""
    _yank(connection, f"/v1/plugins/{path_segment(name)}/versions/{path_segment(version)}/yank", reason)


def yank_model(connection: Connection, repo_id: str, kind: str, version: str, reason: str | None) -> None:
    """Yank a release of a model or data set; ``reason`` None offers it again. Raises as ``yank_plugin``, UsageError."""
    _yank(connection, f"{address(repo_id, kind)}/releases/{path_segment(version)}/yank", reason)


def _yank(connection: Connection, path: str, reason: str | None) -> None:
    if reason is None:
        connection.delete(path)
    else:
        connection.post(path, {"reason": reason})
