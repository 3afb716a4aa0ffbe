"""What a section of the registry's benchmark is given and what it gives back."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Line:
    """One result. ``ratio`` says how many times better ours is; for growth, how many times more the full registry takes."""

    name: str
    ours: float
    peer: float
    unit: str
    ratio: float
    goal: str = ""
    met: bool | None = None
    note: str = ""

    def text(self) -> str:
        """For people."""
        verdict = "" if self.met is None else f"  {'met' if self.met else 'MISSED'}: {self.goal}"
        return f"{self.name:<62} {self.ours:>10.3f} {self.peer:>10.3f} {self.unit:<7} {self.ratio:>7.2f}x{verdict}{f'  ({self.note})' if self.note else ''}"


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the flags say."""

    projects: int
    versions: int
    megabytes: int
    files: int
    plugins: int
    seconds: float
    rounds: int
    samples: int
    #: What takes long to make is kept here: the peers, the full registry.
    keep: Path


def say(text: str) -> None:
    """Talk."""
    print(text, file=sys.stderr, flush=True)


def faster(name: str, ours: float, peer: float, unit: str, goal: float | None = None, note: str = "") -> Line:
    """A line for times: less is better."""
    ratio = peer / ours
    return Line(
        name,
        ours,
        peer,
        unit,
        ratio,
        f"at least {goal}x" if goal else "",
        None if goal is None else ratio >= goal,
        note,
    )


def growth(name: str, full: float, empty: float, unit: str, limit: float = 1.5) -> Line:
    """A line for what must not grow: ``ours`` is the full registry, ``peer`` the empty one."""
    ratio = full / empty
    return Line(name, full, empty, unit, ratio, f"at most {limit}x", ratio <= limit)
