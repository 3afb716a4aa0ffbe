"""The pluggy markers. Plugins decorate their implementations with ``hookimpl`` (from ``llmasos.api``)."""

from __future__ import annotations

import pluggy

PROJECT = "llmasos"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
