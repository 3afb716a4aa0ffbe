"""A limit on how long a regular expression of a task file may take.

Some patterns take time that grows exponentially with the text, and the module ``re`` has no limit of its own. It does look
for signals while it searches, so a timer of this process's own CPU time can stop it.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from llmasos.api import EvaluationError

#: CPU seconds for one text. Patterns of published tasks take microseconds.
SECONDS = 10.0


class Patience:
    """``with Patience("filter strict-match"):`` raises EvaluationError when what is within takes too long.

    Signals reach the main thread only: elsewhere, and on Windows, there is no limit.
    """

    def __init__(self, what: str, seconds: float | None = None) -> None:
        self.what, self.seconds = what, SECONDS if seconds is None else seconds
        self._before: Any = None
        self._set = False

    def __enter__(self) -> Patience:
        self._set = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
        if self._set:
            self._before = signal.signal(signal.SIGVTALRM, self._expired)
            signal.setitimer(signal.ITIMER_VIRTUAL, self.seconds)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._set:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, self._before)

    def _expired(self, number: int, frame: FrameType | None) -> None:
        raise EvaluationError(
            f"{self.what}: a regular expression takes more than {self.seconds:g} seconds for one text",
            hint="rewrite the pattern without a repeat inside a repeat, such as (a+)+",
        )
