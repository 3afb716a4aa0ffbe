"""``llmasos data add``: put data on the shelf under a name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llmasos.api import command_options


def _split(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> list[tuple[str, Path]]:
    found = []
    for value in values:
        name, equals, path = value.partition("=")
        if not equals or not name or not path:
            raise click.BadParameter(f"{value!r} is not SPLIT=FILE")
        found.append((name, Path(path)))
    return found


def _options(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    import yaml

    found: dict[str, Any] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE")
        try:
            made = yaml.safe_load(text)
        except yaml.YAMLError:
            made = text
        found[name] = made if isinstance(made, str | int | float | bool | list) else text
    return found


@click.command()
@click.argument("name")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@click.option("--config", metavar="NAME", help="The configuration this is: what tasks call `dataset_name`.")
@click.option(
    "--split",
    "splits",
    multiple=True,
    callback=_split,
    metavar="SPLIT=FILE",
    help="A file and its split. May be repeated.",
)
@click.option(
    "--copy", is_flag=True, help="Keep copies of the files; without it, they are read where they are."
)
@click.option("--replace", "again", is_flag=True, help="Take new files for splits that are there already.")
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["json", "csv", "text", "parquet", "arrow"]),
    help="What the files are.  [default: by their endings]",
)
@click.option(
    "--option",
    "options",
    multiple=True,
    callback=_options,
    metavar="NAME=VALUE",
    help="How the files are read, for example delimiter=';' or field=data. May be repeated.",
)
@command_options
@click.pass_obj
def command(
    state: Any,
    name: str,
    paths: tuple[Path, ...],
    config: str | None,
    splits: list[tuple[str, Path]],
    copy: bool,
    again: bool,
    format_name: str | None,
    options: dict[str, Any],
) -> None:
    """Put data on the shelf under NAME.

    Tasks whose `dataset_path` is NAME then read it, without network: a stock task runs unmodified on files you have. PATHs are files whose names say
    their split (train, validation, test), or one folder laid out like a repository of the Hub. What the files hold is noted; an evaluation refuses
    files that were changed since.
    """
    from llmasos_evals.commands.data_ls import COLUMNS, facts, rows
    from llmasos_evals.datasets.shelf import Shelf
    from llmasos_evals.datasets.shelving import shelve

    with state.output.progress() as progress:
        entry = shelve(
            Shelf(state.hub.data_dir),
            name,
            config=config,
            paths=paths,
            splits=splits,
            format_name=format_name,
            options=options,
            copy=copy,
            again=again,
            progress=progress,
        )
    state.output.emit(facts(entry), lambda: state.output.table(COLUMNS, rows([entry])))
