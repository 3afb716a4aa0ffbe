"""Where and in which precision a model is computed: the options that all commands share."""

from __future__ import annotations

import click

device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps."
)
dtype_option = click.option(
    "--dtype",
    default="exact",
    show_default=True,
    help="exact (float32), fast (bfloat16), int8, int4, auto (what the file is in), or an element type.",
)
