"""Asking before anything is installed: the plan is shown, then a yes on the terminal or `--yes` carries it out."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llmasos.errors import ConfigError, RunError, UsageError

if TYPE_CHECKING:
    from llmasos.cli.state import State
    from llmasos_registry.client.plan import Plan
    from llmasos_registry.client.session import Workplace

F = TypeVar("F", bound=Callable[..., Any])


def yes_option(command: F) -> F:
    """``--yes`` of commands that may have to install what a model requires."""
    option = click.option(
        "--yes",
        "-y",
        is_flag=True,
        expose_value=False,
        callback=_remember_yes,
        help="Install the plugins that the model requires, without asking.",
    )
    return option(command)


def _remember_yes(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    from llmasos.cli.state import State

    if value:
        context.ensure_object(State).yes = True


def install_options(command: F) -> F:
    """Options of every command that changes the environment or fetches models."""
    options = (
        click.option("--yes", "-y", is_flag=True, help="Carry out the plan without asking."),
        click.option("--dry-run", is_flag=True, help="Show the plan and change nothing."),
        click.option(
            "--allow-unsigned",
            is_flag=True,
            help="Take what is not signed although its publisher has keys.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def registry_option(command: F) -> F:
    """``--registry URL``."""
    option = click.option(
        "--registry",
        metavar="URL",
        help="The registry to ask, for example https://host:8765.  [env: LLMASOS_REGISTRY]",
    )
    return option(command)


def repeated(*words: str, allow_unsigned: bool = False, registry: str | None = None) -> list[str]:
    """The command line that does the same again."""
    flags = ["--allow-unsigned"] if allow_unsigned else []
    return ["llmasos", *words, *flags, *(["--registry", registry] if registry else [])]


def carry_out(
    state: State, workplace: Workplace, plan: Plan, *, yes: bool, dry_run: bool, again: Sequence[str]
) -> bool:
    """Show a plan, ask, do it, and print what was done. Whether it was done (or nothing had to be).

    ``again`` is the command to run for a yes where there is no terminal. Raises UsageError there, RunError for a no.
    """
    from llmasos_registry.client.plan import describe

    output = state.output
    if plan.empty:
        output.emit({**plan.to_json(), "applied": False}, "nothing to do: everything is there")
        for warning in plan.warnings:
            output.warn(warning)
        return True
    text = describe(plan)
    if dry_run:
        output.emit({**plan.to_json(), "applied": False}, text)
        return False
    output.note(text)
    confirm(yes, again)
    with output.progress() as progress:
        workplace.apply(plan, progress)
    output.emit({**plan.to_json(), "applied": True}, lambda: _done(workplace, plan))
    return True


def confirm(yes: bool, again: Sequence[str]) -> None:
    """A yes, or an error. Raises UsageError without a terminal, RunError for a no."""
    if yes:
        return
    if not on_terminal():
        raise UsageError(
            "nothing was changed: there is no terminal to ask on",
            hint=f"to accept the plan run: {shlex.join(again)} --yes",
        )
    if not click.confirm("Do it?", err=True):
        raise RunError("nothing was changed")


def on_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _done(workplace: Workplace, plan: Plan) -> str:
    words = {"add": "installed", "change": "changed", "remove": "removed"}
    lines = [f"{words[step.action]} {step.name} {step.after or step.before}" for step in plan.steps]
    for item in plan.models:
        model = item.model
        folder = workplace.store.folder(model.kind, model.id, model.commit)
        lines.append(f"fetched {model.kind} {model.id} {model.version or model.commit[:12]}: {folder}")
    return "\n".join(lines)


def provision(state: State, requirements: Sequence[str], why: str) -> bool:
    """Install what a model requires, after a yes: what the command line gives the Hub. Whether it was done.

    False where nobody can be asked: the error that follows names the command to run.
    """
    if not state.yes and not on_terminal():
        return False
    address = state.registry or state.config.registry
    if not address or state.config.offline:
        if state.yes:
            raise ConfigError(
                f"{why} requires {', '.join(requirements)}, and no registry can be asked",
                hint="set LLMASOS_REGISTRY to its address"
                if not state.config.offline
                else "leave out --offline",
            )
        return False
    from llmasos_registry.client.plan import describe
    from llmasos_registry.client.resolver import wish
    from llmasos_registry.client.session import Session

    output = state.output
    with output.paused(), Session(state.config, address, note=output.note) as session:
        plan = session.plan([wish(line, why) for line in requirements])
        if plan.empty:
            return False
        output.note(f"{why} requires {', '.join(requirements)}:")
        output.note(describe(plan))
        try:
            if not state.yes and not click.confirm("Install it?", err=True):
                return False
        except click.Abort:
            # A plugin's hook is running: what is no BaseException would be called that plugin's fault.
            raise KeyboardInterrupt from None
        with output.progress() as progress:
            session.apply(plan, progress)
    _refuse_stale(state, {step.name for step in plan.steps if step.action == "change"})
    return True


def _refuse_stale(state: State, changed: set[str]) -> None:
    """Code that is imported stays in memory: an old version must not run under the name of the new one."""
    from llmasos_registry.client.environment import modules_of

    stale = sorted(name for name in changed if any(module in sys.modules for module in modules_of(name)))
    if stale:
        raise RunError(
            f"{', '.join(stale)} was changed, and the old version is in use here already",
            hint="run the same command again",
        )
