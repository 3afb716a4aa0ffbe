"""The marker in an output folder that says how its run is doing, for people and schedulers that watch it."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmasos.api import EvalEvent
from llmasos_evals.records.store import write_json

STATUS_FILE = "status.json"


def mark_started(event: EvalEvent) -> None:
    """``running``, with the process number. A run without ``--output`` has no folder to mark yet."""
    if event.request.output is not None:
        with suppress(OSError):  # a folder that cannot be written is refused by whoever writes results there
            event.request.output.mkdir(parents=True, exist_ok=True)
            _mark(event.request.output, "running", process=os.getpid(), model=event.request.model)


def mark_finished(event: EvalEvent) -> None:
    """``finished``, with the digest of the record."""
    if event.result is not None and event.result.output is not None:
        _mark(event.result.output, "finished", record=event.result.record["digest"])


def mark_failed(event: EvalEvent) -> None:
    """``failed`` or ``interrupted``, with the reason."""
    folder = event.request.output
    if folder is not None and folder.is_dir():
        state = "interrupted" if isinstance(event.error, KeyboardInterrupt) else "failed"
        with suppress(OSError):
            _mark(folder, state, error=str(event.error) or type(event.error).__name__)


def _mark(folder: Path, state: str, **facts: Any) -> None:
    write_json(
        folder / STATUS_FILE, {"state": state, "at": datetime.now(UTC).isoformat(timespec="seconds"), **facts}
    )
