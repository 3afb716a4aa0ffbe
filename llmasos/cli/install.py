"""``llmasos install``: plugins from the registry, by name."""

from __future__ import annotations

import click

from llmasos.cli.consent import carry_out, install_options, registry_option, repeated
from llmasos.cli.state import State, common_options, pass_state


@click.command()
@click.argument("plugins", nargs=-1, required=True, metavar="NAME[==RANGE]...")
@click.option("--upgrade", "-U", is_flag=True, help="Take the newest version although one that fits is here.")
@install_options
@registry_option
@common_options
@pass_state
def command(
    state: State,
    plugins: tuple[str, ...],
    upgrade: bool,
    yes: bool,
    dry_run: bool,
    allow_unsigned: bool,
    registry: str | None,
) -> None:
    """Install plugins from the registry.

    The plan is shown first, and carried out whole or not at all. NAME may have a range: 'llmasos-acme>=1.2,<2'. torch, numpy, the CUDA stack and llmasos itself are never changed.
    """
    from llmasos_registry.client.resolver import wish
    from llmasos_registry.client.session import Session

    wishes = [wish(line, "your command") for line in plugins]
    with Session(state.config, registry, allow_unsigned=allow_unsigned, note=state.output.note) as session:
        state.recover(session)
        with state.output.progress() as progress:
            progress.phase("resolving")
            plan = session.plan(wishes, upgrade=[one.name for one in wishes] if upgrade else ())
        words = ("install", *(["--upgrade"] if upgrade else []), *plugins)
        again = repeated(*words, allow_unsigned=allow_unsigned, registry=registry)
        carry_out(state, session, plan, yes=yes, dry_run=dry_run, again=again)
