"""``llmasos generate``: text from a model."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

import click

from llmasos.cli.consent import yes_option
from llmasos.cli.placement import device_option, dtype_option
from llmasos.cli.state import State, common_options, pass_state
from llmasos.errors import UsageError

if TYPE_CHECKING:
    from llmasos.contracts.evaluation import LoadedModel


@click.command()
@click.argument("model")
@click.argument("prompts", nargs=-1)
@click.option(
    "--chat", is_flag=True, help="Put each prompt into the model's chat template as the user's message."
)
@click.option("--system", help="System message (with --chat).")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="Stop after so many tokens.",
)
@click.option(
    "--temperature", type=click.FloatRange(min=0.0), default=0.0, show_default=True, help="0 is greedy."
)
@click.option(
    "--top-k",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Keep the k likeliest tokens; 0 keeps all.",
)
@click.option(
    "--top-p",
    type=click.FloatRange(0.0, 1.0, min_open=True),
    default=1.0,
    show_default=True,
    help="Keep the smallest set of this probability.",
)
@click.option(
    "--min-p",
    type=click.FloatRange(0.0, 1.0),
    default=0.0,
    show_default=True,
    help="Keep tokens at least this fraction as likely as the likeliest.",
)
@click.option(
    "--repetition-penalty",
    type=click.FloatRange(min=0.0, min_open=True),
    default=1.0,
    show_default=True,
    help="Divide the scores of tokens already there; 1 is off.",
)
@click.option(
    "--num-beams",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Search with so many beams; 1 is off.",
)
@click.option(
    "--length-penalty",
    type=float,
    default=1.0,
    show_default=True,
    help="Beams compete by their log-probability over length to this power.",
)
@click.option(
    "--early-stopping",
    type=click.Choice(["yes", "no", "never"]),
    default="no",
    show_default=True,
    help="End the search once all beams have ended; or when no better one is likely, or possible.",
)
@click.option(
    "--num-return-sequences",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="So many of the best beams (with --json).",
)
@click.option(
    "--speculate",
    metavar="lookup|MODEL",
    help="Guess tokens from the text, or with a smaller model of the same vocabulary: faster, and the same text.",
)
@click.option("--stop", multiple=True, help="End at this text; may be given more than once.")
@click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same text.")
@click.option("--logprobs", is_flag=True, help="Report the log-probability of each token (with --json).")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Prompts computed together.",
)
@device_option
@dtype_option
@click.option("--allow-pickle", is_flag=True, help="Read pickle weights (pytorch_model.bin), arrays only.")
@yes_option
@common_options
@pass_state
def command(
    state: State,
    model: str,
    prompts: tuple[str, ...],
    chat: bool,
    system: str | None,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    repetition_penalty: float,
    num_beams: int,
    length_penalty: float,
    early_stopping: str,
    num_return_sequences: int,
    speculate: str | None,
    stop: tuple[str, ...],
    seed: int,
    logprobs: bool,
    batch_size: int,
    device: str,
    dtype: str,
    allow_pickle: bool,
) -> None:
    """Continue PROMPTS with MODEL. Without a prompt, or with `-`, the prompt is read from standard input.

    One prompt is streamed as it is generated. Only the continuation goes to standard output.
    """
    from llmasos.contracts.model import SamplingParams

    if system is not None and not chat:
        raise UsageError("--system needs --chat", hint="add --chat")
    if logprobs and state.output.mode != "json":
        raise UsageError("--logprobs needs --json", hint="add --json; text output has no place for them")
    if num_return_sequences > 1 and state.output.mode != "json":
        raise UsageError(
            "--num-return-sequences needs --json", hint="add --json; text output shows the best beam"
        )
    texts = _read(prompts)
    params = SamplingParams(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        stop=stop,
        seed=seed,
        logprobs=logprobs,
        num_beams=num_beams,
        length_penalty=length_penalty,
        early_stopping="never" if early_stopping == "never" else early_stopping == "yes",
        num_return_sequences=num_return_sequences,
    )
    output = state.output
    with output.progress() as progress:
        state.hub.progress = progress
        progress.phase(f"loading {model}")
        loaded = state.hub.load_model(model, device=device, dtype=dtype, allow_pickle=allow_pickle)
        drafter: Literal["lookup"] | LoadedModel | None = None
        if speculate == "lookup":
            drafter = "lookup"
        elif speculate is not None:
            progress.phase(f"loading {speculate}")
            drafter = state.hub.load_model(speculate, device=device, dtype=dtype, allow_pickle=allow_pickle)
    inputs: list[str] | list[list[int]] = texts
    if chat:
        head = [{"role": "system", "content": system}] if system is not None else []
        tokenizer = loaded.tokenizer
        # The template writes its own special tokens, so none are added to what it renders.
        inputs = [
            tokenizer.encode(tokenizer.apply_chat_template([*head, {"role": "user", "content": text}]))
            for text in texts
        ]
    chunks = state.hub.generate(loaded, inputs, params, batch_size=batch_size, speculate=drafter)
    streaming = output.mode != "json" and len(texts) == 1
    if streaming:
        for chunk in chunks:
            if chunk.text:
                output.write(chunk.text)
        output.write("\n")
        return
    finished = {}
    with output.progress() as progress:
        progress.phase("generating", len(texts))
        for chunk in chunks:
            if chunk.done is not None:
                finished[chunk.index] = chunk.done
                progress.advance()
    completions = [{"prompt": text, **asdict(finished[index])} for index, text in enumerate(texts)]
    speculation = None
    if speculate is not None:
        drafted, accepted = (sum(done[name] for done in completions) for name in ("drafted", "accepted"))
        speculation = {
            "with": speculate,
            "drafted": drafted,
            "accepted": accepted,
            "acceptance": accepted / drafted if drafted else None,
        }
    output.emit(
        {"model": model, "speculation": speculation, "completions": completions},
        lambda: "\n\n".join(f"[{index + 1}] {done['text']}" for index, done in enumerate(completions)),
    )


def _read(prompts: tuple[str, ...]) -> list[str]:
    if prompts and prompts != ("-",):
        return list(prompts)
    hint = 'llmasos generate MODEL "Once upon a time"'
    if not prompts and sys.stdin.isatty():
        raise UsageError("there is no prompt", hint=hint)
    text = sys.stdin.read()
    if not text.strip():
        raise UsageError("there is no prompt: standard input is empty", hint=hint)
    return [text]
