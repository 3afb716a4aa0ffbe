"""Recorded steps: what is replayed reads the newest inputs, results are kept apart, old ones are forgotten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from llmasos_cuda.graphs import Graphs


class Tape:
    """A recorder that counts, and repeats work on the tensors it was recorded on."""

    def __init__(self) -> None:
        self.records = self.replays = 0

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], Any], Tensor]:
        self.records += 1
        result = work()

        def replay() -> None:
            self.replays += 1
            result.copy_(work())

        return replay, result


def double(inputs: Any) -> Tensor:
    return 2 * inputs[0]


def test_a_step_is_recorded_once_it_has_come_often_enough() -> None:
    tape = Tape()
    graphs = Graphs(tape, patience=2)
    found = [graphs.run("step", (torch.tensor([float(n)]),), double) for n in range(5)]
    assert [float(one) for one in found] == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert (tape.records, tape.replays) == (1, 3)


def test_results_of_earlier_steps_stay() -> None:
    graphs = Graphs(Tape(), patience=0)
    first = graphs.run("step", (torch.ones(2),), double)
    graphs.run("step", (torch.full((2,), 5.0),), double)
    assert first.tolist() == [2.0, 2.0]


def test_shapes_that_no_longer_come_are_forgotten() -> None:
    tape = Tape()
    graphs = Graphs(tape, patience=0)
    for key in (*range(40), 39, 39, 0):
        graphs.run(key, (torch.ones(1),), double)
    # All forty, and the first again, which had been forgotten.
    assert tape.records == 41
