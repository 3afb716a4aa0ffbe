"""The page: one HTML text with its styles and scripts in it, which asks nothing of any network.

The same page shows samples that are embedded in it (``write_page``) or that the local server gives it (``server.py``).
What strangers wrote is only ever shown as text.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import IO, Any

from llmasos.api import InputError, Progress
from llmasos_evals.records.presentation import bounds
from llmasos_evals.records.reading import Run
from llmasos_evals.records.standing import Standing
from llmasos_evals.view.columns import columns_of

#: Looks at all samples and says in what they are not those of their records.
Check = Callable[[], Sequence[str]]
#: Documents that travel together, embedded or served.
BLOCK = 100
#: The page's scripts, in the order they build on each other.
SCRIPTS = ("sources", "charts", "samples", "table", "main")


def summary(
    runs: Sequence[Run], standings: Sequence[Standing], comparison: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """What the page shows before any sample is read: from the records alone.

    ``standings`` say how far each run is verified, ``comparison`` has the rows that compare the two runs.
    """
    return {
        "block": BLOCK,
        "runs": [
            _run_summary(run, standing, number)
            for number, (run, standing) in enumerate(zip(runs, standings, strict=True))
        ],
        "comparison": list(comparison),
    }


def render(data: Mapping[str, Any], title: str) -> Iterator[str]:
    """The page up to where embedded samples may follow, then ``finish`` closes it."""
    assets = resources.files("llmasos_evals.view").joinpath("assets")

    def asset(name: str) -> str:
        return assets.joinpath(name).read_text(encoding="utf-8")

    scripts = "\n".join(asset(f"{name}.js") for name in SCRIPTS)
    yield (
        asset("view.html")
        .replace("{{title}}", html.escape(title))
        .replace("{{style}}", asset("view.css"))
        .replace("{{summary}}", as_script(data))
        .replace("{{script}}", f'(() => {{\n"use strict";\n{scripts}\n}})();')
    )


def as_script(value: Any) -> str:
    """JSON that may stand in a script element: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def title_of(runs: Sequence[Run]) -> str:
    """The models, side by side."""
    return " and ".join(dict.fromkeys(_model_name(run) for run in runs))


def write_page(
    runs: Sequence[Run], target: Path, shown: Mapping[str, Any], check: Check, progress: Progress
) -> int:
    """Write one HTML file with everything in it; returns its bytes. ``shown`` is the runs' ``summary``.

    Samples pass through one block at a time. What ``check`` finds is on the page, and a warning each.

    The file is complete or not there. Raises InputError when it cannot be written or a sample is damaged.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    total = sum(run.count(task) for run in runs for task in run.tasks if run.has_samples(task))
    progress.phase("reading samples", 2 * total)
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            for part in render({**shown, "embedded": True}, title_of(runs)):
                file.write(part)
            for number, run in enumerate(runs):
                for place, task in enumerate(run.tasks):
                    if run.has_samples(task):
                        _embed(file, run, number, place, task, progress)
            progress.phase("checking the samples")
            found = check()
            for line in found:
                progress.warn(line)
            _element(file, "doubts", found)
            file.write("</body>\n</html>\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror}", hint="choose another --output") from None
    finally:
        temporary.unlink(missing_ok=True)
    return target.stat().st_size


def _embed(file: IO[str], run: Run, number: int, place: int, task: str, progress: Progress) -> None:
    _element(file, f"columns-{number}-{place}", columns_of(run, task, progress.advance))
    for block, start in enumerate(range(0, run.count(task), BLOCK)):
        samples = list(run.samples(task, start, start + BLOCK))
        _element(file, f"block-{number}-{place}-{block}", samples)
        progress.advance(len(samples))


def _element(file: IO[str], name: str, value: Any) -> None:
    """Compressed JSON as text in an element that no browser runs or shows."""
    raw = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    packed = base64.b64encode(gzip.compress(raw, 6, mtime=0)).decode()
    file.write(f'<script type="application/gzip" id="{name}">{packed}</script>\n')


def _model_name(run: Run) -> str:
    return str(run.record["model"]["ref"])


def _run_summary(run: Run, standing: Standing, number: int) -> dict[str, Any]:
    record = run.record
    return {
        "name": _model_name(run),
        "label": "AB"[number] if number < 2 else str(number + 1),
        "digest": record["digest"],
        "state": standing.state,
        "remarks": list(standing.remarks),
        "facts": _facts(record),
        "tokenizer": {
            "adds_bos": bool((record.get("tokenizer") or {}).get("adds_bos")),
            "chat": bool((record.get("tokenizer") or {}).get("chat_template_applied")),
        },
        "tasks": [
            {
                "name": task["name"],
                "alias": task.get("alias") or task["name"],
                "version": task.get("version"),
                "output_type": task["output_type"],
                "shots": task.get("num_fewshot"),
                "digest": task.get("digest"),
                "scores": [bounded(score) for score in task["scores"]],
                "counts": task.get("counts"),
                "samples": run.count(task["name"]) if run.has_samples(task["name"]) else None,
            }
            for task in record["tasks"]
        ],
        "groups": [
            {**group, "scores": [bounded(score) for score in group["scores"]]}
            for group in record.get("groups") or []
        ],
    }


def bounded(score: Mapping[str, Any]) -> dict[str, Any]:
    """A score whose interval goes no further than its metric."""
    low, high = bounds(score)
    return {**score, "ci_low": low, "ci_high": high}


def _facts(record: Mapping[str, Any]) -> list[list[str]]:
    """Name and value of what a reader asks first about a run."""
    model, settings = record["model"], record.get("settings") or {}
    scorer, timings = record.get("scorer") or {}, record.get("timings") or {}
    rows = [
        ("model", model["ref"]),
        ("revision", model.get("revision")),
        ("architecture", model.get("architecture")),
        ("parameters", f"{model['parameters']:,}" if isinstance(model.get("parameters"), int) else None),
        ("precision", model.get("dtype")),
        ("device", model.get("device")),
        ("engine", scorer.get("name")),
        ("documents", settings.get("limit") and f"limit {settings['limit']}"),
        ("compatibility", settings.get("compat")),
        ("seed", settings.get("seed")),
        ("started", timings.get("started")),
        ("record", record["digest"]),
    ]
    return [[name, str(value)] for name, value in rows if value not in (None, "")]
