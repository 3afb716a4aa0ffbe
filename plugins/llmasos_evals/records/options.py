"""Options of the commands that take a finished run up again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

run_argument = click.argument("run", type=click.Path(path_type=Path))


def task_options(command: F) -> F:
    """``--include``, ``--allow-task-code`` and ``--allow-code-execution``, as `llmasos eval run` has them."""
    for option in (
        click.option(
            "--allow-code-execution",
            is_flag=True,
            help="Run code that the model wrote, in the sandbox (pass@k).",
        ),
        click.option(
            "--allow-task-code", is_flag=True, help="Let task files run the Python functions beside them."
        ),
        click.option(
            "--include",
            type=click.Path(path_type=Path),
            multiple=True,
            metavar="DIR",
            help="Look for task files here too. May be repeated.",
        ),
    ):
        command = option(command)
    return command


def key_option(command: F) -> F:
    """``--key``: the key to sign with."""
    return click.option(
        "--key",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="The key to sign with, instead of your usual one.",
    )(command)
