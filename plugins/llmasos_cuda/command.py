"""``llmasos backend tune``: the sizes of kernels that are fastest on this device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llmasos.api import DeviceUnavailable, command_options
from llmasos_cuda.backend import CudaBackend
from llmasos_cuda.devices import answering, found


@click.command("tune", short_help="Measure sizes of CUDA kernels on this device and keep the fastest.")
@click.option("--device", default="cuda", show_default=True, help="cuda, cuda:1.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write here instead of the cache, where models find it.",
)
@click.option("--kernel", "kernels", multiple=True, help="Only this: attention, head, quantised, vocabulary.")
@command_options
@click.pass_obj
def tune(state: Any, device: str, output: Path | None, kernels: tuple[str, ...]) -> None:
    """Time every kernel in the sizes that could suit it, on the shapes of a model of 8 billion parameters.

    Takes some minutes. Sizes change no results beyond rounding; what is kept is used from the next model on.
    """
    if device.partition(":")[0] != "cuda" or not CudaBackend().devices():
        raise DeviceUnavailable(
            f"there is no device {device!r} to measure: {found().problem or 'torch is built without CUDA'}",
            hint="`llmasos doctor` says what was found",
        )
    from llmasos_cuda.configurations import TUNED
    from llmasos_cuda.tuning import tune_kernels, write

    target = output or state.hub.cache_dir / "backends" / "llmasos-cuda-cuda" / TUNED
    with answering(device), state.output.progress() as progress:
        value = tune_kernels(device, frozenset(kernels), progress)
    write(target, value.table)
    rows = [(one.kernel, one.variant, one.before, one.after, one.sizes) for one in value.gains]
    columns = ("kernel", "variant", "us before", "us after", "sizes")
    state.output.emit(
        {"file": str(target), "table": value.table, "gains": [vars(one) for one in value.gains]},
        lambda: f"{state.output.table(columns, rows)}\n\nwritten to {target}",
    )
