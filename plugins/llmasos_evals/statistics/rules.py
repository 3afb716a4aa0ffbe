"""The rules of a gate, as people write them: ``arc_easy.acc>=-0.5pp@p<0.05``.

    TASK.METRIC[,FILTER] >= BOUND [@p<ALPHA]

TASK is the name of a task or group, or a pattern with ``*``. BOUND is a value (``0.6``), a change from the baseline in
percentage points (``-0.5pp``) or in per cent of the baseline's value (``+1%``). ``<=`` is for metrics of which less is better.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmasos.api import InputError, UsageError

#: A file of rules has no business being larger.
MAX_FILE = 1 << 20
MAX_RULES = 10_000

_RULE = re.compile(
    r"""(?P<task>[^\s,<>=]+)\.(?P<metric>[^\s.,<>=]+)(?:,(?P<filter>[^\s<>=]+))?
    \s*(?P<relation>>=|<=)\s*
    (?P<value>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(?P<unit>pp|%)?
    (?:\s*@\s*p\s*<\s*(?P<alpha>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?))?""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. ``unit`` empty: ``value`` is the bound itself; otherwise it is a change from the baseline."""

    text: str
    task: str
    metric: str
    filter: str | None
    relation: Literal[">=", "<="]
    value: float
    unit: Literal["", "pp", "%"]
    alpha: float | None

    @property
    def is_relative(self) -> bool:
        """Whether it needs a baseline."""
        return self.unit != ""


def parse_rule(text: str) -> Rule:
    """Raises UsageError saying what is wrong with a rule."""
    found = _RULE.fullmatch(text.strip())
    if found is None:
        raise UsageError(
            f"cannot read the rule {text.strip()[:200]!r}",
            hint="TASK.METRIC[,FILTER]>=BOUND[@p<ALPHA], for example arc_easy.acc>=-0.5pp@p<0.05",
        )
    parts = found.groupdict()
    unit = parts["unit"] or ""
    if unit and parts["value"][0] not in "+-" and float(parts["value"]) != 0:
        raise UsageError(
            f"the rule {text.strip()!r} does not say in which direction",
            hint=f"+{parts['value']}{unit} or -{parts['value']}{unit}: a change from the baseline has a sign",
        )
    alpha = None if parts["alpha"] is None else float(parts["alpha"])
    if alpha is not None and not 0 < alpha < 1:
        raise UsageError(
            f"the rule {text.strip()!r} has a level that is no probability", hint="for example @p<0.05"
        )
    value = float(parts["value"])
    if not math.isfinite(value):
        raise UsageError(f"the rule {text.strip()!r} has no finite bound")
    return Rule(
        text.strip(), parts["task"], parts["metric"], parts["filter"], parts["relation"], value, unit, alpha  # type: ignore[arg-type]
    )  # fmt: skip


def read_rules(texts: Sequence[str], files: Sequence[Path] = ()) -> list[Rule]:
    """Rules as given, then those of files: one a line, ``#`` begins a comment. Raises UsageError and InputError."""
    rules = [parse_rule(text) for text in texts]
    for path in files:
        for number, line in _lines(path):
            try:
                rules.append(parse_rule(line))
            except UsageError as error:
                raise InputError(f"{path}, line {number}: {error.message}", hint=error.hint) from None
            if len(rules) > MAX_RULES:
                raise InputError(f"{path}: more than {MAX_RULES} rules")
    if not rules:
        raise UsageError(
            "a gate without a rule lets everything pass", hint="--rule 'arc_easy.acc>=-0.5pp@p<0.05'"
        )
    return rules


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE + 1)
        text = data.decode("utf-8")
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror or error}",
            hint="--rules names a file with a rule a line; --rule 'arc_easy.acc>=0.4' is a rule itself",
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text") from None
    if len(data) > MAX_FILE:
        raise InputError(f"{path} has more than {MAX_FILE} bytes")
    for number, line in enumerate(text.splitlines(), start=1):
        rule = line.partition("#")[0].strip()
        if rule:
            yield number, rule
