"""``llmasos model quantise``: a model with weights of fewer bits, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import click

from llmasos.cli.consent import yes_option
from llmasos.cli.state import State, common_options, pass_state
from llmasos.sizes import size_text


@click.command("quantise", short_help="Write a model with weights of fewer bits.")
@click.argument("model")
@click.option("--dtype", type=click.Choice(["int8", "int4"]), required=True, help="Bits of the weights.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="A new folder for the file and the model's tokenizer.",
)
@click.option(
    "--text",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Report the perplexity of this text before and after.",
)
@click.option(
    "--calibrate",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Round so that the products seen in this text change least; much better with int4.",
)
@click.option(
    "--tokens",
    type=click.IntRange(min=2),
    default=8192,
    show_default=True,
    help="Use so many tokens of each text.",
)
@click.option("--allow-pickle", is_flag=True, help="Read pickle weights (pytorch_model.bin), arrays only.")
@yes_option
@common_options
@pass_state
def command(
    state: State,
    model: str,
    dtype: Literal["int8", "int4"],
    output: Path,
    text: Path | None,
    calibrate: Path | None,
    tokens: int,
    allow_pickle: bool,
) -> None:
    """Write MODEL as a GGUF file with weights in eight or four bits, which llama.cpp reads as well.

    int8 is Q8_0. int4 is Q4_1 in the layers, and Q8_0 for the table of tokens. A file that has no more bits already stays as
    it is.
    """
    from llmasos.pipelines.quantise import quantise

    with state.output.progress() as progress:
        state.hub.progress = progress
        report = quantise(
            state.hub,
            model,
            output,
            dtype,
            text=text,
            calibrate=calibrate,
            tokens=tokens,
            progress=progress,
            allow_pickle=allow_pickle,
        )
    state.output.emit(report, lambda: _page(report))


def _page(report: Mapping[str, Any]) -> str:
    types = ", ".join(f"{size_text(count)} {name}" for name, count in report["types"].items())
    share = "" if report["ratio"] is None else f", {report['ratio']:.1%} of what it was"
    lines = [
        f"{'written':<12} {report['output'] / report['file']}",
        f"{'weights':<12} {size_text(report['bytes_before'])} -> {size_text(report['bytes_after'])}{share}",
        f"{'kept as':<12} {types}",
    ]
    lines += [f"{'lacks':<12} {what}" for what in report["missing"]]
    cost = report.get("perplexity")
    if cost is not None:
        lines.append(
            f"{'perplexity':<12} {cost['before']:.4f} -> {cost['after']:.4f} ({cost['change']:+.2%}) "
            f"over {cost['tokens']:,} tokens"
        )
    return "\n".join(lines)
