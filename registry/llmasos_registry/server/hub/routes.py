"""Every route of the Hub face, in the order in which they are tried."""

from __future__ import annotations

from llmasos_registry.server.hub import (
    branches,
    commit,
    discussions,
    gating,
    identity,
    info,
    leaderboard,
    lfs,
    lfs_upload,
    lifecycle,
    listings,
    preupload,
    resolve,
    squash,
    unsupported,
    xet,
)
from llmasos_registry.server.routing import Route

ROUTES: tuple[Route, ...] = (
    *identity.ROUTES,
    *lifecycle.ROUTES,
    *leaderboard.ROUTES,
    *gating.ROUTES,
    *discussions.ROUTES,
    *branches.ROUTES,
    *listings.ROUTES,
    *info.ROUTES,
    *preupload.ROUTES,
    *commit.ROUTES,
    *lfs.ROUTES,
    *lfs_upload.ROUTES,
    *xet.ROUTES,
    *squash.ROUTES,
    *resolve.ROUTES,
    *gating.WEB_ROUTES,
    *unsupported.ROUTES,
)
