"""``--engine lm-eval``: lm-evaluation-harness itself evaluates one of our models, as an oracle for the other engines.

Task look-up, prompts, encoding, filters, metrics and standard errors are the harness's (``simple_evaluate``); the model
answers through ``HubLM``. The result is written in the harness's own formats, so that every tool for it reads it; it is no
record that could be verified here, and says so.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmasos.api import (
    EvalRequest,
    EvalResult,
    EvaluationError,
    HubAPI,
    InputError,
    LlmasosError,
    Progress,
    UnknownName,
    UsageError,
    canonical_digest,
)
from llmasos_lmeval.package import quiet, version

SCHEMA = "llmasos-oracle/1"
#: The oracle's summary in the output folder; the harness's own files lie beside it.
SUMMARY = "oracle.json"
#: Settings of a request that have no meaning for the harness, and the value that asks for nothing.
_OURS: dict[str, Any] = {
    "workers": 1,
    "ray": None,
    "cache": False,
    "batch_invariant": False,
    "token_budget": None,
    "stride": None,
    "samples": None,
    "interval": None,
    "cluster_column": None,
}


class LmEvalEvaluator:
    """The evaluator ``lm-eval``."""

    def evaluate(self, request: EvalRequest, hub: HubAPI, progress: Progress) -> EvalResult:
        """Run the tasks through the harness and write what it says.

        Raises MissingDependency without the package, UsageError for options that only our engines have, UnknownName for a
        task the harness does not know, EvaluationError when it fails.
        """
        found = version()
        for option, neutral in _OURS.items():
            if getattr(request, option) != neutral:
                raise UsageError(f"{option} means nothing to the engine lm-eval", hint="leave it out")
        if isinstance(request.limit, str):
            raise UsageError("--limit auto means nothing to the engine lm-eval", hint="give a number")
        folder = Path(request.output) if request.output else _folder(request, hub)
        folder.mkdir(parents=True, exist_ok=True)
        progress.phase(f"loading {request.model}")
        loaded = hub.load_model(
            request.model, device=request.device, dtype=request.dtype, allow_pickle=request.allow_pickle
        )
        started = time.perf_counter()
        with quiet():
            results = self._run(request, hub, progress, loaded)
        samples = results.pop("samples")
        for task, lines in samples.items():
            _write(folder / f"samples_{task.replace('/', '_')}.jsonl", "".join(map(_line, lines)))
        _write(folder / "results.json", json.dumps(results, indent=2, default=str))
        facts = loaded.facts
        summary: dict[str, Any] = {
            "schema": SCHEMA,
            "engine": f"lm-eval {found}",
            "note": "computed by lm-evaluation-harness with this model; not a record: it cannot be verified or published",
            "model": {
                **{key: facts[key] for key in ("ref", "source", "revision", "dtype", "device", "backend")},
                "files": dict(facts["files"]),
                "digest": canonical_digest(facts["files"]),
            },
            "tokenizer": loaded.tokenizer.digest(),
            "settings": {
                "limit": request.limit,
                "num_fewshot": request.num_fewshot,
                "seed": request.seed,
                "bootstrap": request.bootstrap,
                "apply_chat_template": request.apply_chat_template,
                "system_instruction": request.system_instruction,
                "fewshot_as_multiturn": _multiturn(request),
            },
            "plugins": list(hub.provenance()["plugins"]),
            "tasks": [_task(name, results) for name in samples],
            "groups": list(_groups(results)),
            "seconds": round(time.perf_counter() - started, 3),
        }
        # Names the result, as a record's digest does; how long it took is no part of it.
        summary["digest"] = canonical_digest(
            json.loads(json.dumps({key: summary[key] for key in summary if key != "seconds"}, default=str))
        )
        _write(folder / SUMMARY, json.dumps(summary, indent=2, default=str))
        return EvalResult(summary, folder)

    def _run(self, request: EvalRequest, hub: HubAPI, progress: Progress, loaded: Any) -> dict[str, Any]:
        import lm_eval
        from lm_eval.tasks import TaskManager

        from llmasos_lmeval.model import HubLM

        progress.phase("reading the task files of lm-evaluation-harness")
        manager = TaskManager(include_path=[str(path) for path in request.include] or None)
        for name in request.tasks:
            if name not in manager.all_tasks and not Path(name).is_file():
                raise UnknownName(
                    f"lm-evaluation-harness knows no task named {name!r}",
                    hint="tasks of plugins and suites run with the engine tree",
                )
        model = HubLM(loaded, hub, batch_size=request.batch_size, seed=request.seed, progress=progress)
        progress.phase("scoring with lm-evaluation-harness")
        try:
            found = lm_eval.simple_evaluate(
                model=model,
                tasks=list(request.tasks),
                task_manager=manager,
                num_fewshot=request.num_fewshot,
                limit=request.limit,
                bootstrap_iters=request.bootstrap,
                fewshot_random_seed=request.seed,
                apply_chat_template=request.apply_chat_template,
                system_instruction=request.system_instruction,
                fewshot_as_multiturn=_multiturn(request),
                gen_kwargs=dict(request.gen_kwargs) or None,
                confirm_run_unsafe_code=False,
                log_samples=True,
            )
        except LlmasosError:
            raise
        except (FileNotFoundError, ConnectionError) as error:
            raise InputError(
                f"lm-evaluation-harness found no data: {error}", hint="see docs/how-to/use-lm-eval-tasks.md"
            ) from error
        except Exception as error:
            raise EvaluationError(f"lm-evaluation-harness failed: {type(error).__name__}: {error}") from error
        return dict(found)


def _multiturn(request: EvalRequest) -> bool:
    return bool(request.apply_chat_template) and request.fewshot_as_multiturn is not False


def _folder(request: EvalRequest, hub: HubAPI) -> Path:
    key = canonical_digest({name: str(getattr(request, name)) for name in request.__dataclass_fields__})
    return hub.cache_dir / "evals" / f"lm-eval-{key[:16]}"


def _task(name: str, results: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "alias": results["results"][name].get("alias", name),
        "version": str(results["versions"].get(name)),
        "num_fewshot": results["n-shot"].get(name, 0),
        "documents": results["n-samples"][name]["original"],
        "scores": list(_scores(name, results)),
    }


def _groups(results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, members in results.get("group_subtasks", {}).items():
        yield {
            "name": name,
            "alias": results["results"].get(name, {}).get("alias", name),
            "version": str(results["versions"].get(name)),
            "members": list(members),
            "scores": list(_scores(name, results)),
        }


def _scores(name: str, results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    values = results["results"].get(name, {})
    better = results.get("higher_is_better", {}).get(name, {})
    for key, value in values.items():
        metric, _, pipeline = key.partition(",")
        if not pipeline or metric.endswith("_stderr"):
            continue
        stderr = values.get(f"{metric}_stderr,{pipeline}")
        yield {
            "metric": metric,
            "filter": pipeline,
            "value": float(value),
            "stderr": float(stderr) if isinstance(stderr, int | float) else None,
            "n": values.get("sample_len", values.get("sample_count", 0)),
            "higher_is_better": better.get(metric),
        }


def _line(sample: Mapping[str, Any]) -> str:
    return json.dumps(sample, ensure_ascii=False, default=str) + "\n"


def _write(path: Path, text: str) -> None:
    """The whole file or the old one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text if text.endswith("\n") or not text else text + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
