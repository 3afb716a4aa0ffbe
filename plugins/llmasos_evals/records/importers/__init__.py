"""Results of other harnesses, a module each: ``read(path) -> Imported``. Their files are hostile until checked."""

from __future__ import annotations
