"""The console script: what runs before the command line is there to say anything."""

from __future__ import annotations

import signal


def main() -> None:
    """Console entry point.

    While the command line is imported, Ctrl-C ends the process as it ends any program; Python would show a traceback.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from llmasos.cli.main import main as command_line

    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, before)
    command_line()
