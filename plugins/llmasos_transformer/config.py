"""Reading a Hugging Face ``config.json`` that may say anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from llmasos.api import WeightsError

#: No real model has a size above this; larger ones are typing errors or attacks, and products of them overflow.
_LARGEST = 2**28

_REQUIRED: Any = object()


class ConfigReader:
    """Typed look-ups in a configuration. A JSON null counts as absent, as it does in transformers."""

    def __init__(self, config: Mapping[str, Any], family: str) -> None:
        self._config = config
        self._family = family

    def _raw(self, key: str, default: Any) -> Any:
        value = self._config.get(key)
        if value is not None:
            return value
        if default is _REQUIRED:
            raise WeightsError(
                f"the configuration of this {self._family} model has no {key!r}",
                hint="config.json is incomplete: get the one published with the weights",
            )
        return default

    def refuse(self, key: str, why: str) -> WeightsError:
        """The error for a value that is well-formed but means something this model cannot do."""
        return WeightsError(f"{key} = {self._config.get(key)!r} in the configuration: {why}")

    def _malformed(self, key: str, value: Any, wanted: str) -> WeightsError:
        shown = repr(value)
        return WeightsError(
            f"{key} = {shown[:60]} in the configuration of this {self._family} model: expected {wanted}",
            hint="config.json is damaged or belongs to another kind of model",
        )

    def size(self, key: str, default: int | None = _REQUIRED) -> int:
        """A positive whole number."""
        value = self._raw(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _LARGEST:
            raise self._malformed(key, value, f"a whole number from 1 to {_LARGEST}")
        return value

    def number(self, key: str, default: float = _REQUIRED) -> float:
        """A positive finite number."""
        value = self._raw(key, default)
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not math.isfinite(value)
            or value <= 0
        ):
            raise self._malformed(key, value, "a positive number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self._raw(key, default)
        if not isinstance(value, bool):
            raise self._malformed(key, value, "true or false")
        return value

    def word(self, key: str, default: str = _REQUIRED) -> str:
        """A string."""
        value = self._raw(key, default)
        if not isinstance(value, str):
            raise self._malformed(key, value, "a string")
        return value

    def words(self, key: str) -> tuple[str, ...]:
        """A list of strings; absent means empty."""
        value = self._raw(key, [])
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise self._malformed(key, value, "a list of strings")
        return tuple(value)

    def table(self, key: str) -> ConfigReader | None:
        """A nested object, or None when absent."""
        value = self._raw(key, None)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self._malformed(key, value, "an object")
        return ConfigReader(value, self._family)

    def has(self, key: str) -> bool:
        """Whether the key is there and not null."""
        return self._config.get(key) is not None

    def entries(self, key: str) -> int:
        """Number of entries of a nested object or list; 0 when absent."""
        value = self._raw(key, ())
        if not isinstance(value, Mapping | list | tuple):
            raise self._malformed(key, value, "an object or a list")
        return len(value)
