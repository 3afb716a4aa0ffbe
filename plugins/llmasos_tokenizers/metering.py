"""How much work a chat template may do, counted while it runs.

Work is counted, not timed: a template that is accepted on one machine is accepted on every machine, and the answer does
not depend on what else the machine is doing. Two counters bound time and memory: *steps* (syntax nodes evaluated, items
iterated) and *characters* (of every text that is made, before it is made).
"""

from __future__ import annotations

import re
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.runtime import Undefined

MAX_INTEGER_BITS = 4096
#: Words of a %-format or str.format specification that ask for much more text than they are given.
WIDE_FORMAT = re.compile(r"\d{4,}|\*")


class Meter:
    """Two budgets; going over one raises SecurityError."""

    def __init__(self, steps: int, characters: int) -> None:
        self._steps = steps
        self._characters = characters

    def step(self, count: int = 1) -> None:
        """Take ``count`` steps."""
        self._steps -= count
        if self._steps < 0:
            raise SecurityError("the template does more work than rendering a chat can need")

    def grow(self, count: int) -> None:
        """Account for ``count`` characters about to be made or searched."""
        self._characters -= count
        if self._characters < 0:
            raise SecurityError("the template makes more text than rendering a chat can need")

    def measure(self, value: Any) -> None:
        """Account for turning ``value`` into text, comparing or hashing it: its whole tree is walked, so that a value
        that holds itself many times over is as expensive here as it would be there."""
        pending = [value]
        while pending:
            self.step()
            item = pending.pop()
            if isinstance(item, str):
                self.grow(len(item) + 2)
            elif isinstance(item, int | float) or item is None:
                self.grow(8 + (item.bit_length() // 3 if isinstance(item, int) else 16))
            elif isinstance(item, Mapping):
                self.step(len(item))
                pending.extend(item.keys())
                pending.extend(item.values())
            elif isinstance(item, list | tuple | set | frozenset | ItemsView | KeysView | ValuesView):
                self.step(len(item))
                pending.extend(item)
            else:
                self.grow(64)

    def counted(self, values: Iterable[Any], cost: int = 1) -> Iterator[Any]:
        """The same items, ``cost`` steps each."""
        for value in values:
            self.step(cost)
            yield value

    def length_of(self, value: Any) -> None:
        """Account for copying a text or a list."""
        if isinstance(value, str):
            self.grow(len(value))
        elif isinstance(value, list | tuple):
            self.step(len(value))

    def binary(self, operator: str, left: Any, right: Any) -> None:
        """Check an operator before it is applied."""
        self.step()
        if isinstance(left, int) and isinstance(right, int):
            bits = max(left.bit_length(), right.bit_length())
            if operator == "*":
                bits = left.bit_length() + right.bit_length()
            elif operator == "**":
                bits = max(left.bit_length(), 1) * max(right, 0)
            if bits > MAX_INTEGER_BITS:
                raise SecurityError(f"the template computes an integer of more than {MAX_INTEGER_BITS} bits")
        elif operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(many, str | list | tuple) and isinstance(times, int):
                    self.grow(len(many) * max(times, 0))
        elif operator == "%" and isinstance(left, str):
            self.formatting(left, right)
        else:
            self.length_of(left)
            self.length_of(right)

    def formatting(self, template: str, *values: Any) -> None:
        """Check a format string: no widths that a chat cannot need, none computed from values."""
        self.grow(len(template))
        if WIDE_FORMAT.search(template) or re.search(r"\{[^{}]*:[^{}]*\{", template):
            raise SecurityError("the template formats with a width of more than 999 or a computed width")
        # Each field may show any of the values.
        for _ in range(1 + template.count("%") + template.count("{")):
            self.measure(values)

    def replacing(self, text: str, old: str, new: str) -> None:
        """Check ``text.replace(old, new)``."""
        found = text.count(old) if old else len(text) + 1
        self.grow(2 * len(text) + found * len(new))


def text_of(value: Any) -> str:
    """``value`` as a text for size checks; undefined values are empty."""
    return "" if isinstance(value, Undefined) else str(value)
