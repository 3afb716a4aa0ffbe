"""Rolling windows: every token predicted once, with the contexts that lm-evaluation-harness gives it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmasos_evals.scoring.windows import Window, rolling_windows

PREFIX = -1


def test_a_short_text_is_one_window():
    assert rolling_windows([1, 2, 3], prefix=PREFIX, max_length=4) == [Window((PREFIX,), (1, 2, 3))]


def test_the_last_window_is_moved_back_to_full_length():
    windows = rolling_windows(list(range(10)), prefix=PREFIX, max_length=4)
    assert windows == [
        Window((PREFIX,), (0, 1, 2, 3)),
        Window((3,), (4, 5, 6, 7)),
        # Two targets are left; the inputs 5, 6, 7, 8 fill the model.
        Window((5, 6, 7), (8, 9)),
    ]


def test_more_context_makes_smaller_steps():
    windows = rolling_windows(list(range(10)), prefix=PREFIX, max_length=4, context_length=3)
    assert [w.targets for w in windows] == [(0, 1, 2, 3), (4, 5), (6, 7), (8, 9)]
    assert windows[1].context == (1, 2, 3)


def test_no_tokens_no_windows():
    assert rolling_windows([], prefix=PREFIX, max_length=4) == []


@pytest.mark.parametrize("context_length", [0, 5])
def test_impossible_context_is_refused(context_length):
    with pytest.raises(ValueError, match="context_length"):
        rolling_windows([1], prefix=PREFIX, max_length=4, context_length=context_length)


@given(count=st.integers(0, 200), max_length=st.integers(1, 40), data=st.data())
def test_each_token_is_predicted_once_and_no_window_is_too_long(count, max_length, data):
    context_length = data.draw(st.integers(1, max_length))
    tokens = list(range(count))
    windows = rolling_windows(tokens, prefix=PREFIX, max_length=max_length, context_length=context_length)
    assert [t for w in windows for t in w.targets] == tokens
    for number, window in enumerate(windows):
        inputs = (*window.context, *window.targets)[:-1]
        assert len(inputs) <= max_length
        if number:
            # Context is what stands right before the targets, and the model is full.
            first = window.targets[0]
            assert window.context == tuple(range(first - len(window.context), first))
            assert len(window.context) >= context_length
            assert len(inputs) == max_length
