"""Rate limits: so many requests in each window of five minutes, for each account, or each address of strangers.

The windows are fixed and the counts live in this process: with several, each gets its share of the limit. Headers:
draft-ietf-httpapi-ratelimit-headers in the form that huggingface_hub reads (``RateLimit: "api";r=0;t=55``).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from time import time

from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.failures import Failure
from llmasos_registry.server.settings import Settings

#: Seconds of a window.
WINDOW = 300
#: Callers counted one by one in a window; the rest of them share one count, so that addresses cannot fill the memory.
COUNTED = 100_000


class RateLimits:
    """Counts of the window that is now."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time) -> None:
        share = settings.workers
        self._limits = {
            "api": -(-settings.rate_api // share),
            "file": -(-settings.rate_files // share),
        }
        self._clock = clock
        self._window = 0
        self._counts: dict[tuple[str, str], int] = {}

    def take(self, caller: Caller, weight: str) -> Mapping[str, str]:
        """Count one request; the headers that say what is left. Raises Failure 429 when nothing is."""
        limit = self._limits.get(weight, 0)
        if limit == 0:
            return {}
        now = self._clock()
        window = int(now // WINDOW)
        if window != self._window:
            self._window, self._counts = window, {}
        key = (weight, _who(caller))
        if key not in self._counts and len(self._counts) >= COUNTED:
            key = (weight, "others")
        count = self._counts.get(key, 0) + 1
        self._counts[key] = count
        left = max(limit - count, 0)
        reset = int((window + 1) * WINDOW - now) + 1
        headers = {
            "RateLimit": f'"{weight}";r={left};t={reset}',
            "RateLimit-Policy": f'"fixed window";"{weight}";q={limit};w={WINDOW}',
        }
        if count > limit:
            raise Failure(
                429,
                f"More than {limit} requests of the class `{weight}` in {WINDOW} seconds; wait {reset} seconds",
                headers={**headers, "Retry-After": str(reset)},
            )
        return headers


def _who(caller: Caller) -> str:
    """The account; for strangers the address, of IPv6 the /64 network that one customer has."""
    if caller.account is not None:
        return f"account {caller.account}"
    try:
        address = ipaddress.ip_address(caller.address)
    except ValueError:
        return caller.address
    if address.version == 6:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
