"""``llmasos eval view``: look at a run, or at two of them side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmasos.api import UsageError, command_options

if TYPE_CHECKING:
    from llmasos.api import HubAPI, Progress
    from llmasos_evals.records.reading import Run
    from llmasos_evals.view.server import Viewer

#: Level at which a difference is called one.
ALPHA = 0.05


@click.command("view")
@click.argument("runs", nargs=-1, required=True, metavar="RUN [RUN]", type=click.Path(path_type=Path))
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.html",
    help="Write one HTML file that holds everything, and end.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Port of the local page.  [default: a free one]"
)
@click.option("--open/--no-open", "browse", default=False, help="Show it in the browser.")
@command_options
@click.pass_obj
def command(state: Any, runs: tuple[Path, ...], output: Path | None, port: int, browse: bool) -> None:
    """Look at RUN: its scores with intervals, and every document with what the model was asked and said.

    A second RUN is put beside the first. Without --output a page on this machine is served until Ctrl-C; it reads samples
    as you look at them. Nothing is sent anywhere.
    """
    from llmasos_evals.records.checks import doubts
    from llmasos_evals.records.reading import open_run
    from llmasos_evals.records.standing import standing_of
    from llmasos_evals.view.page import summary, write_page
    from llmasos_evals.view.server import Viewer

    if len(runs) > 2:
        raise UsageError(
            f"{len(runs)} runs were named", hint="two at most; `llmasos eval compare` takes more"
        )
    opened = [open_run(path) for path in runs]
    with state.output.progress() as progress:
        progress.phase("reading records")
        standings = [standing_of(run, state.hub) for run in opened]
        for standing in standings:
            for remark in standing.remarks:
                progress.warn(remark)
        rows = _comparison(opened, state.hub, progress) if len(opened) == 2 else []
        shown = summary(opened, standings, rows)

        def check() -> list[str]:
            return [
                line if len(opened) == 1 else f"{run.folder}: {line}"
                for run in opened
                for line in doubts(run, state.hub)
            ]

        if output is not None:
            size = write_page(opened, output, shown, check, progress)
    if output is not None:
        address = output.resolve().as_uri()
        state.output.emit({"file": output, "bytes": size, "address": address}, str(output))
        _browse(address, browse)
        return
    _serve(state, Viewer(opened, shown, check, state.output.warn), port, browse)


def _serve(state: Any, viewer: Viewer, port: int, browse: bool) -> None:
    from threading import Thread

    from llmasos_evals.view.server import LOOPBACK, make_server

    with make_server(viewer, port) as server:
        Thread(target=viewer.prepare, daemon=True).start()
        address = f"http://{LOOPBACK}:{server.server_address[1]}/"
        state.output.emit({"address": address}, address)
        state.output.stdout.flush()
        state.output.note("Ctrl-C ends it")
        _browse(address, browse)
        try:
            server.serve_forever(poll_interval=0.1)
        except KeyboardInterrupt:
            state.output.note("closed")


def _browse(address: str, browse: bool) -> None:
    if browse:
        import webbrowser

        webbrowser.open(address)


def _comparison(runs: Sequence[Run], hub: HubAPI, progress: Progress) -> list[Mapping[str, Any]]:
    """Rows of ``llmasos eval compare`` with its own settings; what cannot be compared has its reason instead."""
    from llmasos_evals.commands.compare import p_text, verdict
    from llmasos_evals.statistics.comparison import Settings
    from llmasos_evals.statistics.power import Design
    from llmasos_evals.statistics.suites import Choice, compare_runs, corrected

    settings = Settings(10_000, 0, Design(ALPHA, 0.8))
    found = compare_runs(runs[0], runs[1], hub, choice=Choice(), settings=settings, progress=progress)
    corrected([found])
    rows: list[Mapping[str, Any]] = []
    for row in found.rows:
        result = row.result
        rows.append(
            {
                "task": row.task,
                "metric": row.metric,
                "documents": result.documents,
                "B - A": result.difference,
                "95 % interval": ""
                if result.low is None or result.high is None
                else f"{result.low:+.4f} to {result.high:+.4f}",
                "p (Holm)": p_text(row.p_holm),
                "B is": verdict(row, ALPHA) or "no different",
                "better / same / worse": ""
                if result.wins is None
                else f"{result.wins} / {result.ties} / {result.losses}",
            }
        )
    skipped = [{"task": what, "metric": f"not compared: {why}"} for what, why in found.skipped]
    return [*rows, *skipped]
