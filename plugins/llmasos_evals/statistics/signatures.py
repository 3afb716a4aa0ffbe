"""From the signature of a score back to how its value is computed from the documents' items."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llmasos.api import HubAPI, LlmasosError
from llmasos_evals.metrics.corpus import CorpusAggregation
from llmasos_evals.statistics.aggregations import AGGREGATIONS

_KINDS = {"bleu": "BLEU", "chrf": "CHRF", "chrf++": "CHRF", "ter": "TER"}


def fields_of(signature: str) -> dict[str, str]:
    """``name|key:value|...`` as a mapping; the last of equal keys counts, as a task's aggregation stands behind the metric's."""
    pairs = (part.partition(":") for part in signature.split("|")[1:])
    return {key: value for key, colon, value in pairs if colon}


def aggregation_for(signature: str, hub: HubAPI) -> Any:
    """The aggregation of a score, or None where the signature does not say all: a task's own function, options of a plugin's.

    Raises MissingDependency when its library is not here.
    """
    fields = fields_of(signature)
    name = fields.get("agg", "")
    if name in _KINDS:
        return CorpusAggregation(name, _KINDS[name], **_corpus_options(name, fields))
    if name in AGGREGATIONS:
        return AGGREGATIONS[name]()
    return _of_metric(signature, name, hub)


def _of_metric(signature: str, name: str, hub: HubAPI) -> Any:
    """The aggregation of a metric of the catalogue, when it is used with its defaults: others may be in its options."""
    try:
        metric = hub.get("metric", signature.partition("|")[0])()
    except (LlmasosError, TypeError):
        return None
    if metric.signature != signature:
        return None
    found = getattr(metric, "aggregation", None)
    return found if found is not None and getattr(found, "name", None) == name else None


def _corpus_options(name: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """Options of the sacrebleu metric; without details in the signature they are its defaults."""
    options: dict[str, Any] = {}

    def take(key: str, option: str, read: Any) -> None:
        if key in fields:
            options[option] = read(fields[key])

    def yes(text: str) -> bool:
        return text == "yes"

    if name == "bleu":
        options["force"] = True
        take("case", "lowercase", lambda text: text == "lc")
        take("eff", "effective_order", yes)
        take("tok", "tokenize", str)
        take("order", "max_ngram_order", int)
        smooth = re.fullmatch(r"([a-z-]+)(?:\[([0-9.e+-]+)\])?", fields.get("smooth", "exp"))
        if smooth is not None:
            options["smooth_method"] = smooth.group(1)
            options["smooth_value"] = None if smooth.group(2) is None else float(smooth.group(2))
        return options
    if name == "ter":
        take("case", "case_sensitive", lambda text: text == "mixed")
        take("norm", "normalized", yes)
        take("punct", "no_punct", lambda text: text == "no")
        take("asian", "asian_support", yes)
        return options
    options["word_order"] = 2 if name == "chrf++" else 0
    take("case", "lowercase", lambda text: text == "lc")
    take("eff", "eps_smoothing", lambda text: text == "no")
    take("nc", "char_order", int)
    take("nw", "word_order", int)
    take("beta", "beta", int)
    take("space", "whitespace", yes)
    return options
