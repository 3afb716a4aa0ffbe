"""Modules that task code imports and that LLMasOS answers itself.

Counted over the 668 Python files of the stock tasks: what is here is what those files import. ``datasets``, ``evaluate``
and ``lm_eval`` are always answered here, so that a task does the same with and without those packages; a name that is not
offered comes from the real package if that is installed. The others stand in only where the real package is missing.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any


class Context:
    """What stand-ins share within one task: filters its code registers, and whether model-written code may run."""

    def __init__(self, task: str, *, execution: bool) -> None:
        self.task = task
        self.execution = execution
        self.filters: dict[str, Any] = {}
        self.modules: dict[str, ModuleType] = {}


class StandIn(ModuleType):
    """A module of ours under another's name; names it lacks come from the real one, if there is one."""

    def __getattr__(self, name: str) -> Any:
        if (
            not name.startswith("__")
            and importlib.util.find_spec(self.__name__.partition(".")[0]) is not None
        ):
            with contextlib.suppress(ImportError, AttributeError):
                return getattr(importlib.import_module(self.__name__), name)
            with contextlib.suppress(ImportError):
                return importlib.import_module(f"{self.__name__}.{name}")
        raise AttributeError(f"{self.__name__}.{name} needs the package {self.__name__.partition('.')[0]}")


def _harness(name: str) -> Callable[[Context], Mapping[str, Any]]:
    def names(context: Context) -> Mapping[str, Any]:
        from llmasos_evals.tasks.standins import harness

        made: Mapping[str, Any] = getattr(harness, name)(context)
        return made

    return names


def _datasets(context: Context) -> Mapping[str, Any]:
    from llmasos_evals.tasks.standins import tables

    return tables.offered(context)


def _evaluate(context: Context) -> Mapping[str, Any]:
    from llmasos_evals.tasks.standins import scripts

    return scripts.offered(context)


def _rouge_scoring(context: Context) -> Mapping[str, Any]:
    if importlib.util.find_spec("rouge_score") is None:
        return {}
    from llmasos_evals.metrics.rouge import FastBootstrapAggregator

    return {"BootstrapAggregator": FastBootstrapAggregator}


def _squad(context: Context) -> Mapping[str, Any]:
    from llmasos_evals.tasks.standins import answers

    return {name: getattr(answers, name) for name in answers.__all__}


def _scores(context: Context) -> Mapping[str, Any]:
    from llmasos_evals.tasks.standins import scores

    return {name: getattr(scores, name) for name in scores.__all__}


def _assignment(context: Context) -> Mapping[str, Any]:
    from llmasos_evals.tasks.standins import assignment

    return {"linear_sum_assignment": assignment.linear_sum_assignment}


def _nothing(context: Context) -> Mapping[str, Any]:
    return {}


#: Always answered here.
OWN: dict[str, Callable[[Context], Mapping[str, Any]]] = {
    "datasets": _datasets,
    "evaluate": _evaluate,
    "lm_eval": _nothing,
    "lm_eval.utils": _harness("utilities"),
    "lm_eval.api": _nothing,
    "lm_eval.api.filter": _harness("filter_base"),
    "lm_eval.api.metrics": _harness("metrics"),
    "lm_eval.api.registry": _harness("registry"),
    "lm_eval.filters": _nothing,
    "lm_eval.filters.extraction": _harness("extraction"),
    "rouge_score": _nothing,
    "rouge_score.scoring": _rouge_scoring,
    "transformers": _nothing,
    "transformers.data": _nothing,
    "transformers.data.metrics": _nothing,
    "transformers.data.metrics.squad_metrics": _squad,
}
#: Answered here only where the package is not installed.
SPARE: dict[str, Callable[[Context], Mapping[str, Any]]] = {
    "sklearn": _nothing,
    "sklearn.metrics": _scores,
    "scipy": _nothing,
    "scipy.optimize": _assignment,
}


def stand_in(name: str, context: Context) -> ModuleType | None:
    """The stand-in for a module, or None when there is none or the real one is to be used."""
    if name in context.modules:
        return context.modules[name]
    top = name.partition(".")[0]
    if name in OWN:
        offered = OWN[name](context)
    elif name in SPARE and importlib.util.find_spec(top) is None:
        offered = SPARE[name](context)
    else:
        return None
    module = StandIn(name)
    module.__dict__.update(offered)
    context.modules[name] = module
    outer, _, last = name.rpartition(".")
    if outer:
        package = stand_in(outer, context)
        if package is not None:
            setattr(package, last, module)
    for inner in (other for other in (*OWN, *SPARE) if other.rpartition(".")[0] == name):
        stand_in(inner, context)  # `import sklearn` alone reaches `sklearn.metrics`
    return module
