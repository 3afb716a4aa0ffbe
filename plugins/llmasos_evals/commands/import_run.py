"""``llmasos eval import``: results of another harness as a run that can be read here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llmasos.api import InputError, UsageError, command_options


@click.command(short_help="Read the results of another harness as a run.")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--from",
    "form",
    type=click.Choice(["lm-eval", "inspect"]),
    help="Who wrote it. [default: what it looks like]",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder for the run. [default: one named after it]",
)
@command_options
@click.pass_obj
def command(state: Any, path: Path, form: str | None, output: Path | None) -> None:
    """Read results of another harness: a results file or output folder of lm-evaluation-harness, or a log of Inspect (.eval or .json).

    The run can be shown, viewed and compared. It is marked as imported: it is never mixed with records, and nothing about it can be
    verified. What the other harness does not say is null.
    """
    from llmasos_evals.records.imported import write_imported
    from llmasos_evals.records.importers import inspect_log, lm_eval
    from llmasos_evals.records.presentation import COLUMNS, rows

    form = form or guess(path)
    with state.output.progress() as progress:
        progress.phase(f"reading {path}")
        found = (inspect_log if form == "inspect" else lm_eval).read(path)
        for remark in found.remarks:
            progress.warn(remark)
        folder = output or Path(found.name)
        try:
            record = write_imported(folder, found.record, found.samples)
        except FileExistsError:
            raise UsageError(
                f"{folder} has a run already", hint="choose another folder with --output"
            ) from None
        except ValueError as error:
            raise InputError(
                f"{path} has values that no record takes: {str(error).splitlines()[0]}"
            ) from None
    state.output.emit(record, lambda: state.output.table(COLUMNS, list(rows(record))))
    state.output.note(f"imported run: {folder}")


def guess(path: Path) -> str:
    """Whose results they are. Raises InputError when that cannot be said."""
    from llmasos_evals.records.importers import inspect_log, lm_eval
    from llmasos_evals.records.importers.lm_eval import MAX_FILE
    from llmasos_evals.records.untrusted import foreign_json

    if path.is_dir():
        return "lm-eval"
    if path.suffix == ".eval":
        return "inspect"
    found = foreign_json(path, MAX_FILE)
    if inspect_log.recognise(found):
        return "inspect"
    if lm_eval.recognise(found):
        return "lm-eval"
    raise InputError(
        f"{path} is of no harness that is known here",
        hint="say whose it is: --from lm-eval or --from inspect",
    )
