"""What the engines of ``engine.py`` share: the way to say that something cannot be done here."""

from __future__ import annotations


class Unavailable(Exception):
    """This engine has no such precision, model or machine."""
