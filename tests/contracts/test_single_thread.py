"""Torch keeps to one thread between passes, and has its threads back afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from llmasos.api import single_threaded


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_threads_come_back(three_threads: None) -> None:
    with single_threaded():
        assert torch.get_num_threads() == 1
        with single_threaded():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


def test_threads_come_back_after_an_error(three_threads: None) -> None:
    with pytest.raises(ValueError, match="late"), single_threaded():
        raise ValueError("too late")
    assert torch.get_num_threads() == 3
