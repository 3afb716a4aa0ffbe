"""Work that can be spread: a stage is a pure function over immutable shards, whoever runs it and how often.

A stage travels to worker processes by pickle, once each; a shard travels with every piece of work. What a worker writes is
committed by an atomic rename under the shard's key, so work that is done twice is done once, and nothing depends on the
number of workers, on their order, or on the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from llmasos.contracts.hub import HubAPI

#: Told how many units of a shard are done since the last time; cheap, never raises.
Report = Callable[[int], None]


class Worker(Protocol):
    """Does the shards of one stage in one process, one after the other."""

    def run(self, shard: Any, folder: Path) -> Mapping[str, Any]:
        """Write the files of the result into ``folder``, which is empty, and return its facts (JSON).

        A stage whose results are not kept has facts only: it is given ``os.devnull``, where nothing can be written.
        The result must be a function of the shard and the stage alone. LlmasosErrors end the whole run; so does anything
        else that is raised. Only the death of the process makes another worker try the shard again.
        """


class Stage(Protocol):
    """What is done to every shard. Picklable."""

    #: For messages, for example ``scoring``.
    name: str
    #: Accelerators that each worker needs; only clusters hand them out.
    gpus: int

    def key(self, shard: Any) -> str:
        """Hexadecimal digest of everything that decides the result. Called in the process that hands out the work."""

    def open(self, hub: HubAPI, report: Report) -> Worker:
        """Make ready to work, once a process: load the model, build the steps. ``hub`` has loaded no plugins yet."""


@dataclass(frozen=True, slots=True)
class StageResult:
    """The result of shard number ``index``: ``facts`` as the worker gave them, with ``files`` (name -> sha256 and bytes).

    ``path`` is the folder with the files, None where nothing is kept. ``reused``: it was finished before.
    """

    index: int
    key: str
    facts: Mapping[str, Any]
    path: Path | None
    reused: bool = False
