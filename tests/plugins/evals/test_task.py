"""From documents to requests, and from responses to scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from task_files import CHOICE, GENERATION, load, nats, plans, run, saying, write_task

from llmasos.api import EvaluationError, InputError, Response


def contexts(task: Any, **options: Any) -> list[str]:
    return [request.context for planned in plans(task, **options) for request in planned.requests]


def test_multiple_choice_requests(tmp_path: Path) -> None:
    planned = plans(load(write_task(tmp_path, **CHOICE)), limit=2)
    everything = plans(load(write_task(tmp_path, **CHOICE)))
    assert plans(load(write_task(tmp_path, **CHOICE)), limit=10**30) == everything
    assert [(r.kind, r.key, r.context, r.continuation) for r in planned[1].requests] == [
        ("loglikelihood", ("sums", 1, 0), "What is 2 + 2?", " 2"),
        ("loglikelihood", ("sums", 1, 1), "What is 2 + 2?", " 4"),
    ]
    assert planned[1].target == 1
    assert len({document.doc_digest for document in planned}) == 2


def test_a_column_name_is_the_raw_value_and_digits_are_numbers_only_with_choices(tmp_path: Path) -> None:
    rows = [{"question": "{{x}} 5", "options": ["5", "6"], "right": 1, "digits": "1"}]
    task = load(
        write_task(
            tmp_path, rows=rows, **{**CHOICE, "doc_to_text": "question", "doc_to_target": "{{digits}}"}
        )
    )
    (planned,) = plans(task)
    assert planned.requests[0].context == "{{x}} 5"
    assert planned.target == 1
    (planned,) = plans(load(write_task(tmp_path, rows=rows, **{**GENERATION, "doc_to_target": "{{digits}}"})))
    assert planned.target == "1"


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        (["no", "yes"], ["no", "yes"]),
        ({"A": "no", "B": "yes"}, ["no", "yes"]),
        ("options", ["1", "2"]),
        ("{{[question, 'b']}}", ["What is 1 + 1?", "b"]),
    ],
)
def test_choices_as_list_mapping_column_and_template(
    tmp_path: Path, choices: Any, expected: list[str]
) -> None:
    (planned,) = plans(load(write_task(tmp_path, **{**CHOICE, "doc_to_choice": choices})), limit=1)
    assert [request.continuation for request in planned.requests] == [" " + choice for choice in expected]


def test_choices_in_the_prompt(tmp_path: Path) -> None:
    rows = [{"before": ["He", "She"], "who": 1, "rest": "sang."}]
    fields = {**CHOICE, "doc_to_text": "who", "doc_to_choice": "before", "doc_to_target": "rest"}
    task = load(write_task(tmp_path, rows=rows, **fields))
    (planned,) = plans(task)
    assert [(r.context, r.continuation) for r in planned.requests] == [("He", " sang."), ("She", " sang.")]
    assert run(task, nats(-2.0, -1.0))[0].value == 1.0


def test_rolling_text_and_perplexities(tmp_path: Path) -> None:
    rows = [{"text": "two words"}, {"text": "and three more"}]
    task = load(
        write_task(
            tmp_path,
            rows=rows,
            output_type="loglikelihood_rolling",
            test_split="test",
            doc_to_target="text",
            doc_to_text="",
        )
    )
    assert contexts(task) == ["two words", "and three more"]
    assert task.shots(4) == 0  # the record says what was done
    scores = {score.metric: score for score in run(task, lambda r: Response(r.key, logprob=-10.0))}
    assert scores["word_perplexity"].value == pytest.approx(2.718281828459045**4)
    assert scores["bits_per_byte"].value == pytest.approx(20 / 23 / 0.6931471805599453)
    assert all(score.stderr > 0 and not score.higher_is_better for score in scores.values())


def test_gen_prefix_starts_the_answer(tmp_path: Path) -> None:
    fields = {
        **CHOICE,
        "gen_prefix": "Answer:",
        "num_fewshot": 1,
        "fewshot_split": "test",
        "target_delimiter": "\n",
    }
    context = contexts(load(write_task(tmp_path, **fields)), limit=1)[0]
    shot, question = context.split("\n\n")
    assert shot.startswith("What is ")
    assert "\nAnswer: " in shot
    assert question == "What is 1 + 1?\nAnswer:"


def test_description_may_use_the_document(tmp_path: Path) -> None:
    task = load(write_task(tmp_path, **CHOICE, description="About {{options[0]}}.\n"))
    assert contexts(task, limit=1)[0] == "About 1.\nWhat is 1 + 1?"


def test_repeats_ask_again(tmp_path: Path) -> None:
    (planned,) = plans(load(write_task(tmp_path, **GENERATION, repeats=3)), limit=1)
    assert [request.key for request in planned.requests] == [("sums", 0, 0), ("sums", 0, 1), ("sums", 0, 2)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"doc_to_text": "{{quesion}}"},
            r"`doc_to_text` cannot be rendered: UndefinedError: 'quesion' is undefined",
        ),
        ({"doc_to_text": "{{options.index('9')}}"}, "is not in list"),
        ({"doc_to_text": "{{question.__class__.__mro__}}"}, "SecurityError"),
        ({"doc_to_text": "options"}, "`doc_to_text` gives list, not text"),
        ({"doc_to_choice": "question"}, "must give a list of choices"),
        ({"doc_to_choice": "{{question}}"}, "should render to a Python literal"),
        ({"doc_to_choice": "{{['']}}", "target_delimiter": ""}, r"continuation 0 is empty.*document 0"),
    ],
)
def test_documents_that_make_no_prompt(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    task = load(write_task(tmp_path, **{**CHOICE, **fields}))
    with pytest.raises(InputError, match=message):
        plans(task)


def test_the_hint_of_a_failed_template_lists_the_columns(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        plans(load(write_task(tmp_path, **{**CHOICE, "doc_to_text": "{{quesion}}"})))
    assert caught.value.hint == "the document has the columns options, question, right"


def test_a_label_that_names_no_choice_scores_zero_and_is_counted(tmp_path: Path) -> None:
    rows = [{"question": "q", "options": ["a", "b"], "right": right} for right in (0, 7, "b", "z")]
    task = load(write_task(tmp_path, rows=rows, **CHOICE))
    answers = nats(-1.0, -1.0)
    assert run(task, answers)[0].value == 0.25  # first wins ties: right only where 0 is
    seen = [task.observe(planned, [answers(r) for r in planned.requests]) for planned in plans(task)]
    assert [one["labels_out_of_range"] for one in seen] == [0, 1, 0, 1]
    assert [one["ties"] for one in seen] == [1, 1, 1, 1]


def test_a_missing_label_is_an_error(tmp_path: Path) -> None:
    rows = [{"question": "q", "options": ["a", "b"], "right": None}]
    with pytest.raises(EvaluationError, match=r"a document has no right choice.*\(document 0\)"):
        run(load(write_task(tmp_path, rows=rows, **CHOICE)), nats(-1.0, -2.0))


def test_answers_that_are_missing_or_incomplete_are_errors(tmp_path: Path) -> None:
    task = load(write_task(tmp_path, **CHOICE))
    (planned,) = plans(task, limit=1)
    first = Response(planned.requests[0].key, logprob=-1.0, is_greedy=True)
    with pytest.raises(EvaluationError, match="no answer to request"):
        task.items(planned, [first])
    with pytest.raises(EvaluationError, match="lacks its value"):
        task.items(planned, [first, Response(planned.requests[1].key, text="4")])
    with pytest.raises(EvaluationError, match="not a number"):
        task.items(planned, [first, Response(planned.requests[1].key, logprob=float("nan"), is_greedy=False)])


def test_several_references(tmp_path: Path) -> None:
    rows = [{"question": "q", "options": ["a", "b"], "right": 0, "good": ["left", "right"]}] * 2
    task = load(write_task(tmp_path, rows=rows, **{**GENERATION, "doc_to_target": "good"}))
    assert run(task, saying("right"))[0].value == 1.0
    assert run(task, saying("middle"))[0].value == 0.0


def test_items_survive_a_json_file(tmp_path: Path) -> None:
    metrics = [{"metric": name} for name in ("exact_match", "bleu", "chrf", "ter", "rouge1", "rougeLsum")]
    task = load(write_task(tmp_path, **GENERATION, metric_list=metrics))
    items: dict[tuple[str, str], list[Any]] = {}
    for planned in plans(task):
        for key, value in task.items(
            planned, [saying("the answer is 4")(r) for r in planned.requests]
        ).items():
            items.setdefault(key, []).append(value)
    read_back = {key: json.loads(json.dumps(values)) for key, values in items.items()}
    assert read_back == items
    assert task.aggregate(read_back, bootstrap=50) == task.aggregate(items, bootstrap=50)


def test_no_standard_error_for_one_document_or_without_bootstrap(tmp_path: Path) -> None:
    task = load(write_task(tmp_path, **CHOICE))
    assert run(task, nats(-1.0, -2.0), limit=1)[0].stderr is None
    assert run(task, nats(-1.0, -2.0), limit=3, bootstrap=0)[0].stderr is None


def test_aggregating_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no documents"):
        load(write_task(tmp_path, **CHOICE)).aggregate({("acc", "none"): []}, bootstrap=10)
    assert load(write_task(tmp_path, **CHOICE)).aggregate({}, bootstrap=10) == []
