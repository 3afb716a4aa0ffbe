"""Writes data/inspect_sums.eval and data/inspect_picks.eval: logs as inspect_ai itself writes them, of a model that says what it is told.

Run it in an environment of its own with ``pip install inspect_ai``; last run with 0.3.285.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import tiktoken
from inspect_ai import Task
from inspect_ai import eval as evaluate
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput, get_model
from inspect_ai.scorer import choice, includes, match
from inspect_ai.solver import generate, multiple_choice

DATA = Path(__file__).with_name("data")


class Bytes:
    """Counts a token a byte: the encoding that inspect_ai counts with would be fetched from the network."""

    def encode(self, text: str, **_: object) -> list[int]:
        return list(text.encode())

    encode_ordinary = encode


def model(*answers: str):
    return get_model(
        "mockllm/model", custom_outputs=[ModelOutput.from_content("mockllm/model", a) for a in answers]
    )


def main() -> None:
    tiktoken.get_encoding = tiktoken.encoding_for_model = lambda name: Bytes()
    sums = Task(
        name="sums",
        dataset=[Sample(input=f"{n}+1=", target=str(n + 1), id=f"s{n}") for n in range(4)],
        solver=generate(),
        scorer=[match(), includes()],
        metadata={"version": 3},
    )
    picks = Task(
        name="picks",
        dataset=[Sample(input=f"pick {n}", choices=["red", "green"], target="AB"[n % 2]) for n in range(3)],
        solver=multiple_choice(),
        scorer=choice(),
    )
    with tempfile.TemporaryDirectory() as scratch:
        for name, task, answers in (
            ("sums", sums, ["1", "2", "5", "4 is right"]),
            ("picks", picks, ["ANSWER: A", "ANSWER: B", "ANSWER: A"]),
        ):
            folder = Path(scratch, name)
            evaluate(
                task, model=model(*answers), log_dir=str(folder), display="none", seed=7, temperature=0.0
            )
            (log,) = folder.glob("*.eval")
            shutil.copyfile(log, DATA / f"inspect_{name}.eval")


if __name__ == "__main__":
    main()
