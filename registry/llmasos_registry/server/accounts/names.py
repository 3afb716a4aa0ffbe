"""Names of accounts: what is allowed, and what is the registry's own."""

from __future__ import annotations

import re

from llmasos_registry.server.failures import bad_request

#: Letters, digits, and single `-`, `_`, `.` between them: what Hub clients accept in a repository's owner.
_NAME = re.compile(r"[A-Za-z0-9]+(?:[-_.][A-Za-z0-9]+)*")
LONGEST = 64
#: First segments of addresses. An account of such a name would hide its repositories behind them, or them behind it.
_RESERVED = """
    anonymous api assets auth blob collections datasets docs files healthz jobs join kernels legacy
    lfs login logout metrics models new notifications oauth organizations packages papers registry
    resolve root search settings simple spaces static system upload users v1 validate-yaml whoami
    whoami-v2 xet
"""
RESERVED = frozenset(_RESERVED.split())


def check_name(name: str) -> str:
    """The name, if an account may have it. Raises Failure 400."""
    if len(name) > LONGEST or not _NAME.fullmatch(name):
        raise bad_request(
            f"`{name[:LONGEST]}` is no account name: letters and digits with single - _ . between, at most {LONGEST} characters"
        )
    if name.lower() in RESERVED:
        raise bad_request(f"`{name}` is part of the registry's own addresses; choose another name")
    return name
