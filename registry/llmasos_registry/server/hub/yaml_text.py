"""YAML that strangers wrote, as plain JSON values: no tags, no aliases, bounded size and depth."""

from __future__ import annotations

import math
import re
from datetime import date, datetime, time
from typing import Any

import yaml

#: Characters of one YAML text. Front matter of a real card has a few hundred lines at most.
MAX_TEXT = 1 << 18
MAX_DEPTH = 32
#: Values in one text.
MAX_VALUES = 20_000
#: Characters of one number.
MAX_DIGITS = 200
_NUMBER = re.compile(rf"[-+]?[0-9][0-9a-fA-Fx_:.]{{{MAX_DIGITS},}}")


class YamlRefused(Exception):
    """The text is no YAML, or more than is taken. The message names the line where it can."""


#: libyaml where it is: Python alone takes ten seconds for what strangers may send, libyaml half of one.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_yaml(text: str) -> Any:
    """The text as JSON values; moments and dates become ISO text, NaN and infinities None. Raises YamlRefused."""
    if len(text) > MAX_TEXT:
        raise YamlRefused(f"it is longer than {MAX_TEXT} characters")
    try:
        _check_events(text)
        value = yaml.load(text, Loader=_LOADER)
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
    return plain_values(value)


def _line(event: yaml.Event) -> str:
    return "" if event.start_mark is None else f"line {event.start_mark.line + 1}: "


def plain_values(value: Any) -> Any:
    """What a parser of YAML or TOML made, as JSON values. Raises YamlRefused."""
    return _plain(value, 0, [MAX_VALUES])


def _check_events(text: str) -> None:
    """Refuse what would cost much before anything is built of it: ten lines of aliases make gigabytes of JSON."""
    depth = count = 0
    for event in yaml.parse(text, Loader=_LOADER):
        count += isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise YamlRefused(f"{_line(event)}aliases (`*name`) are not taken")
        if depth > MAX_DEPTH:
            raise YamlRefused(f"it is nested more than {MAX_DEPTH} deep")
        # Keys and values.
        if count > 2 * MAX_VALUES:
            raise YamlRefused(f"it has more than {MAX_VALUES} values")
        # `1:1:1:...` is a number to base 60, and takes quadratic time.
        if isinstance(event, yaml.ScalarEvent) and event.implicit[0] and _NUMBER.match(event.value):
            raise YamlRefused(f"{_line(event)}a number of more than {MAX_DIGITS} characters")


def _plain(value: Any, depth: int, left: list[int]) -> Any:
    left[0] -= 1
    if left[0] < 0:
        raise YamlRefused(f"it has more than {MAX_VALUES} values")
    if depth > MAX_DEPTH:
        raise YamlRefused(f"it is nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        return {_text(str(key)): _plain(item, depth + 1, left) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item, depth + 1, left) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bool | int) or value is None:
        return value if not isinstance(value, int) or abs(value) < 1 << 63 else str(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    raise YamlRefused(f"a value of type {type(value).__name__} is not taken")


def _text(text: str) -> str:
    """The text as it can be stored and sent: PostgreSQL's JSON has no NUL, and UTF-8 no half of a surrogate pair."""
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise YamlRefused("it has halves of surrogate pairs, which are no characters")
    return text.replace("\0", "")
