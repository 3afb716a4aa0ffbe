"""``llmasos eval``: score models, and work with what was scored. Plugins add commands as ``eval.NAME``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import click

from llmasos.cli.groups import OpenGroup


class EvalGroup(OpenGroup):
    """``llmasos eval MODEL TASK...`` is short for ``llmasos eval run MODEL TASK...``."""

    prefix = "eval"
    default = "run"
    core: ClassVar[Mapping[str, tuple[str, str]]] = {
        "attest": (
            "llmasos.cli.eval_publish:attest",
            "Send the signed ATTESTATION that `llmasos eval verify` wrote about a published record.",
        ),
        "fetch": (
            "llmasos.cli.eval_publish:fetch",
            "Fetch the published record DIGEST with its samples, to look at or to verify.",
        ),
        "leaderboard": (
            "llmasos.cli.eval_publish:leaderboard",
            "Show the published scores of TASK, those that may be compared together; without TASK, the tasks.",
        ),
        "publish": (
            "llmasos.cli.eval_publish:publish",
            "Publish the signed record of RUN, and its samples.",
        ),
        "run": ("llmasos.cli.eval_run:command", "Score MODEL on tasks or suites."),
    }


@click.command(cls=EvalGroup)
def command() -> None:
    """Score models; look at, compare and verify results.

    `llmasos eval MODEL TASK...` is short for `llmasos eval run MODEL TASK...`.
    """
