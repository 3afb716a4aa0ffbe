"""A task object of lm-evaluation-harness behind the contract ``TaskProgram``: its prompts, its filters, its metrics."""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmasos.api import EvaluationError, InputError, ProgramDocument, ProgramSettings, Request, Response
from llmasos_lmeval.package import quiet, version


class ClassTask:
    """``task`` is an ``lm_eval.api.task.Task``; ``file`` the YAML file that names its class."""

    def __init__(self, task: Any, name: str, file: Path, *, num_fewshot: int | None = None) -> None:
        self.task, self.name = task, name
        self.version = str(getattr(task, "VERSION", "unversioned"))
        own = task.get_config("num_fewshot")
        self.num_fewshot = int(num_fewshot if num_fewshot is not None else own or 0)
        self.code = _code(task, file)
        self.origin: Mapping[str, str | None] = {
            "kind": "lm-eval",
            "name": task.DATASET_PATH,
            "config": task.DATASET_NAME,
            "revision": None,
            "split": "test" if task.has_test_docs() else "validation",
            "fewshot_split": "train" if task.has_training_docs() else None,
        }
        self._instances: dict[int, list[Any]] = {}
        self._filters: tuple[Any, ...] = tuple(task._filters)

    @functools.cached_property
    def _documents(self) -> Sequence[Mapping[str, Any]]:
        with quiet():
            return list(self.task.eval_docs)

    def documents(self) -> Sequence[Mapping[str, Any]]:
        return self._documents

    def pool(self) -> Sequence[Mapping[str, Any]]:
        with quiet():
            found = self.task.fewshot_docs()
            return list(found) if found is not None else []

    # ---- prompts ------------------------------------------------------------------------------------------------------

    def plan(self, settings: ProgramSettings, count: int) -> Iterator[ProgramDocument]:
        """Requests as one process of the harness builds them. Raises InputError when its code fails."""
        self._build(settings, count)
        for index, instances in sorted(self._instances.items()):
            doc = instances[0].doc
            yield ProgramDocument(
                index, doc, self._target(doc), tuple(_requests(self.name, index, instances))
            )

    def _build(self, settings: ProgramSettings, count: int) -> None:
        template = None if settings.render is None else _as_template(settings.render)
        self.task.set_config("num_fewshot", settings.shots)
        self.task.set_fewshot_seed(seed=settings.seed)
        try:
            with quiet():
                self.task.build_all_requests(
                    limit=count,
                    rank=0,
                    world_size=1,
                    system_instruction=settings.system_instruction,
                    apply_chat_template=template is not None,
                    fewshot_as_multiturn=settings.multiturn,
                    chat_template=template,
                )
        except Exception as error:
            raise InputError(
                f"task {self.name} makes no prompts: {type(error).__name__}: {error}",
                hint="the code is the task's own",
            ) from error
        self._instances = {}
        for instance in self.task.instances:
            self._instances.setdefault(instance.doc_id, []).append(instance)
        for instances in self._instances.values():
            instances.sort(key=lambda instance: instance.idx)  # stable, as in the harness

    def _target(self, doc: Mapping[str, Any]) -> Any:
        try:
            return self.task.doc_to_target(doc)
        except Exception:  # for the record only; what is scored is the task's business
            return None

    # ---- answers ------------------------------------------------------------------------------------------------------

    def items(
        self, document: ProgramDocument, responses: Sequence[Response]
    ) -> Mapping[tuple[str, str], Any]:
        """The task's filters and ``process_results`` on the answers. Raises EvaluationError when its code fails."""
        instances = self._instances.get(document.index)
        if instances is None:
            raise EvaluationError(f"task {self.name}: document {document.index} was not planned")
        answers = iter(responses)
        for instance in instances:
            instance.resps = [
                _answer(instance.request_type, next(answers)) for _ in range(_repeats(instance))
            ]
            instance.filtered_resps = {}
        out: dict[tuple[str, str], Any] = {}
        try:
            for pipeline in self._filters:
                pipeline.apply(instances)
            for name in instances[0].filtered_resps:
                results = [instance.filtered_resps[name] for instance in instances]
                for metric, value in self.task.process_results(instances[0].doc, results).items():
                    out[metric, name] = value
        except Exception as error:
            raise EvaluationError(
                f"task {self.name}: document {document.index} cannot be counted: {type(error).__name__}: {error}"
            ) from error
        return out

    # ---- metrics ------------------------------------------------------------------------------------------------------

    def _function(self, metric: str) -> Callable[[Sequence[Any]], Any]:
        """The task's aggregation of a metric; without one it is the mean, as in the harness."""
        from lm_eval.api.metrics import mean

        return self.task.aggregation().get(metric, mean)

    def value(self, metric: str, items: Sequence[Any]) -> float:
        try:
            with quiet():
                return float(self._function(metric)(list(items)))
        except Exception as error:
            raise EvaluationError(
                f"task {self.name}: metric {metric} cannot be computed: {type(error).__name__}: {error}",
                hint="metrics of the `evaluate` hub must be in its cache when HF_HUB_OFFLINE is set",
            ) from error

    def stderr(self, metric: str, items: Sequence[Any], bootstrap: int) -> float | None:
        """The harness's own standard error, None where it has none."""
        from lm_eval.api.metrics import stderr_for_metric

        replicates = min(bootstrap, 100) if metric in ("bleu", "chrf", "chrf++", "ter") else bootstrap
        function = stderr_for_metric(self._function(metric), replicates)
        if function is None or len(items) < 2:
            return None
        with quiet():
            return float(function(list(items)))

    def aggregation(self, metric: str) -> str:
        from lm_eval.api.metrics import mean

        function = self._function(metric)
        if function is mean:
            return "mean"
        inner = function.func if isinstance(function, functools.partial) else function
        name = getattr(inner, "__name__", type(inner).__name__)
        # numpy's mean of numbers is the mean.
        return "mean" if (getattr(inner, "__module__", ""), name) == ("numpy", "mean") else f"function:{name}"

    def higher_is_better(self, metric: str) -> bool:
        return bool(self.task.higher_is_better().get(metric, True))


def _as_template(render: Callable[[Sequence[Mapping[str, str]], bool], str]) -> Callable[..., str]:
    """Our rendering under the signature of ``LM.apply_chat_template``."""

    def template(messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        return render(messages, not add_generation_prompt)

    return template


def _repeats(instance: Any) -> int:
    return int(instance.repeats or 1)


def _requests(task: str, index: int, instances: Sequence[Any]) -> Iterator[Request]:
    """One request an instance and repetition, numbered within the document."""
    number = 0
    for instance in instances:
        for _ in range(_repeats(instance)):
            key, arguments = (task, index, number), instance.args
            if instance.request_type == "generate_until":
                yield Request("generate_until", key, arguments[0], options=dict(arguments[1]))
            elif instance.request_type == "loglikelihood":
                yield Request("loglikelihood", key, arguments[0], arguments[1])
            elif instance.request_type == "loglikelihood_rolling":
                yield Request("loglikelihood_rolling", key, arguments[0])
            else:
                raise InputError(f"task {task} asks for {instance.request_type}, which no model here can do")
            number += 1


def _answer(kind: str, response: Response) -> Any:
    if kind == "generate_until":
        return response.text
    if kind == "loglikelihood_rolling":
        return response.logprob
    return (response.logprob, response.is_greedy)


def _code(task: Any, file: Path) -> dict[str, str]:
    """Digests of the task file, of the files of its classes beside it, and the version of the package for the rest."""
    files = {file}
    for kind in type(task).__mro__:
        source = getattr(sys.modules.get(kind.__module__), "__file__", None)
        if source is not None and file.parent in Path(source).parents:
            files.add(Path(source))
    found = {
        os.path.relpath(path, file.parent): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }
    package = hashlib.sha256(f"lm_eval=={version()}".encode()).hexdigest()
    return {**dict(sorted(found.items())), "lm_eval": package}
