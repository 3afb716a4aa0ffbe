"""pass@k: does one of k programs written by the model pass the tests? Chen et al. 2021, "Evaluating Large Language Models
Trained on Code". Programs run in ``sandbox``, and only with --allow-code-execution.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llmasos.api import EvaluationError, GenerationOutcome, InputError, Outcome
from llmasos_evals.metrics.base import AggregatedMetric
from llmasos_evals.metrics.sandbox import Execution, Limits, require_permission, run_programs

_FENCE = re.compile(r"```[\w+-]*\n?(.*?)(?:```|\Z)", re.DOTALL)

#: More samples than this a document are a mistake.
MAX_K = 10_000


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Probability that one of ``k`` of ``samples`` programs, drawn without replacement, is among the ``right`` ones.

    The unbiased estimator of Chen et al., 1 - C(n - c, k) / C(n, k), as a product that cannot overflow.
    """
    if samples - right < k:
        return 1.0
    missed = 1.0
    for number in range(samples - right + 1, samples + 1):
        missed *= 1.0 - k / number
    return 1.0 - missed


def first_fenced(text: str) -> str:
    """The inside of the first ``` block, or the whole text without one."""
    found = _FENCE.search(text)
    return found.group(1) if found else text


class PassAtK(AggregatedMetric):
    """pass@k for each ``k``; the reference is the test code, the prediction one program or a list of them.

    ``prefix`` names a document field that goes before each answer (the prompt that the model continues), ``fenced`` takes
    the first ``` block of an answer. ``timeout`` in seconds, ``memory`` in MiB. Equal programs of a document run once.
    """

    name = "pass_at_k"
    #: The binding asks the user's permission by this and then sets ``permitted``.
    runs_programs = True

    def __init__(
        self,
        k: int | Sequence[int] = 1,
        timeout: float = 3.0,
        memory: int = 1024,
        prefix: str | None = None,
        fenced: bool = False,
        **idle: Any,
    ) -> None:
        super().__init__(**idle)
        self.ks = tuple(sorted({k} if isinstance(k, int) else set(k)))
        if not self.ks or not all(isinstance(n, int) and 1 <= n <= MAX_K for n in self.ks):
            raise InputError(f"pass_at_k: k must be a positive number or a list of them, not {k!r}")
        if not 0 < timeout <= 600 or not 64 <= memory <= 1 << 20:
            raise InputError("pass_at_k: timeout must be at most 600 seconds, memory at least 64 MiB")
        self.limits = Limits(seconds=float(timeout), memory=int(memory) << 20)
        self.prefix, self.fenced = prefix, bool(fenced)
        self.permitted = False

    def details(self) -> Mapping[str, str]:
        return {
            "k": ",".join(map(str, self.ks)),
            "est": "unbiased",
            "timeout": f"{self.limits.seconds:g}",
            "memory": str(self.limits.memory >> 20),
            "prefix": self.prefix or "none",
            "fenced": "yes" if self.fenced else "no",
        }

    def item(self, outcome: Outcome) -> Any:
        """pass@k of one document by name, ``pass@1`` and so on."""
        if not isinstance(outcome, GenerationOutcome):
            raise self.cannot_score(outcome)
        require_permission(self.permitted, f"metric {self.name}")
        if not outcome.references:
            raise EvaluationError(f"{self.name}: a document has no tests")
        answers = outcome.prediction if isinstance(outcome.prediction, list) else [outcome.prediction]
        if len(answers) < max(self.ks):
            raise EvaluationError(
                f"pass@{max(self.ks)} needs as many answers a document, there are {len(answers)}",
                hint="set `repeats` in the task file, and a filter that keeps them all",
            )
        programs = [self.program(str(answer), outcome) for answer in answers]
        ended = self.run(programs)
        right = sum(execution.passed for execution in ended)
        return {f"pass@{k}": pass_at_k(len(programs), right, k) for k in self.ks}

    def program(self, answer: str, outcome: GenerationOutcome) -> str:
        """The answer with what goes before it and the tests after it."""
        if self.fenced:
            answer = first_fenced(answer)
        if self.prefix is not None:
            if self.prefix not in outcome.doc:
                raise EvaluationError(f"{self.name}: a document has no field {self.prefix!r}")
            answer = f"{outcome.doc[self.prefix]}{answer}"
        return "\n".join([answer, *outcome.references])

    def run(self, programs: Sequence[str]) -> list[Execution]:
        """Each program's end, equal ones run once; as many at a time as there are processors, at most four."""
        distinct = list(dict.fromkeys(programs))
        ended = run_programs(distinct, self.limits, workers=min(4, os.cpu_count() or 1))
        by_source = dict(zip(distinct, ended, strict=True))
        return [by_source[program] for program in programs]

    def part(self, name: str) -> AggregatedMetric | None:
        """The metric of one value that ``item`` gives."""
        for k in self.ks:
            if name == f"pass@{k}":
                return PassAtOneK(k, self)
        return None


class PassAtOneK(AggregatedMetric):
    """One of the values of a PassAtK."""

    def __init__(self, k: int, whole: PassAtK) -> None:
        self.name = f"pass@{k}"
        self.whole = whole
        super().__init__()

    def details(self) -> Mapping[str, str]:
        return {key: value for key, value in self.whole.details().items() if key != "k"}


class CodeEval:
    """Takes the place of ``evaluate.load("code_eval")`` for task code: the same call and results, in the sandbox.

    Task files with ``unsafe_code: true`` use it. Without permission every call is refused.
    """

    def __init__(self, *, permitted: bool, what: str = "code_eval") -> None:
        self.permitted, self.what = permitted, what

    def compute(
        self,
        *,
        references: Sequence[str],
        predictions: Sequence[Sequence[str]],
        k: Sequence[int] = (1, 10, 100),
        num_workers: int = 4,
        timeout: float = 3.0,
    ) -> tuple[dict[str, float], dict[int, list[tuple[int, dict[str, Any]]]]]:
        """``({"pass@1": ...}, {task: [(candidate, {task_id, passed, result, completion_id}), ...]})``.

        As in Hugging Face's, a ``k`` above the candidates of some task is left out. Raises UsageError without permission.
        """
        require_permission(self.permitted, self.what)
        programs = [
            f"{candidate}\n{test}"
            for candidates, test in zip(predictions, references, strict=True)
            for candidate in candidates
        ]
        workers = max(1, min(int(num_workers), os.cpu_count() or 1))
        ended = iter(run_programs(programs, Limits(seconds=float(timeout)), workers=workers))
        results: dict[int, list[tuple[int, dict[str, Any]]]] = {}
        for task, candidates in enumerate(predictions):
            results[task] = [
                (number, _described(task, number, next(ended))) for number in range(len(candidates))
            ]
        counts = [(len(found), sum(end["passed"] for _, end in found)) for found in results.values()]
        values = {
            f"pass@{each}": sum(pass_at_k(total, right, each) for total, right in counts) / len(counts)
            for each in k
            if counts and all(total >= each for total, _ in counts)
        }
        return values, results


def _described(task: int, number: int, ended: Execution) -> dict[str, Any]:
    words = {"passed": "passed", "timed out": "timed out"}
    result = words.get(ended.status, f"failed: {ended.message}")
    return {"task_id": task, "passed": ended.passed, "result": result, "completion_id": number}
