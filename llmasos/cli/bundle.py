"""``llmasos bundle``: plugins and models in one file, for a machine without a network."""

from __future__ import annotations

from pathlib import Path

import click

from llmasos.cli.consent import carry_out, install_options, registry_option, repeated
from llmasos.cli.state import State, common_options, pass_state


@click.group()
def command() -> None:
    """Carry plugins and models to a machine without a network."""


@command.command()
@click.argument("plugins", nargs=-1, metavar="[NAME[==RANGE]...]")
@click.option("--model", "models", multiple=True, metavar="ORG/NAME[@VERSION]", help="Take a model along.")
@click.option(
    "--dataset", "datasets", multiple=True, metavar="ORG/NAME[@VERSION]", help="Take a dataset along."
)
@click.option(
    "--lock",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Take what this lock names, instead of naming it here.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("llmasos.bundle"),
    show_default=True,
    help="The file to write.",
)
@registry_option
@common_options
@pass_state
def create(
    state: State,
    plugins: tuple[str, ...],
    models: tuple[str, ...],
    datasets: tuple[str, ...],
    lock: Path | None,
    output: Path,
    registry: str | None,
) -> None:
    """Write a bundle.

    It has the wheels, the model files, the lock, and the keys and signatures of their publishers, for machines like this one.
    The same content gives the same bytes. Nothing is installed here.
    """
    from llmasos.cli.lock import references
    from llmasos.errors import UsageError
    from llmasos_registry.client.bundle import write_bundle
    from llmasos_registry.client.bundling import gather
    from llmasos_registry.client.lockfile import read_lock
    from llmasos_registry.client.locking import connect_to, make_lock
    from llmasos_registry.client.resolver import wish
    from llmasos_registry.client.session import Session

    named = bool(plugins or models or datasets)
    if named == (lock is not None):
        raise UsageError(
            "name plugins and models, or a lock", hint="llmasos bundle create NAME --model ORG/NAME"
        )
    given = read_lock(lock) if lock is not None else None
    connection = connect_to(state.config, given.registry) if given is not None else None
    with (
        Session(state.config, registry, connection=connection, note=state.output.note) as session,
        state.output.progress() as progress,
    ):
        progress.phase("resolving")
        if given is None:
            wishes = [wish(line, "your command") for line in plugins]
            given = make_lock(session, wishes, references(models, datasets))
        contents = gather(session, given, progress)
        total = sum(size for size, _ in contents.blobs.values())
        progress.phase(f"writing {output}", total)
        write_bundle(output, contents, progress.advance)
    state.output.emit(
        {
            "bundle": output,
            "bytes": output.stat().st_size,
            "packages": [{"name": one.name, "version": one.version} for one in given.packages],
            "models": [{"id": one.id, "version": one.version, "commit": one.commit} for one in given.models],
        },
        f"{output}: {len(given.packages)} packages, {len(given.models)} models",
    )


@command.command()
@click.argument("bundle", type=click.Path(path_type=Path, dir_okay=False))
@install_options
@common_options
@pass_state
def install(state: State, bundle: Path, yes: bool, dry_run: bool, allow_unsigned: bool) -> None:
    """Install what BUNDLE holds, without a network.

    Every file is checked against the lock in it and the signatures of the publishers. Their keys are pinned when they are seen for
    the first time; a bundle with other keys than those that are pinned is refused. Plugins that it does not name stay.
    """
    from llmasos_registry.client.bundle import Bundle
    from llmasos_registry.client.locking import plan_sync
    from llmasos_registry.client.session import Workplace
    from llmasos_registry.client.verify import carried_keys

    with Bundle(bundle) as opened:
        workplace = Workplace(
            state.config,
            opened.lock.registry,
            opened,
            carried_keys(opened.keys),
            allow_unsigned=allow_unsigned,
            note=state.output.note,
        )
        state.recover(workplace)
        plan = plan_sync(workplace, opened.lock, exact=False)
        again = repeated("bundle", "install", str(bundle), allow_unsigned=allow_unsigned)
        carry_out(state, workplace, plan, yes=yes, dry_run=dry_run, again=again)
