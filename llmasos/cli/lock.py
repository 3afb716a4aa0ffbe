"""``llmasos lock``: write down exactly what is installed, or would be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmasos.cli.consent import registry_option
from llmasos.cli.state import State, common_options, pass_state

if TYPE_CHECKING:
    from llmasos_registry.client.pull import Reference


@click.command()
@click.argument("plugins", nargs=-1, metavar="[NAME[==RANGE]...]")
@click.option("--model", "models", multiple=True, metavar="ORG/NAME[@VERSION]", help="Lock a model too.")
@click.option(
    "--dataset", "datasets", multiple=True, metavar="ORG/NAME[@VERSION]", help="Lock a dataset too."
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("pylock.toml"),
    show_default=True,
    help="The file to write: pylock.toml or pylock.NAME.toml.",
)
@registry_option
@common_options
@pass_state
def command(
    state: State,
    plugins: tuple[str, ...],
    models: tuple[str, ...],
    datasets: tuple[str, ...],
    output: Path,
    registry: str | None,
) -> None:
    """Write a lock of plugins and models.

    Without NAME, of the plugins that are installed. Models bring the plugins that they require. Nothing is installed. The file is
    a pylock.toml (PEP 751) for machines like this one; `llmasos sync` makes an environment equal to it.
    """
    from packaging.pylock import is_valid_pylock_path

    from llmasos.errors import UsageError
    from llmasos_registry.client.lockfile import write_lock
    from llmasos_registry.client.locking import installed_wishes, make_lock
    from llmasos_registry.client.resolver import wish
    from llmasos_registry.client.session import Session

    if not is_valid_pylock_path(output):
        raise UsageError(f"{output} is not the name of a lock", hint="write pylock.toml or pylock.NAME.toml")
    chosen = references(models, datasets)
    with (
        Session(state.config, registry, note=state.output.note) as session,
        state.output.progress() as progress,
    ):
        progress.phase("resolving")
        wishes = [wish(line, "your command") for line in plugins]
        if not plugins and not chosen:
            wishes = installed_wishes(session)
        lock = make_lock(session, wishes, chosen)
        write_lock(output, lock)
    state.output.emit(
        {
            "lock": output,
            "packages": [{"name": one.name, "version": one.version} for one in lock.packages],
            "models": [{"id": one.id, "version": one.version, "commit": one.commit} for one in lock.models],
        },
        f"{output}: {len(lock.packages)} packages, {len(lock.models)} models",
    )


def references(models: tuple[str, ...], datasets: tuple[str, ...]) -> list[Reference]:
    """What ``--model`` and ``--dataset`` name. Raises UsageError."""
    from llmasos_registry.client.pull import check_whole, parse_reference

    found = [
        *(parse_reference(text) for text in models),
        *(parse_reference(text, "dataset") for text in datasets),
    ]
    for reference in found:
        check_whole(reference)
    return found
