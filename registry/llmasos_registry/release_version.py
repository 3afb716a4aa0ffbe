"""Which texts are versions of models and datasets. Used by publisher and server.

``1.2.0`` or ``1.2.0-rc.1`` with alpha, beta or rc: semantic versions that PEP 440 reads in the same order. Other pre-release
words and build numbers are none: the two would sort them differently, and ranges over them would mean two things.
"""

from __future__ import annotations

import re

_NUMBER = r"(?:0|[1-9][0-9]{0,8})"
_VERSION = re.compile(rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-(?:alpha|beta|rc)\.{_NUMBER})?")
#: What to say beside a refusal.
FORM = "write MAJOR.MINOR.PATCH, for example 1.2.0 or 2.0.0-rc.1"


def is_version(text: str) -> bool:
    """Whether the text is the version of a release, not a range."""
    return _VERSION.fullmatch(text) is not None
