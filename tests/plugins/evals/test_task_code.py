"""Task code: what it may import, what is recorded of it, and what it is kept from."""

from __future__ import annotations

import hashlib
import importlib.util
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from task_files import CHOICE, GENERATION, load, nats, plans, run, saying, write_task

from llmasos import Hub
from llmasos.api import EvaluationError, InputError, LlmasosError, MissingDependency, UsageError
from llmasos_evals.tasks.library import select
from llmasos_evals.tasks.parsing import parse_task
from llmasos_evals.tasks.standins import scripts
from llmasos_evals.tasks.standins.answers import compute_exact, compute_f1
from llmasos_evals.tasks.standins.assignment import linear_sum_assignment
from llmasos_evals.tasks.standins.scores import f1_score, matthews_corrcoef, precision_score
from llmasos_evals.tasks.task import Task
from llmasos_evals.tasks.taskfile import read_taskfile


def code(folder: Path, text: str, name: str = "work.py") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def choice_task(folder: Path, **fields: Any) -> Task:
    return load(write_task(folder, **{**CHOICE, **fields}), code=True)


def test_imports_of_the_harness_and_of_datasets_are_answered(tmp_path: Path) -> None:
    code(
        tmp_path,
        """
import datasets
import lm_eval.utils
from datasets import Dataset, Features, Value
from lm_eval.utils import general_detokenize, weighted_f1_score
import transformers.data.metrics.squad_metrics as squad

def rows(dataset: datasets.Dataset) -> datasets.Dataset:
    assert isinstance(dataset, Dataset)
    assert lm_eval.utils.general_detokenize is general_detokenize
    assert squad.compute_exact("The cat!", "cat") == 1
    return Dataset.from_list([{**row, "question": general_detokenize("Is n't it ( so ) ?")} for row in dataset])

def weighted(items):
    return weighted_f1_score(items)
""",
    )
    listed = [{"metric": "f1", "aggregation": "!function work.weighted"}]
    task = choice_task(tmp_path, process_docs="!function work.rows", metric_list=listed)
    assert plans(task, limit=1)[0].requests[0].context == "Isn't it (so) ?"
    assert "datasets" not in sys.modules


def test_code_of_other_tasks_is_found_above_and_recorded(tmp_path: Path) -> None:
    here = tmp_path / "tasks" / "sums"
    one = code(
        here,
        "from . import beside\nfrom .deep.inner import tail\n"
        "from lm_eval.tasks.other import shared\nfrom lm_eval.tasks.other.shared import mark\n"
        "import lm_eval.tasks.other.shared as again\nimport plain\n"
        "def ask(doc):\n    assert again is shared\n"
        "    return beside.front + plain.middle + doc['question'] + mark + tail\n",
    )
    code(here, "front = '<'\n", "beside.py")
    code(here, "middle = '|'\n", "plain.py")
    code(here, "from ..beside import front\ntail = front * 2\n", "deep/inner.py")
    other = code(tmp_path / "tasks" / "other", "mark = '>'\n", "shared.py")
    task = choice_task_in(here, doc_to_text="!function work.ask")
    assert plans(task, limit=1)[0].requests[0].context == "<|What is 1 + 1?><<"
    assert set(task.code) == {"work.py", "beside.py", "plain.py", "deep/inner.py", "../other/shared.py"}
    assert task.code["work.py"] == hashlib.sha256(one.read_bytes()).hexdigest()
    before = task.digest
    other.write_text("mark = '>'  # edited\n")
    assert choice_task_in(here, doc_to_text="!function work.ask").digest != before


def choice_task_in(folder: Path, **fields: Any) -> Task:
    return choice_task(folder, **fields)


def test_no_module_of_a_task_reaches_another_one(tmp_path: Path) -> None:
    code(tmp_path, "seen = []\ndef ask(doc):\n    seen.append(1)\n    return str(len(seen))\n")
    tasks = [choice_task(tmp_path, doc_to_text="!function work.ask") for _ in range(2)]
    first = [plans(task, limit=2)[0].requests[0].context for task in tasks]
    assert first[0] == first[1]
    assert not [name for name in sys.modules if name.startswith("llmasos_task_code")]


def test_a_missing_package_is_named_and_never_a_score_of_nothing(tmp_path: Path) -> None:
    code(tmp_path, "from no_such_package.inside import x\ndef ask(doc):\n    return ''\n")
    with pytest.raises(MissingDependency) as caught:
        choice_task(tmp_path, doc_to_text="!function work.ask")
    assert caught.value.hint == "pip install no_such_package"
    code(tmp_path, "def ask(doc):\n    import no_such_package\n    return ''\n")
    with pytest.raises(MissingDependency, match="no_such_package"):
        plans(choice_task(tmp_path, doc_to_text="!function work.ask"))
    code(
        tmp_path,
        "try:\n    import no_such_package\nexcept ImportError:\n    pass\ndef ask(doc):\n    return 'x'\n",
    )
    task = choice_task(tmp_path, doc_to_text="!function work.ask")
    assert task.remarks == ("its code did without the package no_such_package, which is not installed",)


def test_names_that_are_not_offered_need_the_package(tmp_path: Path) -> None:
    if importlib.util.find_spec("datasets") is not None:
        pytest.skip("the datasets library is installed")
    code(tmp_path, "from datasets import get_dataset_infos\ndef ask(doc):\n    return ''\n")
    with pytest.raises(MissingDependency) as caught:
        choice_task(tmp_path, doc_to_text="!function work.ask")
    assert caught.value.hint == "pip install datasets"


def test_code_that_gives_up_and_code_that_talks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code(tmp_path, "print('hello')\ndef ask(doc):\n    print('asked')\n    return 'x'\n")
    plans(choice_task(tmp_path, doc_to_text="!function work.ask"), limit=1)
    said = capsys.readouterr()
    assert (said.out, said.err.split()[0]) == ("", "hello")
    code(tmp_path, "import sys\nsys.exit(3)\n")
    with pytest.raises(InputError, match="cannot be imported: SystemExit: 3"):
        choice_task(tmp_path, doc_to_text="!function work.ask")


def test_random_numbers_of_task_code_depend_on_the_document_alone(tmp_path: Path) -> None:
    code(
        tmp_path,
        "import random\nimport numpy as np\n"
        "def ask(doc):\n    return f'{random.random()} {np.random.random()} {doc[\"question\"]}'\n",
    )
    task = choice_task(tmp_path, doc_to_text="!function work.ask")
    state = random.getstate()
    whole = [planned.requests[0].context for planned in plans(task)]
    alone = [planned.requests[0].context for planned in plans(task, documents=[7])]
    assert alone == [whole[7]]
    assert len({context.split()[0] for context in whole}) == len(whole)
    assert random.getstate() == state, "the numbers of everybody else stay as they were"
    assert whole != [planned.requests[0].context for planned in plans(task, seed=5)]


def test_documents_are_scored_as_they_were_asked(tmp_path: Path) -> None:
    """Code that shuffles with a generator of its own (stock: gpqa, n-shot): lm-evaluation-harness 0.4.13 reads documents
    again for scoring, so that they are not what the model was asked; of 20 documents 5 were, in a trial."""
    code(
        tmp_path,
        "import random\nrng = random.Random(42)\n"
        "def rows(dataset):\n"
        "    def mixed(doc):\n        rng.shuffle(doc['options'])\n        return {'options': doc['options']}\n"
        "    return dataset.map(mixed)\n"
        "def results(doc, answers):\n    return {'acc': float(doc['options'][0] == '1')}\n",
    )
    rows = [{"question": "?", "options": list("12345"), "right": 0}] * 30
    task = choice_task(
        tmp_path,
        rows=rows,
        process_docs="!function work.rows",
        doc_to_text="Order: {{options | join}}",
        process_results="!function work.results",
    )
    for planned in plans(task):
        asked = str(planned.requests[0].context)
        answers = [nats(-1, -2, -3, -4, -5)(request) for request in planned.requests]
        assert task.items(planned, answers) == {("acc", "none"): float(asked.startswith("Order: 1"))}


def test_task_code_cannot_change_the_document(tmp_path: Path) -> None:
    code(tmp_path, "def ask(doc):\n    doc['options'].append('more')\n    return doc.pop('question')\n")
    task = choice_task(tmp_path, doc_to_text="!function work.ask", doc_to_choice=["a", "b"])
    planned = plans(task)
    assert planned[3].doc == {"question": "What is 4 + 4?", "options": ["4", "8"], "right": 1}


def test_data_made_by_a_function(tmp_path: Path) -> None:
    code(
        tmp_path,
        "def make(**settings):\n"
        "    assert settings['config_source'].endswith('sums.yaml')\n"
        "    rows = [{'question': f'Q{n}', 'options': ['a', 'b'], 'right': 1} for n in range(settings['count'])]\n"
        "    return {settings['name']: rows}\n",
    )
    fields = {
        "custom_dataset": "!function work.make",
        "dataset_kwargs": {"name": "test"},
        "metadata": {"version": 1, "count": 3},
    }
    task = choice_task(tmp_path, **fields)
    assert plans(task, shots=1)[0].requests[0].context.startswith("Q")
    assert task.size() == 3
    fields["dataset_kwargs"] = {"name": "train"}
    with pytest.raises(InputError, match=r"reads split 'test'.*it makes: train"):
        choice_task(tmp_path, **fields).size()


def test_data_sets_that_code_opens_itself(tmp_path: Path) -> None:
    write_task(tmp_path, "other")
    code(
        tmp_path,
        "import datasets\n"
        "def make(file, **_):\n"
        "    return {'test': datasets.load_dataset('json', data_files={'train': file}, split='train[:4]')}\n",
    )
    made = choice_task(
        tmp_path,
        custom_dataset="!function work.make",
        dataset_kwargs={"file": str(tmp_path / "other.jsonl")},
    )
    assert made.size() == 4


FILTERS = """
import re
from lm_eval.api.filter import Filter
from lm_eval.api.registry import register_filter
from lm_eval.filters.extraction import RegexFilter

class Last(Filter):
    def __init__(self, marker="is"):
        self.marker = marker

    def apply(self, resps, docs):
        return [[answer.rpartition(self.marker)[2].strip() for answer in answers] for answers in resps]

@register_filter("second_number")
class Second(RegexFilter):
    def __init__(self, **options):
        super().__init__(regex_pattern=r"(\\d+)", group_select=1, **options)

    def apply(self, resps, docs):
        assert self.regex.pattern and self.fallback == "[invalid]"
        return super().apply(resps, docs)

def keep(resps, docs):
    return [[answer + doc["options"][1] for answer in answers] for answers, doc in zip(resps, docs)]

class Nothing:
    pass
"""


def test_filter_classes_of_a_task(tmp_path: Path) -> None:
    code(tmp_path, FILTERS)
    first = {"function": "take_first"}
    listed = [
        {"name": "last", "filter": [{"function": "!function work.Last", "marker": "answer"}, first]},
        {"name": "second", "filter": [{"function": "second_number"}, first]},
        {"name": "own", "filter": [{"function": "custom", "filter_fn": "!function work.keep"}, first]},
    ]
    task = load(write_task(tmp_path, **GENERATION, filter_list=listed), code=True)
    (planned, *_) = plans(task, limit=1)
    items = task.items(planned, [saying("1 or the answer 2")(request) for request in planned.requests])
    assert items == {
        ("exact_match", "last"): 1.0,
        ("exact_match", "second"): 1.0,
        ("exact_match", "own"): 0.0,
    }
    listed = [{"name": "none", "filter": [{"function": "!function work.Nothing"}]}]
    with pytest.raises(InputError, match="Nothing, which has no `apply`"):
        load(write_task(tmp_path, **GENERATION, filter_list=listed), code=True)


def unsafe(folder: Path, text: str, **settings: bool) -> Task:
    code(folder, text)
    fields = {**GENERATION, "unsafe_code": True, "metric_list": [{"metric": "!function work.passes", "k": 1}]}
    path = write_task(folder, **fields)
    return Task(parse_task(read_taskfile(path), path), Hub(), allow_task_code=True, **settings)


PASSES = """
import evaluate
code_eval = evaluate.load("code_eval")

def passes(references, predictions, k):
    programs = [[prediction] for prediction in predictions]
    return code_eval.compute(references=["assert answer == " + r for r in references], predictions=programs, k=[k])[0]
"""


def test_what_a_model_writes_runs_in_the_sandbox_and_only_when_allowed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="programs that the model writes"):
        unsafe(tmp_path, PASSES)
    if sys.platform != "linux":
        pytest.skip("the sandbox is for Linux")
    task = unsafe(tmp_path, PASSES, allow_code_execution=True)
    (score,) = run(task, saying("answer = 2"), limit=2)
    assert (score.metric, score.value) == ("pass@1", 0.5)


@pytest.mark.parametrize(
    "body",
    [
        "import subprocess\n    subprocess.run(['true'])",
        "import multiprocessing as m\n    m.Process(target=print).start()",
        "exec(predictions[0])",
        "try:\n        eval(predictions[0])\n    except Exception:\n        return 0.0",
    ],
)
def test_such_code_cannot_run_it_elsewhere(tmp_path: Path, body: str) -> None:
    task = unsafe(
        tmp_path,
        f"def passes(references, predictions, k):\n    {body}\n    return 1.0\n",
        allow_code_execution=True,
    )
    (planned,) = plans(task, limit=1)
    with pytest.raises(EvaluationError, match="outside the sandbox"):
        task.items(planned, [saying("1")(request) for request in planned.requests])


def test_scripts_by_name(tmp_path: Path) -> None:
    def load_script(name: str) -> Any:
        from llmasos_evals.tasks.standins import Context

        return scripts.loader(Context("t", execution=False))(name)

    assert load_script("accuracy").compute(references=[1, 2], predictions=[1, 1]) == {"accuracy": 0.5}
    f1 = load_script("f1").compute(references=[0, 1, 2, 2], predictions=[0, 2, 2, 1], average="macro")
    assert f1["f1"] == pytest.approx((1 + 0 + 0.5) / 3)
    rouge = load_script("rouge").compute(predictions=["a b c"], references=["a b d"])
    assert rouge["rouge1"] == pytest.approx(2 / 3)
    many = [load_script("rouge").compute(predictions=["a b", "c"], references=["a b", "d"]) for _ in range(2)]
    assert many[0] == many[1]
    kept = load_script("exact_match")
    kept.add(prediction="x", reference="x")
    assert kept.compute() == {"exact_match": 1.0}
    answer = {"id": "1", "prediction_text": "the cat"}
    gold = {"id": "1", "answers": {"text": ["cat", "dog"], "answer_start": [0, 0]}}
    assert load_script("squad").compute(predictions=[answer], references=[gold])["exact_match"] == 100.0
    if importlib.util.find_spec("evaluate") is None:
        with pytest.raises(MissingDependency, match="'bleurt'"):
            load_script("bleurt")


def test_spare_scores_are_those_of_scikit_learn() -> None:
    """Values from scikit-learn 1.9.1: f1_score, precision_score and matthews_corrcoef of these labels."""
    right, said = ["a", "b", "c", "c", "b", "a", "a"], ["a", "b", "b", "c", "a", "a", "c"]
    assert f1_score(right, said, average="macro") == pytest.approx(0.5555555555555555, abs=1e-15)
    assert f1_score(right, said, average="micro") == pytest.approx(0.5714285714285714, abs=1e-15)
    assert f1_score(right, said, average="weighted") == pytest.approx(0.5714285714285714, abs=1e-15)
    assert f1_score([0, 1, 1, 0], [1, 1, 0, 0]) == 0.5
    assert precision_score([0, 1, 2], [0, 0, 0], average=None).tolist() == [1 / 3, 0.0, 0.0]
    assert matthews_corrcoef(right, said) == pytest.approx(0.34375, abs=1e-15)
    with pytest.raises(ValueError, match="more than two classes"):
        f1_score(right, said)


def test_assignment_is_optimal() -> None:
    import itertools

    import numpy as np

    generator = np.random.default_rng(3)
    for rows, columns in ((1, 1), (2, 4), (4, 2), (5, 5), (3, 6)):
        for _ in range(20):
            costs = generator.integers(0, 6, (rows, columns)).astype(float)
            first, second = linear_sum_assignment(costs)
            wide = costs if rows <= columns else costs.T
            best = min(
                sum(wide[row, column] for row, column in enumerate(chosen))
                for chosen in itertools.permutations(range(wide.shape[1]), wide.shape[0])
            )
            assert costs[first, second].sum() == best
            assert len(set(first)) == len(first) == len(set(second)) == min(rows, columns)
            assert sorted(first) == list(first)
            gains = linear_sum_assignment(costs, maximize=True)
            assert costs[gains].sum() == -(-costs)[linear_sum_assignment(-costs)].sum()


def test_short_answers() -> None:
    assert compute_exact("The  Cat.", "a cat") == 1
    assert compute_f1("a big cat", "cat") == pytest.approx(2 / 3)
    assert compute_f1("", "the") == 1
    assert compute_f1("dog", "cat") == 0


def test_code_is_not_run_without_permission(tmp_path: Path) -> None:
    code(tmp_path, FILTERS)
    listed = [{"name": "last", "filter": [{"function": "!function work.Last"}]}]
    path = write_task(tmp_path, **GENERATION, filter_list=listed)
    with pytest.raises(LlmasosError, match="was not allowed"):
        select([str(path)], include=[], hub=Hub(), allow_task_code=False)
