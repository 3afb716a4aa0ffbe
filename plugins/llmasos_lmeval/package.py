"""The installed lm-eval package: whether it is there, which version, and how to talk to it quietly."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path

from llmasos.api import MissingDependency

#: Versions whose interfaces this plugin knows.
LOWEST, BELOW = (0, 4, 13), (0, 5)


def version() -> str:
    """The installed version. Raises MissingDependency when there is none, or one that this plugin does not know."""
    try:
        found = installed_version("lm_eval")
    except PackageNotFoundError:
        raise MissingDependency(
            "lm-evaluation-harness is not installed", hint='pip install "llmasos[lm-eval]"'
        ) from None
    numbers = tuple(int(part) for part in found.split(".")[:3] if part.isdigit())
    if not LOWEST <= numbers < BELOW:
        raise MissingDependency(
            f"lm-evaluation-harness {found} is installed, this plugin knows 0.4.13 and later ones before 0.5",
            hint='pip install "llmasos[lm-eval]"',
        )
    return found


def tasks_folder() -> Path | None:
    """The folder of the package's task files, without importing it; None when it is not installed."""
    spec = find_spec("lm_eval")
    places = list(spec.submodule_search_locations or ()) if spec else []
    folder = Path(places[0]) / "tasks" if places else None
    return folder if folder is not None and folder.is_dir() else None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside: no progress bars and remarks of the package on standard error, no pool of processes for its bootstrap (which
    deadlocks, issues 1485 and 2581 of its repository), and Python's random state as it was afterwards."""
    logger = logging.getLogger("lm_eval")
    level, state = logger.level, random.getstate()
    asked = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            logger.setLevel(logging.ERROR)
            yield
    finally:
        logger.setLevel(level)
        random.setstate(state)
        if asked is None:
            os.environ.pop("DISABLE_MULTIPROC", None)
        else:
            os.environ["DISABLE_MULTIPROC"] = asked
