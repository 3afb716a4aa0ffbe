"""``llmasos sync``: make this environment equal to a lock."""

from __future__ import annotations

from pathlib import Path

import click

from llmasos.cli.consent import carry_out, install_options, repeated
from llmasos.cli.state import State, common_options, pass_state


@click.command()
@click.argument(
    "lock", type=click.Path(path_type=Path, dir_okay=False), default=Path("pylock.toml"), required=False
)
@install_options
@common_options
@pass_state
def command(state: State, lock: Path, yes: bool, dry_run: bool, allow_unsigned: bool) -> None:
    """Make this environment equal to a lock.

    Installs what LOCK (pylock.toml) names, each file by its digest, fetches its models, and removes plugins that it does not
    name. Libraries that it does not name, torch, numpy, the CUDA stack and llmasos itself stay as they are.
    """
    from llmasos_registry.client.lockfile import read_lock
    from llmasos_registry.client.locking import connect_to, plan_sync
    from llmasos_registry.client.session import Session

    wanted = read_lock(lock)
    connection = connect_to(state.config, wanted.registry)
    with Session(
        state.config, connection=connection, allow_unsigned=allow_unsigned, note=state.output.note
    ) as session:
        state.recover(session)
        with state.output.progress() as progress:
            progress.phase("comparing")
            plan = plan_sync(session, wanted)
        again = repeated("sync", str(lock), allow_unsigned=allow_unsigned)
        carry_out(state, session, plan, yes=yes, dry_run=dry_run, again=again)
