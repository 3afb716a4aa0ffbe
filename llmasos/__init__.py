"""LLMasOS: an operating system for open language models.

``llmasos.Hub`` is the one object that the command line, tests and Python users hold. Importing this package is cheap:
neither torch nor pydantic nor any plugin is imported until something needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

#: Version of ``llmasos.api``, the hook specifications, the manifest schema and the result JSON; not the package version.
API_VERSION = (1, 0)

if TYPE_CHECKING:
    from llmasos.errors import LlmasosError as LlmasosError
    from llmasos.hub import Hub as Hub

__all__ = ["API_VERSION", "Hub", "LlmasosError", "__version__"]


def __getattr__(name: str) -> object:
    # PEP 562: `import llmasos` stays free of the kernel until a public name is touched.
    if name == "Hub":
        from llmasos.hub import Hub

        return Hub
    if name == "LlmasosError":
        from llmasos.errors import LlmasosError

        return LlmasosError
    raise AttributeError(f"module 'llmasos' has no attribute {name!r}")
