"""``llmasos eval`` beside lm-evaluation-harness's Hugging Face back end: same weights, documents, precision, threads.

    python benchmarks/eval.py --lm-eval-python VENV/bin/python --gguf SmolLM2-135M-Instruct.Q4_1.gguf [--quick]

For each workload and model: lm-eval's best batch size of a few is found first; then both sides run in fresh processes, by
turns, and the medians are compared. Wall and CPU time are those of the evaluation, from task look-up to metrics; imports and
loading the weights are not in them. ``host`` is CPU time outside the model: prompts, tokens, planning, metrics, files; a
second table has it for all documents, with a model that answers at once on both sides. Peak memory is the largest resident
set of the whole process. The least that the mathematics needs (every shared prefix once, logits once a scored position)
stands beside what each side computed. About 20 minutes on two cores; ``--quick`` takes 3.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from eval_workloads import CONTEXT, WORKLOADS, Workload, make_models, write_tasks  # noqa: E402 (the path is set above)

#: Workloads whose work around the model is measured on all documents.
HOST = ("arc_challenge 0-shot", "mmlu 5-shot")
DATA = HERE.parents[1] / "shared" / "data"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lm-eval-python", type=Path, required=True, help="interpreter with lm-eval 0.4.13")
    parser.add_argument("--gguf", type=Path, required=True, help="weights of SmolLM2-135M")
    parser.add_argument("--data", type=Path, default=DATA, help="the shared data folder")
    parser.add_argument("--work", type=Path, help="keeps the models [default: a temporary folder]")
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--models", nargs="+", choices=["SmolLM2-135M", "GPT-2-124M random"])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--batch-size", type=int, default=16, help="prompts that we generate together")
    parser.add_argument("--engine", help="engine of our side [default: ours]")
    parser.add_argument("--quick", action="store_true", help="few documents, one repeat")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser.parse_args()


class Bench:
    """Both sides of the comparison. ``folder`` has the task files, ``scratch`` takes what a run writes."""

    def __init__(self, args: argparse.Namespace, folder: Path, scratch: Path) -> None:
        self.args, self.folder, self.scratch = args, folder, scratch
        self.runs = 0

    def limit(self, workload: Workload) -> int:
        return workload.quick if self.args.quick else workload.limit

    def run(
        self,
        side: str,
        model: Path,
        workload: Workload,
        limit: int | None,
        batch: int = 1,
        *,
        silent: bool = False,
    ) -> dict[str, Any]:
        """One evaluation in a fresh process. ``silent``: every score is zero at once, so that only the host works."""
        self.runs += 1
        place = self.scratch / f"run{self.runs}"
        place.mkdir()
        settings: dict[str, Any] = {"batch_size": self.args.batch_size, "threads": self.args.threads}
        if self.args.engine:
            settings["engine"] = self.args.engine
        job = {
            "model": str(model),
            "folder": str(self.folder),
            "tasks": list(workload.tasks),
            "limit": limit,
            "shots": workload.shots,
            "batch": batch,
            "silent": silent,
            "threads": self.args.threads,
            "settings": settings,
            "cache": str(place / "cache"),
            "output": str(place / "report.json"),
        }
        (place / "job.json").write_text(json.dumps(job), encoding="utf-8")
        python = self.args.lm_eval_python if side == "lm_eval" else sys.executable
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.args.threads), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [str(python), str(HERE / f"eval_{side}.py"), str(place / "job.json")],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise SystemExit(f"{side} failed on {workload.name}:\n{done.stderr[-3000:]}")
        report: dict[str, Any] = json.loads((place / "report.json").read_text(encoding="utf-8"))
        return report

    def host(self, model: Path, workload: Workload) -> dict[str, Any]:
        """CPU seconds of both sides around a model that answers at once, on all documents."""
        say(f"{workload.name}: the host alone")
        limit = self.limit(workload) if self.args.quick else None
        found: dict[str, list[float]] = {"lm_eval": [], "llmasos": []}
        for _ in range(1 if self.args.quick else self.args.repeats):
            for side, seconds in found.items():
                report = self.run(side, model, workload, limit, silent=True)
                seconds.append(report["cpu"] - report["below"])
        return {"workload": workload.name, "limit": limit} | {
            k: statistics.median(v) for k, v in found.items()
        }

    def compare(self, name: str, model: Path, workload: Workload) -> dict[str, Any]:
        """Medians of both sides on one workload."""
        limit = self.limit(workload)
        say(f"{name}, {workload.name}: looking for lm-eval's best batch size")
        batches = [size for size in workload.batches if size <= limit * 4]
        tried = {
            size: self.run("lm_eval", model, workload, max(1, limit // 2), size)["wall"] for size in batches
        }
        best = min(tried, key=lambda size: tried[size])
        theirs, ours = [], []
        for turn in range(1 if self.args.quick else self.args.repeats):
            say(f"{name}, {workload.name}: turn {turn + 1}, batch size {best}")
            theirs.append(self.run("lm_eval", model, workload, limit, best))
            ours.append(self.run("llmasos", model, workload, limit))
        return {
            "model": name,
            "workload": workload.name,
            "documents": limit * len(workload.tasks),
            "batch": best,
            "batches_tried": tried,
            "lm_eval": medians(theirs),
            "llmasos": medians(ours),
            "largest_difference": difference(theirs[0]["scores"], ours[0]["scores"]),
        }


def medians(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Numbers of the median over runs; counts are the same in each."""
    keys = ("wall", "cpu", "below", "process_cpu", "peak", "loaded")
    found = {key: statistics.median(report[key] for report in reports) for key in keys}
    found["host"] = statistics.median(report["cpu"] - report["below"] for report in reports)
    rest = {
        key: reports[0].get(key)
        for key in ("tokens", "rows", "ideal_tokens", "ideal_rows", "generated", "phases")
    }
    return found | rest


def difference(theirs: dict[str, Any], ours: dict[str, Any]) -> float:
    """Largest relative difference of a score: the same thing was computed or the comparison is worth nothing."""
    return max(
        abs(ours[task][key] - value) / max(1e-12, abs(value)) if value else abs(ours[task][key])
        for task, scores in theirs.items()
        for key, value in scores.items()
    )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def tables(results: Sequence[dict[str, Any]]) -> str:
    lines = [
        (
            f"{'model':<18} {'workload':<26} {'docs':>4} {'batch':>5} | {'wall s':>15} {'ratio':>6} | {'CPU s':>15} {'ratio':>6} | "
            f"{'host CPU s':>15} {'ratio':>6} | {'peak MB':>11} {'ratio':>6} | {'score diff':>10}"
        )
    ]
    for one in results:
        a, b = one["lm_eval"], one["llmasos"]
        cells = [
            f"{a[key] / scale:>7.{digits}f} {b[key] / scale:>{width}.{digits}f} {a[key] / max(b[key], 1e-9):>6.1f}"
            for key, scale, digits, width in (
                ("wall", 1, 2, 7),
                ("cpu", 1, 2, 7),
                ("host", 1, 3, 7),
                ("peak", 1e6, 0, 3),
            )
        ]
        lines.append(
            f"{one['model']:<18} {one['workload']:<26} {one['documents']:>4} {one['batch']:>5} | "
            f"{' | '.join(cells)} | {one['largest_difference']:>10.1e}"
        )
    lines += ["", "left lm-eval, right LLMasOS; ratio = lm-eval / LLMasOS", ""]
    lines.append(
        f"{'model':<18} {'workload':<26} | {'tokens: lm-eval':>15} {'LLMasOS':>9} {'ideal':>9} {'over':>6} | "
        f"{'rows: lm-eval':>13} {'LLMasOS':>9} {'ideal':>9} {'over':>6}"
    )
    for one in results:
        a, b = one["lm_eval"], one["llmasos"]
        lines.append(
            f"{one['model']:<18} {one['workload']:<26} | {a['tokens']:>15,} {counted(b['tokens'], b['ideal_tokens'])} | "
            f"{a['rows']:>13,} {counted(b['rows'], b['ideal_rows'])}"
        )
    return "\n".join(lines)


def host_table(results: Sequence[dict[str, Any]]) -> str:
    lines = ["", f"{'host alone, CPU s':<26} {'lm-eval':>9} {'LLMasOS':>9} {'ratio':>6}"]
    for one in results:
        ratio = one["lm_eval"] / one["llmasos"]
        lines.append(f"{one['workload']:<26} {one['lm_eval']:>9.2f} {one['llmasos']:>9.2f} {ratio:>6.1f}")
    return "\n".join(lines)


def counted(value: int | None, ideal: int | None) -> str:
    if not value or not ideal:
        return f"{'':>9} {'':>9} {'':>6}"
    return f"{value:>9,} {ideal:>9,} {value / ideal - 1:>6.1%}"


def main() -> int:
    args = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        work = args.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        code = "import importlib.util as u; print(u.find_spec('lm_eval').submodule_search_locations[0])"
        found = subprocess.run(
            [str(args.lm_eval_python), "-c", code], check=True, capture_output=True, text=True
        )
        models = make_models(args.lm_eval_python, args.gguf, work)
        folder = Path(scratch) / "tasks"
        write_tasks(folder, stock=Path(found.stdout.strip()) / "tasks", data=args.data.resolve())
        bench = Bench(args, folder, Path(scratch))
        results = [
            bench.compare(name, path, WORKLOADS[workload])
            for name, path in models.items()
            if args.models is None or name in args.models
            for workload in args.workloads
        ]
        host = [
            bench.host(models["SmolLM2-135M"], WORKLOADS[name]) for name in args.workloads if name in HOST
        ]
    facts = {
        "threads": args.threads,
        "context": CONTEXT,
        "dtype": "float32",
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "quick": args.quick,
    }
    if args.json:
        print(json.dumps({"environment": facts, "results": results, "host": host}, indent=1))
    else:
        print(json.dumps(facts))
        print(tables(results))
        print(host_table(host))
    return 0


if __name__ == "__main__":
    sys.exit(main())
