"""``eval.yaml``: the file with which a data set on the Hugging Face Hub says how it is to be evaluated.

Specification: https://huggingface.co/docs/hub/eval-results and https://inspect.aisi.org.uk/tasks.html#hugging-face. Tasks of
the framework ``inspect-ai`` say what the prompt is (``field_spec``, ``solvers``) and how answers are scored (``scorers``);
others name a program of their own, and cannot be run here.

What a template of the file says is used as it is. Where the file names a solver without a template, the words of the prompt
are ours. Answers are greedy, so that several epochs would all be the first.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmasos.api import InputError
from llmasos_evals.tasks.sources.members import Data, Member
from llmasos_evals.tasks.summary import Summary, one_line
from llmasos_evals.tasks.taskfile import read_taskfile

FILE = "eval.yaml"
_TASK_KEYS = frozenset(
    {
        "id",
        "config",
        "split",
        "field_spec",
        "shuffle_choices",
        "epochs",
        "epoch_reducer",
        "solvers",
        "scorers",
        "metrics",
    }
)
_LETTERS = string.ascii_uppercase
#: Longest answer in tokens, about which the file says nothing; and of one that is a line with a letter.
_LONGEST = 1024
_LETTER_ONLY = 32

_CHOICE_PROMPT = (
    "Choose the right answer. Reply with the one line 'ANSWER: X' and nothing else, where X is one of {letters}.\n\n"
    "{question}\n\n{choices}"
)
_REASONED_CHOICE_PROMPT = (
    "Choose the right answer. Think about it step by step; then end with the line 'ANSWER: X', where X is one of {letters}.\n\n"
    "{question}\n\n{choices}"
)
_REASONED_PROMPT = (
    "{prompt}\n\nThink about it step by step; then end with the line 'ANSWER: X', where X is the answer."
)
#: The last line that gives a letter.
_LETTER_ANSWER = r"(?im)^[^\w\n]*ANSWER\s*:\s*\W*([A-Z])\b"
_ANSWERS = {
    "letter": r"(?i)ANSWER\s*:\s*\W*([A-Z])\b",
    "word": r"(?i)ANSWER\s*:\s*(\w+)",
    "line": r"(?i)ANSWER\s*:\s*([^\n]+)",
}


def is_one(keys: Mapping[str, Any]) -> bool:
    """Whether the top-level keys of a YAML file are those of an ``eval.yaml``."""
    return "tasks" in keys and "task" not in keys and "group" not in keys and "evaluation_framework" in keys


def summaries(path: str) -> list[Summary]:
    """The tasks of a file that can be run, and the group of them where there are several. Raises InputError."""
    value = read_taskfile(Path(path))
    entries = _entries(value, Path(path))
    names = _names(value, entries, Path(path))
    about = one_line(str(value.get("description", "")))
    found = [
        Summary(
            name,
            "task",
            output_type="generate_until",
            dataset_path=_data_of(value, Path(path)),
            dataset_name=_text(entry.get("config")),
            tags=("eval.yaml",),
            description=about,
        )
        for name, entry in zip(names, entries, strict=True)
        if "field_spec" in entry
    ]
    if len(found) > 1:
        found.append(Summary(_group_name(value, Path(path)), "group", description=about))
    return found


def fields(path: Path, name: str | None, data: Data | None = None) -> dict[str, Any]:
    """The fields of a task, or of the group of all. ``data``: name and revision of the data set the file belongs to,
    otherwise that is the folder the file lies in. Raises InputError naming the file and what is not supported."""
    value = read_taskfile(path)
    entries = _entries(value, path)
    names = _names(value, entries, path)
    group = _group_name(value, path)
    if len(entries) > 1 and name in (None, group):
        members = [Member(path, member, data) for member in names]
        return {"group": group, "task": members, "metadata": {"version": "eval.yaml"}}
    if name is not None and name not in names:
        raise InputError(f"{path} has no task {name!r}", hint=f"it has: {', '.join(names)}")
    place = names.index(name) if name is not None else 0
    return _task(value, entries[place], names[place], path, data)


# ---- the file ---------------------------------------------------------------------------------------------------------


def _entries(value: Mapping[str, Any], path: Path) -> list[Mapping[str, Any]]:
    entries = value.get("tasks")
    if (
        not isinstance(entries, list)
        or not entries
        or not all(isinstance(entry, Mapping) for entry in entries)
    ):
        raise InputError(f"{path}: `tasks` must be a list of tasks")
    for entry in entries:
        unknown = sorted(set(map(str, entry)) - _TASK_KEYS)
        if unknown:
            raise InputError(f"{path}: unknown field `tasks.{unknown[0]}`")
    return entries


def _names(value: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], path: Path) -> list[str]:
    names = [str(entry.get("id") or _group_name(value, path)) for entry in entries]
    if len(set(names)) != len(names):
        raise InputError(
            f"{path}: two tasks have the same `id`, or none", hint="give each an `id` of its own"
        )
    return names


def _group_name(value: Mapping[str, Any], path: Path) -> str:
    name = _text(value.get("name")) or path.resolve().parent.name
    return re.sub(r"[^\w.-]+", "_", name.strip()).strip("_").lower() or "eval"


def _data_of(value: Mapping[str, Any], path: Path) -> str:
    return _text(value.get("dataset")) or str(path.resolve().parent)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


# ---- a task -----------------------------------------------------------------------------------------------------------


@dataclass
class _Prompt:
    """A prompt as a Jinja template, growing from the question outwards."""

    path: Path
    #: Names that templates may use, as Jinja expressions.
    names: Mapping[str, str]
    text: str
    system: list[str] = field(default_factory=list)
    choices: str | None = None
    letters: str | None = None
    longest: int = _LONGEST

    def filled(self, template: str, values: Mapping[str, str]) -> str:
        """A ``str.format`` template with some names filled; names that nobody knows stay as they are written."""
        out = []
        try:
            parts = list(string.Formatter().parse(template))
        except ValueError:
            parts = [(template, None, None, None)]
        for literal, name, spec, conversion in parts:
            out.append(_escaped(literal))
            if name is None:
                continue
            known = {**self.names, **values}
            if name in known and not spec and not conversion:
                out.append(known[name])
            else:
                tail = (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
                out.append(_escaped("{" + name + tail + "}"))
        return "".join(out)


def _task(
    value: Mapping[str, Any],
    entry: Mapping[str, Any],
    name: str,
    path: Path,
    data: Data | None,
) -> dict[str, Any]:
    framework = value.get("evaluation_framework")
    if framework != "inspect-ai" or "field_spec" not in entry:
        raise InputError(
            f"{path}: task {name} is run by {framework!r}; only tasks of `inspect-ai` say what they ask and how they score"
        )
    if entry.get("shuffle_choices"):
        raise InputError(f"{path}: task {name} shuffles its choices by chance, which no record could repeat")
    prompt, choices = _asked(entry["field_spec"], name, path)
    _solve(entry.get("solvers"), prompt, name, path)
    target = _target(entry["field_spec"], choices, name, path)
    metrics, steps = _scored(entry.get("scorers"), name, path)
    dataset, revision = data or (_data_of(value, path), None)
    split = _text(entry.get("split")) or "test"
    made: dict[str, Any] = {
        "task": name,
        "tag": ["eval.yaml"],
        "dataset_path": dataset,
        "dataset_name": _text(entry.get("config")),
        "test_split": split,
        "output_type": "generate_until",
        "description": "\n\n".join(prompt.system),
        "doc_to_text": prompt.text,
        "doc_to_target": target,
        "target_delimiter": "\n",
        "fewshot_delimiter": "\n\n",
        "num_fewshot": 0,
        "generation_kwargs": {"until": [], "max_gen_toks": prompt.longest, "do_sample": False},
        "filter_list": [{"name": "none", "filter": [*steps, {"function": "take_first"}]}],
        "metric_list": metrics,
        "metadata": {"version": "eval.yaml", "benchmark": str(value.get("name") or name)},
    }
    if revision is not None:
        made["dataset_kwargs"] = {"revision": revision}
    return made


def _asked(spec: Any, name: str, path: Path) -> tuple[_Prompt, str | None]:
    if not isinstance(spec, Mapping) or not _text(spec.get("input")):
        raise InputError(f"{path}: task {name}: `field_spec` has no `input`")
    if spec.get("input_image"):
        raise InputError(f"{path}: task {name} asks about images, which are not supported")
    metadata = spec.get("metadata") or []
    if not isinstance(metadata, list):
        raise InputError(f"{path}: task {name}: `field_spec.metadata` must be a list of columns")
    column = _column(path, name)
    names = {str(key): "{{" + column(key) + "}}" for key in metadata}
    prompt = _Prompt(path, names, "{{" + column(spec["input"]) + "}}")
    given = spec.get("choices")
    choices = None
    if isinstance(given, str):
        choices = column(given)
    elif isinstance(given, list) and given:
        choices = "[" + ", ".join(column(key) for key in given) + "]"
    elif given is not None:
        raise InputError(f"{path}: task {name}: `field_spec.choices` must be a column or a list of columns")
    if choices is not None:
        letter = f"'{_LETTERS}'[loop.index0]"
        prompt.choices = (
            "{% for c in "
            + choices
            + " %}{{"
            + letter
            + "}}) {{c}}{% if not loop.last %}\n{% endif %}{% endfor %}"
        )
        prompt.letters = "{{'" + ",".join(_LETTERS) + "'[:(" + choices + "|length) * 2 - 1]}}"
    return prompt, choices


def _column(path: Path, name: str) -> Callable[[Any], str]:
    def check(key: Any) -> str:
        if not isinstance(key, str) or not key.isidentifier():
            raise InputError(f"{path}: task {name}: column {key!r} has a name that no template can use")
        return key

    return check


def _solve(solvers: Any, prompt: _Prompt, name: str, path: Path) -> None:
    for solver, arguments in _steps(solvers, "solvers", name, path):
        template = arguments.get("template")
        values = {key: _escaped(str(item)) for key, item in arguments.items() if key != "template"}
        if solver == "prompt_template":
            prompt.text = prompt.filled(
                _needed(template, solver, name, path), {**values, "prompt": prompt.text}
            )
        elif solver == "system_message":
            prompt.system.append(prompt.filled(_needed(template, solver, name, path), values).strip())
        elif solver == "user_message":
            prompt.text += "\n\n" + prompt.filled(_needed(template, solver, name, path), values)
        elif solver == "chain_of_thought":
            prompt.text = prompt.filled(template or _REASONED_PROMPT, {"prompt": prompt.text})
        elif solver == "multiple_choice":
            if prompt.choices is None or prompt.letters is None:
                raise InputError(f"{path}: task {name}: `multiple_choice` needs `field_spec.choices`")
            if arguments.get("multiple_correct"):
                raise InputError(
                    f"{path}: task {name} has several right choices at once, which is not supported"
                )
            if template is None and not arguments.get("cot"):
                prompt.longest = _LETTER_ONLY
            given = template or (_REASONED_CHOICE_PROMPT if arguments.get("cot") else _CHOICE_PROMPT)
            filled = {"question": prompt.text, "choices": prompt.choices, "letters": prompt.letters}
            prompt.text = prompt.filled(given, filled)
        elif solver != "generate":
            raise InputError(f"{path}: task {name} uses the solver `{solver}`, which is not supported")


def _target(spec: Mapping[str, Any], choices: str | None, name: str, path: Path) -> str:
    given = spec.get("target")
    if not isinstance(given, str) or not given:
        raise InputError(f"{path}: task {name}: `field_spec` has no `target`")
    if given.startswith("literal:"):
        return _escaped(given.removeprefix("literal:"))
    column = _column(path, name)(given)
    if choices is None:
        return "{{" + column + "}}"
    return "{{'" + _LETTERS + "'[" + column + "] if " + column + " is integer else " + column + "}}"


def _scored(scorers: Any, name: str, path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    metrics: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    for scorer, arguments in _steps(scorers, "scorers", name, path):
        extract: str | None = None
        metric: dict[str, Any]
        case = arguments.get("ignore_case", True)
        if scorer in ("match", "includes"):
            metric = {"metric": scorer, **arguments}
        elif scorer == "exact":
            metric = {"metric": "squad_em"}
        elif scorer == "f1":
            metric = {"metric": "squad_f1"}
        elif scorer == "choice":
            metric, extract = {"metric": "exact_match", "ignore_case": True}, _LETTER_ANSWER
        elif scorer == "answer" and arguments.get("pattern") in _ANSWERS:
            metric, extract = {"metric": "exact_match", "ignore_case": True}, _ANSWERS[arguments["pattern"]]
        elif (
            scorer == "pattern"
            and isinstance(arguments.get("pattern"), str)
            and not arguments.get("match_all")
        ):
            extract = ("(?i)" if case else "") + arguments["pattern"]
            metric = {"metric": "exact_match", "ignore_case": bool(case)}
            _one_group(extract, name, path)
        else:
            raise InputError(
                f"{path}: task {name} uses the scorer `{scorer}`, which is not supported",
                hint="supported: match, includes, exact, f1, choice, answer, and pattern with one group",
            )
        if extract is not None:
            last = {"group_select": -1} if scorer == "choice" else {}
            steps.append({"function": "regex", "regex_pattern": extract, **last})
        metrics.append(metric)
    if len(steps) > 1 or (steps and len(metrics) > 1):
        raise InputError(f"{path}: task {name} reads its answers in several ways, which is not supported")
    return metrics, steps


def _one_group(pattern: str, name: str, path: Path) -> None:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise InputError(f"{path}: task {name}: the pattern of its scorer is not valid: {error}") from error
    if groups != 1:
        raise InputError(f"{path}: task {name}: the pattern of its scorer has {groups} groups, not one")


def _steps(value: Any, what: str, name: str, path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    if not isinstance(value, list) or not value:
        raise InputError(f"{path}: task {name}: `{what}` must be a list")
    found = []
    for item in value:
        arguments = item.get("args") or {} if isinstance(item, Mapping) else None
        if (
            not isinstance(item, Mapping)
            or not isinstance(item.get("name"), str)
            or not isinstance(arguments, Mapping)
        ):
            raise InputError(f"{path}: task {name}: an entry of `{what}` has no `name`: {item!r}")
        found.append((item["name"], arguments))
    return found


def _needed(template: Any, solver: str, name: str, path: Path) -> str:
    if not isinstance(template, str):
        raise InputError(f"{path}: task {name}: solver `{solver}` has no `template`")
    return template


def _escaped(text: str) -> str:
    """Text as a Jinja template that gives it."""
    if not any(mark in text for mark in ("{{", "{%", "{#", "}}", "%}", "#}")) and "{" not in text:
        return text
    return re.sub(r"[{}]", lambda found: '{{"' + found[0] + '"}}', text)
