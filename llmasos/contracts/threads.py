"""Threads of torch between the passes of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def single_threaded() -> Iterator[None]:
    """Torch on the calling thread alone, for what little is done between passes.

    Once torch has shared an operation out, its idle threads spin for up to ten milliseconds (libgomp does), on cores where a back
    end with threads of its own is at the next pass by then: on two cores that halved the speed of decoding.
    """
    import torch

    before = torch.get_num_threads()
    if before > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if before > 1:
            torch.set_num_threads(before)
