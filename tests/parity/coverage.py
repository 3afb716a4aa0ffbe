"""Which task files of lm-evaluation-harness run here, and whether both harnesses ask the same.

    python tests/parity/coverage.py LM_EVAL_FOLDER                              # the table, to standard output
    python tests/parity/coverage.py LM_EVAL_FOLDER --write                      # ... to docs/reference/task-coverage.md
    python tests/parity/coverage.py LM_EVAL_FOLDER --lm-eval-python PYTHON ...  # and renders a sample with both

``LM_EVAL_FOLDER`` is the unpacked package ``lm_eval`` 0.4.13. Every task file is parsed; its functions, filters and metrics
are resolved with task code allowed; and prompts are built on made-up rows that suit its templates and code (``synthetic.py``).
The sample (``rendering.py``) takes tasks from all families by a fixed seed and asks for three documents without and with
examples and with a chat template, on the very same rows.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from rendering import (  # noqa: E402
    VARIANTS,
    Job,
    build,
    digest_of,
    rendered,
    rows_for,
    sketch_for,
    splits_of,
)
from sketches import Sketch  # noqa: E402

from llmasos import Hub  # noqa: E402 (the path is set above)
from llmasos.api import LlmasosError  # noqa: E402
from llmasos_evals.datasets.rows import Rows  # noqa: E402
from llmasos_evals.digests import digest  # noqa: E402
from llmasos_evals.tasks.config import TaskConfig  # noqa: E402
from llmasos_evals.tasks.parsing import parse_task  # noqa: E402
from llmasos_evals.tasks.taskfile import read_taskfile  # noqa: E402

PAGE = HERE.parents[1] / "docs" / "reference" / "task-coverage.md"
GOLDEN = HERE / "rendering_golden.json"
SEED = 20251122
SAMPLE = 330
#: Tasks of the sample whose rows and digests are kept for the ordinary test run.
KEPT = 40
#: Imports of packages that not every environment has, or that fetch something when they are imported.
EXTRAS = re.compile(
    r"^\s*(?:import|from) (?:antlr4|fuzzywuzzy|immutabledict|jieba|jsonschema|langdetect|math_verify|nltk|pandas|pycountry|"
    r"pymorphy3|requests|rouge|scipy|spacy|statsmodels|sympy|torch|transformers\b(?!\.data)|wonderwords)\b",
    re.MULTILINE,
)
#: Differences that are that harness's: the reason, by the beginning of the path.
KNOWN = {
    "gpqa/n_shot/": "its code shuffles choices with a generator of its own each time documents are read; lm-evaluation-harness reads "
    "them anew for every use and scores answers against another order than it asked (15 of 20 documents in a trial); here "
    "documents are read once",
}
#: What a task is named after that only its data and its place in tables differ in.
_ALIKE = {"task", "task_alias", "tag", "dataset_path", "dataset_name", "dataset_kwargs", "metadata"}


@dataclass
class Entry:
    """What became of one file."""

    path: Path
    kind: str  # task, group, class, part, broken
    config: TaskConfig | None = None
    #: None: supported; else why not.
    reason: str | None = None
    #: Whether prompts were built on made-up rows; None where nothing was tried.
    prompts: bool | None = None
    why_no_prompts: str = ""

    @property
    def textual(self) -> bool:
        return self.kind in ("task", "class") and self.reason not in ("images", "audio")


@dataclass
class Survey:
    """All files below a tasks folder."""

    root: Path
    entries: list[Entry] = field(default_factory=list)
    rows: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    #: Sketches that were found, by top-level folder.
    sketches: dict[str, list[Sketch]] = field(default_factory=lambda: defaultdict(list))

    def run(self, hub: Hub, only: str | None = None) -> None:
        """Look at every file. Groups of tasks that differ only in their data share made-up rows."""
        paths = sorted(self.root.glob("**/*.yaml"), key=lambda path: path.as_posix())
        paths = [path for path in paths if only is None or path.relative_to(self.root).parts[0] == only]
        started = time.monotonic()
        for number, path in enumerate(paths, start=1):
            if number % 200 == 0:
                say(f"{number} of {len(paths)} files, {time.monotonic() - started:.0f} s")
            with contextlib.redirect_stdout(sys.stderr):
                self.entries.append(self.look(path, hub))

    def look(self, path: Path, hub: Hub) -> Entry:
        try:
            raw = read_taskfile(path)
        except LlmasosError as error:
            return Entry(path, "broken", reason=_reason(error))
        if "class" in raw:
            return Entry(path, "class", reason="written as a Python class")
        if "group" in raw:
            return Entry(path, "group")
        if "task" not in raw:
            return Entry(path, "part")
        try:
            config = parse_task(raw, path)
        except LlmasosError as error:
            return Entry(path, "task", reason=_reason(error))
        entry = Entry(path, "task", config)
        try:
            build(config, hub, {})
        except LlmasosError as error:
            entry.reason = _reason(error)
            return entry
        self.ask(entry, hub)
        return entry

    def ask(self, entry: Entry, hub: Hub) -> None:
        """Build prompts on made-up rows."""
        assert entry.config is not None
        rows, why = self.rows_of(entry, hub)
        entry.prompts, entry.why_no_prompts = False, why
        if rows is None:
            return
        try:
            task = build(entry.config, hub, {name: Rows.from_list(split) for name, split in rows.items()})
            planned = list(task.plan(limit=2, num_fewshot=None, seed=1, compat="native"))
            entry.prompts = bool(planned) and all(document.requests for document in planned)
        except Exception as error:
            entry.why_no_prompts = f"{type(error).__name__}: {error}"

    def rows_of(self, entry: Entry, hub: Hub) -> tuple[dict[str, Any] | None, str]:
        """Rows that suit a task, or None and the last error."""
        assert entry.config is not None
        key = _family(entry)
        if key not in self.rows:
            known_sketches = self.sketches[entry.path.relative_to(self.root).parts[0]]
            sketch, error = sketch_for(entry.config, hub, known_sketches[-1:])
            if sketch is not None:
                known_sketches.append(sketch)
            self.rows[key] = {
                "rows": None if sketch is None else rows_for(entry.config, sketch),
                "why": "" if sketch is not None else f"{type(error).__name__}: {error}",
            }
        known = self.rows[key] or {}
        rows = known["rows"]
        if rows is not None:  # families may name their splits differently
            held = list(rows.values())
            rows = {name: rows.get(name, held[0]) for name in splits_of(entry.config)}
        return rows, known["why"]


def _family(entry: Entry) -> str:
    """Equal for tasks that need the same columns."""
    assert entry.config is not None
    given = {key: value for key, value in entry.config.given.items() if key not in _ALIKE}
    if isinstance(given.get("description"), str) and "{" not in given["description"]:
        given.pop("description")
    return digest({"folder": entry.path.parent.as_posix(), "given": given})


_PACKAGES = (
    (r"kstar-planner|tarski", "kstar-planner, tarski, pddl, lark"),
    (r"lm_eval\[.longbench|longbench", "jieba, fuzzywuzzy, rouge"),
    (r"math[_-]verify", "math-verify, sympy, antlr4-python3-runtime"),
    (r"antlr4", "sympy, antlr4-python3-runtime"),
    (r"wonderwords", "wonderwords, nltk"),
    (r"tinyBenchmarks", "tinyBenchmarks"),
    (r"bert[_-]score|script 'bleu'|bleurt", "evaluate, bert-score, bleurt"),
    (r"SWI-Prolog", "SWI-Prolog (a program)"),
    (r"No module named '([\w.]+)'", ""),
    (r"`(\w+)` is required", ""),
)


def _reason(error: LlmasosError) -> str:
    text = error.message
    for key, reason in (
        ("needs images", "images"),
        ("needs audio", "audio"),
        ("unitxt", "a unitxt recipe"),
    ):
        if key in text:
            return reason
    for pattern, packages in _PACKAGES:
        found = re.search(pattern, text)
        if found:
            return "needs " + (packages or found[1].partition(".")[0])
    text = re.sub(r"/\S*/", "", text)
    return re.sub(r"\S+\.yaml: ", "", re.sub(r"task \S+: ", "", text))[:120]


# ---- the sample ----------------------------------------------------------------------------------------------------------


@dataclass
class Comparison:
    """The sample: tasks that were asked by both, and how it ended."""

    equal: list[str] = field(default_factory=list)
    different: dict[str, str] = field(default_factory=dict)
    explained: dict[str, str] = field(default_factory=dict)
    ours_fails: dict[str, str] = field(default_factory=dict)
    theirs_fails: dict[str, str] = field(default_factory=dict)
    both_fail: dict[str, str] = field(default_factory=dict)
    no_rows: list[str] = field(default_factory=list)
    requests: int = 0
    kept: dict[str, Any] = field(default_factory=dict)


def candidates(entries: Sequence[Entry], root: Path) -> Iterator[Entry]:
    """Supported tasks, one of each top-level folder in turn, by a fixed seed."""
    families: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.kind == "task" and entry.reason is None:
            families[entry.path.relative_to(root).parts[0]].append(entry)
    rng = random.Random(SEED)
    for name in sorted(families):
        rng.shuffle(families[name])
    while families:
        for name in sorted(families):
            yield families[name].pop()
            if not families[name]:
                del families[name]


def compare(survey: Survey, hub: Hub, python: Path, size: int) -> Comparison:
    """Render tasks with both until ``size`` of them were digested by both."""
    result = Comparison()
    command = [str(python), str(HERE / "rendering_side.py"), str(survey.root), json.dumps(VARIANTS)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=_plain_environment(),
    ) as side:
        assert side.stdin is not None
        assert side.stdout is not None
        for entry in candidates(survey.entries, survey.root):
            if len(result.equal) + len(result.different) >= size:
                break
            _compare_one(entry, survey, hub, side, result)
        side.stdin.close()
    return result


def _plain_environment() -> dict[str, str]:
    """Without paths to our own packages: the other interpreter has its own."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _compare_one(entry: Entry, survey: Survey, hub: Hub, side: Any, result: Comparison) -> None:
    assert entry.config is not None
    name = entry.path.relative_to(survey.root).as_posix()
    with contextlib.redirect_stdout(sys.stderr):
        rows, _ = survey.rows_of(entry, hub)
        if rows is None:
            result.no_rows.append(name)
            return
        side.stdin.write(Job(entry.path, rows).line(survey.root) + "\n")
        side.stdin.flush()
        ours: dict[str, Any] = {}
        for variant in VARIANTS:
            try:
                ours[variant] = json.loads(json.dumps(rendered(entry.config, hub, rows, variant)))
            except Exception as error:
                ours[variant] = f"{type(error).__name__}: {error}"
    line = side.stdout.readline()
    if not line:
        raise SystemExit(f"the lm-eval side died at {name}")
    theirs = json.loads(line)
    failed = [variant for variant in VARIANTS if isinstance(ours[variant], str)]
    refused = [variant for variant in VARIANTS if isinstance(theirs[variant], str)]
    if failed and "there is nothing to score" in ours[failed[0]]:
        result.both_fail[name] = (
            f"{ours[failed[0]]} / an empty continuation is an error there too, later: when it is scored"
        )
    elif failed and refused:
        result.both_fail[name] = f"{ours[failed[0]]} / {theirs[refused[0]]}"
    elif failed:
        result.ours_fails[name] = ours[failed[0]]
    elif refused:
        result.theirs_fails[name] = theirs[refused[0]]
    else:
        unequal = [variant for variant in VARIANTS if ours[variant] != theirs[variant]]
        result.requests += sum(len(asked) for asked in ours.values())
        known = next((why for start, why in KNOWN.items() if name.startswith(start)), None)
        if unequal and known is not None:
            result.explained[name] = known
        elif unequal:
            result.different[name] = f"{unequal}: {_first_difference(ours[unequal[0]], theirs[unequal[0]])}"
        else:
            result.equal.append(name)
            result.kept[name] = {
                "files": files_of(entry.config, hub, survey.root),
                "rows": rows,
                "digests": {key: digest_of(asked) for key, asked in ours.items()},
            }
    say(f"{len(result.equal)} equal, {len(result.different)} different: {name}")


class _Includes(yaml.SafeLoader):
    """Reads a task file for what it includes; functions are text."""


_Includes.add_constructor("!function", lambda loader, node: str(loader.construct_scalar(node)))


def files_of(config: TaskConfig, hub: Hub, root: Path) -> list[str]:
    """The files of a task below the tasks folder: itself, what it includes, and its code."""
    found, waiting = [], [config.source]
    while waiting:
        path = waiting.pop()
        found.append(path)
        given = yaml.load(path.read_text(encoding="utf-8"), Loader=_Includes)
        included = given.get("include") or []
        for name in [included] if isinstance(included, str) else included:
            waiting.append((path.parent / name).resolve())
    code = build(config, hub, {}).code
    found += [(config.source.parent / name).resolve() for name in code]
    return sorted(path.relative_to(root).as_posix() for path in set(found))


def _first_difference(ours: Sequence[Any], theirs: Sequence[Any]) -> str:
    if len(ours) != len(theirs):
        return f"{len(ours)} and {len(theirs)} lines"
    one, other = next((a, b) for a, b in zip(ours, theirs, strict=True) if a != b)
    return f"{json.dumps(one, ensure_ascii=False)[-300:]} and {json.dumps(other, ensure_ascii=False)[-300:]}"


# ---- the page ------------------------------------------------------------------------------------------------------------


def page(survey: Survey, comparison: Comparison | None, environment: str) -> str:
    """The reference page."""
    entries = survey.entries
    kinds = Counter(entry.kind for entry in entries)
    tasks = [entry for entry in entries if entry.kind in ("task", "class")]
    textual = [entry for entry in tasks if entry.textual]
    supported = [entry for entry in textual if entry.reason is None]
    asked = [entry for entry in supported if entry.prompts]
    lines = [
        "# Coverage of the stock tasks",
        "",
        "What LLMasOS makes of the task files of lm-evaluation-harness 0.4.13. Made by",
        "`python tests/parity/coverage.py LM_EVAL_FOLDER --lm-eval-python PYTHON --write` (the unpacked package, and an interpreter",
        f"that has it); do not edit. {environment}",
        "",
        "*Supported* means: the file parses; with `--allow-task-code` its functions, filters and metrics resolve; its output type is",
        "known. Prompts are then built on made-up rows that suit its templates and code; for the rest no such rows were found, or the",
        "task's own code gives no text on any of them.",
        "",
        "| files below `lm_eval/tasks` | |",
        "|---|---:|",
        f"| `*.yaml` | {len(entries):,} |",
        f"| of these groups | {kinds['group']:,} |",
        f"| parts that only others include | {kinds['part']:,} |",
        f"| unreadable | {kinds['broken']:,} |",
        f"| tasks | {len(tasks):,} |",
        f"| text tasks | {len(textual):,} |",
        f"| **supported text tasks** | **{len(supported):,} ({100 * len(supported) / max(len(textual), 1):.2f} %)** |",
        f"| prompts built on made-up rows | {len(asked):,} ({100 * len(asked) / max(len(textual), 1):.2f} % of the text tasks) |",
        "",
        "## Not supported, and why",
        "",
        "| reason | tasks | for example |",
        "|---|---:|---|",
    ]
    reasons: dict[str, list[Entry]] = defaultdict(list)
    for entry in tasks:
        if entry.reason is not None:
            reasons[entry.reason].append(entry)
    for reason, members in sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0])):
        example = members[0].path.relative_to(survey.root).as_posix()
        lines.append(f"| {reason.replace('|', '/')} | {len(members):,} | `{example}` |")
    lines += [
        "",
        "Packages are those that a task's own code imports; without them it is an error that names them, never a score of 0.",
        "Tasks written as Python classes run through the plugin for an installed lm-evaluation-harness.",
    ]
    if comparison is not None:
        lines += _sample_lines(comparison)
    return "\n".join(lines) + "\n"


def _sample_lines(comparison: Comparison) -> list[str]:
    families = {name.split("/")[0] for name in comparison.equal}
    return [
        "",
        "## Asked by both",
        "",
        f"A sample by seed {SEED}, one task of each top-level folder in turn. Both harnesses get the same rows; compared are contexts,",
        "continuations, generation settings and targets of three documents, as the file says, with two examples, and with a chat",
        "template (examples as turns, and in one message).",
        "",
        "| | tasks |",
        "|---|---:|",
        f"| asked by both and equal | {len(comparison.equal):,} (of {len(families):,} folders; {comparison.requests:,} requests and targets) |",
        f"| asked by both and different | {len(comparison.different):,} |",
        f"| asked by both and different for a known reason | {len(comparison.explained):,} |",
        f"| only lm-evaluation-harness fails on the rows | {len(comparison.theirs_fails):,} |",
        f"| only LLMasOS fails on the rows | {len(comparison.ours_fails):,} |",
        f"| both fail on the rows | {len(comparison.both_fail):,} |",
        f"| no rows found | {len(comparison.no_rows):,} |",
        *(["", "| different | why |", "|---|---|"] if comparison.different or comparison.explained else []),
        *(f"| `{name}` | {text[:200].replace('|', '/')} |" for name, text in comparison.different.items()),
        *(f"| `{name}` | {text} |" for name, text in comparison.explained.items()),
    ]


def golden(comparison: Comparison, root: Path) -> dict[str, Any]:
    """Rows and digests of some tasks, spread over the families; none whose code needs more than `llmasos[all]`."""
    names = [
        name
        for name in comparison.equal
        if not any(
            EXTRAS.search((root / file).read_text(encoding="utf-8"))
            for file in comparison.kept[name]["files"]
            if file.endswith(".py")
        )
    ]
    chosen = names[:: max(1, len(names) // KEPT)][:KEPT]
    return {
        "made_by": "python tests/parity/coverage.py LM_EVAL_FOLDER --lm-eval-python PYTHON --write",
        "lm_eval": "0.4.13",
        "tasks": {name: comparison.kept[name] for name in chosen},
    }


def report(comparison: Comparison) -> Mapping[str, Any]:
    """Everything but the rows, for eyes."""
    return {
        "equal": len(comparison.equal),
        "different": comparison.different,
        "different for a known reason": comparison.explained,
        "only LLMasOS fails": comparison.ours_fails,
        "only lm-eval fails": comparison.theirs_fails,
        "both fail": comparison.both_fail,
        "no rows": comparison.no_rows,
    }


def say(text: str) -> None:
    print(text, file=sys.__stderr__, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="the unpacked package lm_eval")
    parser.add_argument("--lm-eval-python", type=Path, help="interpreter that has lm-eval, for the sample")
    parser.add_argument("--sample", type=int, default=SAMPLE, help="tasks that both must have digested")
    parser.add_argument("--only", help="one top-level folder")
    parser.add_argument(
        "--write", action="store_true", help="write the page, and with a sample the golden file"
    )
    parser.add_argument("--json", type=Path, help="write all reasons here")
    args = parser.parse_args()
    hub, survey = Hub(), Survey(args.folder.resolve() / "tasks")
    survey.run(hub, args.only)
    comparison = None
    if args.lm_eval_python is not None:
        comparison = compare(survey, hub, args.lm_eval_python, args.sample)
    text = page(survey, comparison, "Optional packages of task code (`llmasos[task-code]`) were installed.")
    if args.json is not None:
        textual = [entry for entry in survey.entries if entry.textual]
        details = {
            "text tasks": len(textual),
            "supported": sum(entry.reason is None for entry in textual),
            "unsupported": {
                entry.path.relative_to(survey.root).as_posix(): entry.reason
                for entry in survey.entries
                if entry.reason
            },
            "no prompts": {
                entry.path.relative_to(survey.root).as_posix(): entry.why_no_prompts
                for entry in survey.entries
                if entry.prompts is False
            },
            "sample": report(comparison) if comparison else None,
        }
        args.json.write_text(json.dumps(details, indent=1, ensure_ascii=False), encoding="utf-8")
    if args.write and args.only is None:
        PAGE.write_text(text, encoding="utf-8")
        if comparison is not None:
            GOLDEN.write_text(
                json.dumps(golden(comparison, survey.root), ensure_ascii=False) + "\n", encoding="utf-8"
            )
    else:
        print(text)
    return 1 if comparison is not None and (comparison.different or comparison.ours_fails) else 0


if __name__ == "__main__":
    sys.exit(main())
