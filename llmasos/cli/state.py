"""What one run of the command line carries: flags, output, and the Hub once a command asks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llmasos.cli.output import Output
from llmasos.config import Config, load_config

if TYPE_CHECKING:
    from llmasos.hub import Hub
    from llmasos.kernel.inventory import Inventory
    from llmasos_registry.client.session import Workplace

F = TypeVar("F", bound=Callable[..., Any])


class State:
    """The click object of every command (``@pass_state``)."""

    def __init__(
        self,
        *,
        no_plugins: bool | None = None,
        only: tuple[str, ...] | None = None,
        plugins: tuple[Path, ...] = (),
        trace_plugins: bool | None = None,
        offline: bool | None = None,
    ) -> None:
        self.output = Output()
        self.only = only
        self.plugins = plugins
        #: Whether the user consented beforehand to installing what a model requires.
        self.yes = False
        #: The registry that plugins come from, where the command named one; None: that of the settings.
        self.registry: str | None = None
        self._no_plugins = no_plugins
        self._trace_plugins = trace_plugins
        self._offline = offline

    @cached_property
    def config(self) -> Config:
        """Settings in force."""
        return load_config(
            {"no_plugins": self._no_plugins, "trace_plugins": self._trace_plugins, "offline": self._offline}
        )

    @cached_property
    def inventory(self) -> Inventory:
        """All plugins and their states; imports none of them."""
        from llmasos.kernel.inventory import Inventory

        return Inventory(
            self.config.cache_dir,
            self.config.config_dir,
            no_plugins=self.config.no_plugins,
            only=self.only,
            local=self.plugins,
        )

    @cached_property
    def hub(self) -> Hub:
        """The Hub, made when a command first needs it. Broken plugins the user did not disable are one warning line each."""
        from llmasos.hub import Hub
        from llmasos.kernel.inventory import refusal

        hub = Hub(
            no_plugins=self._no_plugins,
            trace_plugins=self._trace_plugins,
            offline=self._offline,
            only=self.only,
            plugins=self.plugins,
            warn=self.output.warn,
            provision=self._provision,
        )
        for record in hub.inventory.broken():
            # A requirement that is not met is no failure; what is broken is, for those who want to know.
            if hub.config.strict and record.state != "incompatible":
                raise refusal(record)
            self.output.warn(f"plugin {record.title} is {record.state}: {record.why}")
        return hub

    def _provision(self, requirements: Sequence[str], why: str) -> bool:
        from llmasos.cli.consent import provision

        return provision(self, requirements, why)

    def recover(self, workplace: Workplace) -> None:
        """Put back what an interrupted installation left, and say so."""
        if workplace.recover():
            self.output.warn("an earlier installation was interrupted; what was there before is back")

    def close(self) -> None:
        """Close the Hub if there is one."""
        if "hub" in vars(self):
            self.hub.close()


#: Gives a command the State; commands invoked on their own (tests) get a fresh one.
pass_state = click.make_pass_decorator(State, ensure=True)


def _set_mode(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        output = context.ensure_object(State).output
        if output.mode != "human" and output.mode != parameter.name:
            raise click.UsageError("--json and --quiet exclude each other")
        output.mode = str(parameter.name)


def common_options(command: F) -> F:
    """``--json`` and ``--quiet``, which set the mode of the State's Output."""
    options = (
        click.option(
            "--json",
            "json",
            is_flag=True,
            expose_value=False,
            callback=_set_mode,
            help="Print one JSON document on stdout.",
        ),
        click.option(
            "--quiet",
            "-q",
            "quiet",
            is_flag=True,
            expose_value=False,
            callback=_set_mode,
            help="No progress and no notes; warnings and errors stay.",
        ),
    )
    for option in options:
        command = option(command)
    return command
