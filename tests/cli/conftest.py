"""Throw-away plugins for these tests: see tests/world.py."""

from world import world

__all__ = ["world"]
