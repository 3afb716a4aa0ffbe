"""What is known of one plugin without importing it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: States a plugin can be in, in the order ``plugin list`` explains them.
STATES = ("enabled", "disabled", "incompatible", "quarantined", "invalid")


class PluginRecord:
    """A plugin found in the environment, or what is left of one that could not be understood.

    A plain class, because this is on the path of ``llmasos --help``. ``manifest`` is the validated manifest as JSON
    types, empty when ``error`` is set. ``rejected`` is the reason the plugin does not fit this environment, ``trace`` every
    requirement that was looked at. ``package`` is the folder of the manifest.
    """

    __slots__ = (
        "distribution",
        "error",
        "id",
        "local",
        "manifest",
        "manifest_path",
        "missing",
        "package",
        "rejected",
        "stamps",
        "state",
        "trace",
        "version",
        "why",
    )

    def __init__(
        self,
        *,
        plugin_id: str,
        version: str = "",
        distribution: str = "",
        package: str = "",
        manifest_path: str = "",
        manifest: dict[str, Any] | None = None,
        error: str | None = None,
        rejected: str | None = None,
        trace: list[str] | None = None,
        local: bool = False,
    ) -> None:
        self.id = plugin_id
        self.version = version
        self.distribution = distribution
        self.package = package
        self.manifest_path = manifest_path
        self.manifest: dict[str, Any] = manifest or {}
        self.error = error
        self.rejected = rejected
        self.trace = trace or []
        self.local = local
        #: One of STATES and the one-line reason; the inventory fills them in.
        self.state = "invalid" if error else "enabled"
        self.why = error or ""
        #: Change times of files that the index depends on: path -> [nanoseconds, bytes], or None for a missing file.
        self.stamps: dict[str, list[int] | None] = {}
        #: Top-level package that could not be found: the index holds only as long as it still cannot.
        self.missing = ""

    def to_json(self) -> dict[str, Any]:
        """The part that the index stores."""
        return {
            "plugin_id": self.id,
            "version": self.version,
            "distribution": self.distribution,
            "package": self.package,
            "manifest_path": self.manifest_path,
            "manifest": self.manifest,
            "error": self.error,
            "rejected": self.rejected,
            "trace": self.trace,
        }

    @property
    def path(self) -> Path:
        """Folder of the manifest."""
        return Path(self.package)

    @property
    def title(self) -> str:
        """``id version``, as errors name the plugin."""
        return f"{self.id} {self.version}".strip()

    @property
    def summary(self) -> str:
        """The manifest's summary, or what is wrong with it."""
        return str(self.manifest.get("summary", "")) or (self.error or "")

    def provides(self) -> list[dict[str, Any]]:
        """The ``[[provides]]`` tables."""
        items = self.manifest.get("provides", [])
        return items if isinstance(items, list) else []

    def hooks(self) -> list[str]:
        """The verbs it implements."""
        items = self.manifest.get("hooks", [])
        return items if isinstance(items, list) else []
