"""``llmasos registry serve``: the server, and how a data folder is opened by the commands beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llmasos.cli.state import State, common_options, pass_state
from llmasos.errors import InputError, LlmasosError, MissingDependency, NotFound

if TYPE_CHECKING:
    from llmasos_registry.server.context import Registry
    from llmasos_registry.server.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])


def data_option(command: F) -> F:
    """``--data``."""
    return click.option(
        "--data",
        metavar="DIR",
        type=click.Path(path_type=Path),
        help="Folder of the registry.  [default: registry-data; env: LLMASOS_REGISTRY_DATA]",
    )(command)


@contextmanager
def server_packages() -> Iterator[None]:
    """Imports of the server inside; raises MissingDependency with the pip line when its packages are not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0].startswith("llmasos"):
            raise
        raise MissingDependency(
            f"the registry's server needs the package `{error.name}`",
            hint="pip install 'llmasos[registry]'",
        ) from error


@contextmanager
def opened(data: Path | None) -> Iterator[Registry]:
    """The registry of a data folder, for the commands beside a server, which may be running.

    Raises NotFound when there is none, and turns the server's refusals into the command line's errors.
    """
    with server_packages():
        from llmasos_registry.server.db.engine import Database
        from llmasos_registry.server.failures import Failure
        from llmasos_registry.server.serve import open_registry
        from llmasos_registry.server.settings import load_settings
    settings = load_settings({"data": data})
    if settings.database is None and not Database.file_of(settings.data).is_file():
        raise NotFound(
            f"there is no registry in {settings.data}",
            hint="name its folder with --data, or start one: llmasos registry serve",
        )
    registry = open_registry(settings)
    try:
        yield registry
    except Failure as failure:
        kind: type[LlmasosError] = NotFound if failure.status == 404 else InputError
        raise kind(failure.message, hint=failure.hint) from failure
    finally:
        registry.db.close()


@click.command("serve")
@data_option
@click.option("--host", metavar="ADDRESS", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", metavar="PORT", type=int, help="Port to listen on; 0: any free one.  [default: 8765]")
@click.option("--workers", metavar="N", type=int, help="Server processes.  [default: 1]")
@click.option("--no-access-log", is_flag=True, help="No line on stderr for each request.")
@common_options
@pass_state
def command(
    state: State,
    data: Path | None,
    host: str | None,
    port: int | None,
    workers: int | None,
    no_access_log: bool,
) -> None:
    """Run a registry on this machine.

    The first start creates the account `admin` and prints its token once. Settings: registry.toml in the data folder,
    LLMASOS_REGISTRY_<NAME> variables, and these options.
    """
    # The server's packages take a second or more to load.
    state.output.note("starting the registry ...")
    with server_packages():
        from llmasos_registry.server.process import (
            check_folder,
            configure_logging,
            free_port,
            hold_folder,
            run,
        )
        from llmasos_registry.server.settings import load_settings
    settings = load_settings({"data": data, "host": host, "port": port, "workers": workers})
    check_folder(settings.data)
    settings = settings.model_copy(update={"port": free_port(settings.host, settings.port)})
    access_log = not no_access_log and state.output.mode != "quiet"
    configure_logging(access_log)
    made: list[str | None] = []

    def ready() -> None:
        _announce(state, settings, made[0] if made else None)

    with hold_folder(settings.data, lambda: made.append(_first(settings))):
        run(settings, ready, access_log=access_log)


def _first(settings: Settings) -> str | None:
    """What the first server of a folder does: drop half-written files, and make the first account in a new registry."""
    from llmasos_registry.server.serve import first_admin, open_registry

    registry = open_registry(settings)
    try:
        registry.store.check()
        registry.store.recover()
        return first_admin(registry)
    finally:
        registry.db.close()


def _announce(state: State, settings: Settings, token: str | None) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = settings.public_url or f"http://{host}:{settings.port}"
    admin = None if token is None else {"name": "admin", "token": token}
    facts = {"url": url, "data": settings.data, "admin": admin}
    lines = [f"registry at {url}, data in {settings.data}"]
    if token is not None:
        lines += ["", "token of the account `admin`, shown this once:", "", f"  {token}", ""]
    state.output.emit(facts, "\n".join(lines))
    state.output.stdout.flush()
