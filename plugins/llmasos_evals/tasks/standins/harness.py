"""The names of ``lm_eval`` that the code of stock tasks imports."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from llmasos_evals.tasks import filters
from llmasos_evals.tasks.standins import Context


class Filter:
    """Base of filter classes: ``apply`` gets the answers of each request and the documents, and gives as many back."""

    def __init__(self, **kwargs: Any) -> None:
        """Options of a step."""

    def apply(self, resps: Iterable[Any], docs: Sequence[Mapping[str, Any]]) -> Iterable[Any]:
        return resps


class _StepFilter(Filter):
    """A built-in step in the shape of a filter class."""

    step: Callable[..., filters.Step]

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._apply = type(self).step(**options)

    def apply(self, resps: Iterable[Any], docs: Sequence[Mapping[str, Any]]) -> Iterable[Any]:
        return [self._apply(answers, doc) for answers, doc in zip(resps, docs, strict=True)]


class RegexFilter(_StepFilter):
    """The step ``regex``; subclasses of task code read the attributes."""

    step = staticmethod(filters.regex)

    def __init__(
        self,
        regex_pattern: str = filters.NUMBER_PATTERN,
        group_select: int = 0,
        fallback: str = filters.INVALID,
        **options: Any,
    ) -> None:
        super().__init__(regex_pattern=regex_pattern, group_select=group_select, fallback=fallback, **options)
        self.regex_pattern = regex_pattern
        self.regex = re.compile(regex_pattern)
        self.group_select = group_select
        self.fallback = fallback


class MultiChoiceRegexFilter(RegexFilter):
    """The step ``multi_choice_regex``."""

    step = staticmethod(filters.multi_choice_regex)


class WhitespaceFilter(_StepFilter):
    """The step ``remove_whitespace``."""

    step = staticmethod(filters.remove_whitespace)


class POSFilter(_StepFilter):
    """The step ``regex_pos``."""

    step = staticmethod(filters.regex_pos)


def filter_base(context: Context) -> Mapping[str, Any]:
    """``lm_eval.api.filter``"""
    return {"Filter": Filter}


def extraction(context: Context) -> Mapping[str, Any]:
    """``lm_eval.filters.extraction``"""
    classes = (Filter, RegexFilter, MultiChoiceRegexFilter, WhitespaceFilter, POSFilter)
    return {made.__name__: made for made in classes} | {"register_filter": _registering(context)}


def registry(context: Context) -> Mapping[str, Any]:
    """``lm_eval.api.registry``"""
    return {"register_filter": _registering(context)}


def _registering(context: Context) -> Callable[[str], Callable[[type], type]]:
    def register_filter(name: str) -> Callable[[type], type]:
        def keep(made: type) -> type:
            context.filters[name] = made
            return made

        return keep

    return register_filter


def metrics(context: Context) -> Mapping[str, Any]:
    """``lm_eval.api.metrics``"""

    def mean(arr: Sequence[float]) -> float:
        return sum(arr) / len(arr)

    def metric_max_over_ground_truths(
        metric_fn: Callable[[Any, Any], float], prediction: Any, ground_truths: Iterable[Any]
    ) -> float:
        return max(metric_fn(prediction, truth) for truth in ground_truths)

    return {"mean": mean, "metric_max_over_ground_truths": metric_max_over_ground_truths}


def utilities(context: Context) -> Mapping[str, Any]:
    """``lm_eval.utils``"""
    from llmasos_evals.tasks.standins.scores import f1_score

    def weighted_f1_score(items: Iterable[tuple[Any, Any]]) -> float:
        """F1 of each class of (right, predicted) pairs, weighted by how often the class is right."""
        right, predicted = zip(*items, strict=True)
        return float(f1_score(right, predicted, average="weighted"))

    def general_detokenize(string: str) -> str:
        """Words and punctuation put together again, where a tokeniser for English took them apart."""
        for apart, together in ((" n't", "n't"), (" )", ")"), ("( ", "("), ('" ', '"'), (' "', '"')):
            string = string.replace(apart, together)
        return re.sub(r" (['.,])", r"\1", string)

    return {"general_detokenize": general_detokenize, "weighted_f1_score": weighted_f1_score}
