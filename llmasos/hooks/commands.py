"""The descriptor of a command (here, and not in contracts, because only the command line uses it)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from llmasos.contracts.base import Contribution


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandDef(Contribution):
    """A click command. Its help line is the ``summary`` in the manifest, so that ``--help`` imports nothing.

    The name ``GROUP.NAME`` puts it into a group of the core that takes such commands: ``eval.compare`` is
    ``llmasos eval compare``. Commands get the state of the command line with ``click.pass_obj``: ``state.hub``,
    ``state.output`` and ``state.config``.
    """

    kind: ClassVar[str] = "command"
