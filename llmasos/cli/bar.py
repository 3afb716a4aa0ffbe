"""The progress bar on a terminal (rich)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmasos.cli.output import Output


#: Longest name of a phase, in columns: what is longer has its middle left out, so that there is room for the bars.
_LABEL = 44


class BarProgress:
    """Satisfies the Progress contract with a rich display."""

    def __init__(self, display: Any) -> None:
        self._display = display
        self._task: Any = None
        self._counted = False

    def phase(self, name: str, total: int | None = None) -> None:
        """A new bar; the one before is complete, and goes when it had nothing to count."""
        if self._task is not None:
            self._display.stop_task(self._task)
            if not self._counted:
                self._display.remove_task(self._task)
        if len(name) > _LABEL:
            name = f"{name[: _LABEL // 2 - 1]}…{name[-_LABEL // 2 :]}"
        self._task = self._display.add_task(name, total=total)
        self._counted = total is not None

    def advance(self, amount: int = 1) -> None:
        """Move the bar."""
        if self._task is not None:
            self._display.advance(self._task, amount)
            self._counted = True

    def pause(self) -> None:
        """Leave the terminal to others."""
        self._display.stop()

    def resume(self) -> None:
        """Draw again."""
        self._display.start()

    def warn(self, message: str) -> None:
        """One line above the bars."""
        from rich.text import Text

        self._display.console.print(Text(f"warning: {message}"))


@contextmanager
def bar_progress(output: Output) -> Iterator[BarProgress]:
    """Show bars on stderr while the body runs."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(file=output.stderr)
    columns = (
        SpinnerColumn(),
        # Phase names come from tasks and files: they are text, not markup.
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=5) as display:
        # Something is on the screen before the work names its first phase.
        progress = BarProgress(display)
        progress.phase("starting")
        yield progress
