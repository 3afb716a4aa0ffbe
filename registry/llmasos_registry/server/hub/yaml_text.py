"""YAML that strangers wrote, as plain JSON values: no tags, no aliases, bounded size and depth."""

from __future__ import annotations

import math
from datetime import date, datetime
from typing import Any

import yaml

#: Characters of one YAML text. Front matter of a real card has a few hundred lines at most.
MAX_TEXT = 1 << 18
MAX_DEPTH = 32
#: Values in one text.
MAX_VALUES = 20_000


class YamlRefused(Exception):
    """The text is no YAML, or more than is taken. The message names the line where it can."""


class _Loader(yaml.SafeLoader):
    """SafeLoader, pure Python for its line numbers, that refuses aliases: ten lines of them make gigabytes of JSON."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            line = self.get_mark().line + 1
            raise YamlRefused(f"line {line}: aliases (`*name`) are not taken")
        return super().compose_node(parent, index)


def load_yaml(text: str) -> Any:
    """The text as JSON values; moments and dates become ISO text, NaN and infinities None. Raises YamlRefused."""
    if len(text) > MAX_TEXT:
        raise YamlRefused(f"it is longer than {MAX_TEXT} characters")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        raise YamlRefused(f"{where}{error.problem or error.context or 'it is not YAML'}") from None
    except yaml.YAMLError as error:
        raise YamlRefused(" ".join(str(error).split())[:200]) from None
    except RecursionError:
        raise YamlRefused(f"it is nested more than {MAX_DEPTH} deep") from None
    except (ValueError, OverflowError, TypeError) as error:
        # Dates such as 2024-13-45 and keys that cannot be keys.
        raise YamlRefused(f"a value is out of range: {error}") from None
    return _plain(value, 0, [MAX_VALUES])


def _plain(value: Any, depth: int, left: list[int]) -> Any:
    left[0] -= 1
    if left[0] < 0:
        raise YamlRefused(f"it has more than {MAX_VALUES} values")
    if depth > MAX_DEPTH:
        raise YamlRefused(f"it is nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        return {str(key): _plain(item, depth + 1, left) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item, depth + 1, left) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bool | int) or value is None:
        return value if not isinstance(value, int) or abs(value) < 1 << 63 else str(value)
    if isinstance(value, str):
        # PostgreSQL's JSON cannot hold it.
        return value.replace("\0", "")
    if isinstance(value, date | datetime):
        return value.isoformat()
    raise YamlRefused(f"a value of type {type(value).__name__} is not taken")
