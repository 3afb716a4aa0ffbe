"""Templates and patterns of strangers: what would run for ever or fill the memory is refused, what tasks write is not."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment
from task_files import CHOICE, GENERATION, load, plans, run, saying, write_task

from llmasos.api import EvaluationError, InputError
from llmasos_evals.patience import Patience
from llmasos_evals.tasks import metering
from llmasos_evals.tasks.templates import MAX_TEMPLATE, compiled

DOC = {
    "question": " What {is} this?\nA thing, 100 %. ",
    "choices": ["red", "Dark red", "blue & green"],
    "answer": 2,
    "meta": {"kind": "b", "tags": [], "none": None},
    "rows": [{"n": 3, "of": "x"}, {"n": 1, "of": "y"}, {"n": 2, "of": "x"}],
}
BIG = "{% set big = 'a' * 100000 %}"
BLOCK = """{% set ns = namespace(n=0) %}{% block b %}{% set ns.n = ns.n + 1 %}{% if ns.n < 30 %}{{ self.b() }}{{ self.b() }}
{% endif %}{% set ns.n = ns.n - 1 %}{% endblock %}"""
LOOP = "{% for i in range(100000) %}{% for j in range(100000) %}"
DOUBLING = "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = OPERATION %}{% endfor %}"


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 3000000000 }}",
        "{{ 3000000000 * [1] }}",
        "{{ 2 ** 3000000000 }}",
        "{% for i in range(64) %}{% set n = 7 ** 1000 %}{{ n * n * n }}{% endfor %}",
        "{{ 'a'.center(3000000000) }}",
        "{{ 'a'.ljust(width=3000000000) if false else 'a'.zfill(3000000000) }}",
        "{{ 'a\t'.expandtabs(3000000000) }}",
        "{{ (1).to_bytes(3000000000, 'big') }}",
        "{{ 'a' | center(3000000000) }}",
        "{{ ['a'] | map('center', 3000000000) | list }}",
        "{{ 'a\nb' | indent(3000000000) }}",
        "{{ ['a'] | batch(3000000000, 'x') | list }}",
        "{{ [1] | tojson(indent=3000000000) }}",
        "{{ '%3000000000d' % 1 }}",
        "{{ '%*d' % (3000000000, 1) }}",
        "{{ '%3000000000d' | format(1) }}",
        "{{ '{:3000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 3000000000) }}",
        "{{ '{x:3000000000}'.format_map({'x': 1}) }}",
        BIG + "{{ big.replace('a', big) }}",
        BIG + "{{ big | replace('a', big) }}",
        BIG + "{{ big | regex_replace('a', big) }}",
        BIG + "{{ big.join(big) }}",
        BIG + "{{ big | join(big) }}",
        BIG + "{{ big.join(range(100000) | map('string')) }}",
        BIG + "{{ (range(10000) | map('replace', '1', big)) | join }}",
        BIG + "{{ big | wordwrap(1, wrapstring=big) }}",
        BIG + "{{ big.translate({97: big}) }}",
        BIG + "{% for i in range(100000) %}{{ big }}{% endfor %}",
        BIG + "{% for i in range(100000) %}{{ big ~ i }}{% endfor %}",
        BIG + "{% for i in range(100000) %}{% if big == 'a' %}{% endif %}{% endfor %}",
        BIG + "{% for i in range(100000) %}{% set x = big[1:] %}{% endfor %}",
        DOUBLING.replace("OPERATION", "ns.x + ns.x"),
        DOUBLING.replace("OPERATION", "ns.x ~ ns.x"),
        DOUBLING.replace("OPERATION", "ns.x | replace('a', 'aa') | replace('b', 'bb')"),
        DOUBLING.replace("OPERATION", "[ns.x, ns.x]") + "{{ ns.x }}",
        DOUBLING.replace("OPERATION", "[ns.x, ns.x]") + "{{ ns.x | tojson }}",
        DOUBLING.replace("OPERATION", "(ns.x, ns.x)") + "{{ {ns.x: 1} | length }}",
        DOUBLING.replace("OPERATION", "(ns.x, ns.x)") + "{{ meta[ns.x] }}",
        LOOP + "x{% endfor %}{% endfor %}",
        LOOP + "{% endfor %}{% endfor %}",
        "{% set l = [1] %}{% for x in l %}{% set _ = l.append(x) %}{% endfor %}",
        "{% set l = [1] %}{% set _ = l.append(l) %}{{ l }}",
        "{% set l = [1] %}{% for i in range(60) %}{% set _ = l.extend(l) %}{% endfor %}",
        "{% for x in [1, 2] recursive %}{% if loop.depth < 40 %}{{ loop([1, 2]) }}{% endif %}{% endfor %}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        BLOCK,
        "{{ range(100000) | select('in', range(100000) | list) | list }}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{1}}" * 1001,
        "x" * (MAX_TEMPLATE + 1),
    ],
    ids=itertools.count(),
)
def test_what_costs_too_much_is_refused(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metering, "MAX_STEPS", 300_000)  # enough for what comes before the harm
    monkeypatch.setattr(metering, "MAX_CHARACTERS", 10_000_000)
    monkeypatch.setattr(metering, "MAX_NODES", 1000)
    with pytest.raises(metering.TemplateTooCostly):
        compiled(template).render(DOC)


def test_the_budget_is_spent_in_seconds() -> None:
    begin = time.process_time()
    for template in (LOOP + "x{% endfor %}{% endfor %}", "{% set l = [1] %}{% set _ = l.append(l) %}{{ l }}"):
        with pytest.raises(metering.TemplateTooCostly):
            compiled(template).render(DOC)
    assert time.process_time() - begin < 20


@pytest.mark.parametrize(
    "template",
    [
        "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[-1]}}\nAnswer:",
        "{% for c in choices %}{{ loop.index }}/{{ loop.length }} {{ c | trim }}{{ ', ' if not loop.last }}{% endfor %}",
        "{% for c in choices | map('upper') %}{{ loop.revindex }} {{ c }}{% else %}none{% endfor %}",
        "{% for key, value in meta.items() %}{{ key }}={{ value }};{% endfor %}{% for k in meta %}{{ k }}{% endfor %}",
        "{% for r in rows if r.n > 1 %}{{ r['of'] }}{% endfor %}{% for c in meta.tags %}{% else %}empty{% endfor %}",
        "{{ rows | map(attribute='n') | sum }} {{ rows | sort(attribute='n') | map(attribute='of') | join('-') }}",
        "{% for of, group in rows | groupby('of') %}{{ of }}{{ group | length }}{% endfor %}",
        "{{ rows | selectattr('of', 'equalto', 'x') | list | length }} {{ choices | reject('in', ['red']) | list }}",
        "{{ ['A', 'B', 'C'][answer] }} {{ choices[answer] }} {{ question[1:5] }} {{ choices[:2] }}",
        "{{ {'a': 1, 'b': 2}[meta.kind] }} {{ meta.get('kind', 'z') }} {{ 'kind' in meta }} {{ answer in [1, 2] }}",
        "{{ question | replace('\n', ' ') }} {{ question.replace('is', 'was').split(' ') | join('_') }}",
        "{{ ' '.join(choices) }} {{ ', '.join(choices | map('title')) }} {{ choices | join(', ') }}",
        "{{ '%s of %d: %05.2f' % (question, answer, 3.14159) }} {{ '%-10s|' | format('ab') }}",
        "{{ 'In 19999 {} {x:>12}'.format(answer, x='y') }} {{ '{0[0]}'.format(choices) }}",
        "{{ choices | tojson }} {{ meta | tojson(indent=2) }} {{ rows | string }} {{ choices | pprint }}",
        "{{ meta.none is none }} {{ nothing is defined }} {{ nothing | default('d') }} {{ answer is divisibleby 2 }}",
        "{% set ns = namespace(n=0) %}{% for r in rows %}{% set ns.n = ns.n + r.n %}{% endfor %}{{ ns.n }}",
        "{% set l = [] %}{% for c in choices %}{% set _ = l.append(c) %}{% endfor %}{{ l | length }}",
        "{% macro m(a, b='z') %}[{{ a }}{{ b }}]{% endmacro %}{{ m(1) }}{{ m(2, b=3) }}{% macro n(a) %}{{ caller() }}{% endmacro %}{% call n(4) %}c{% endcall %}",
        "{% filter upper %}a {{ question }}{% endfilter %}{% set x %}b{{ answer }}{% endset %}{{ x }}",
        "{% for x in [1, [2, 3]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}",
        "{{ choices | batch(2, 'z') | list }} {{ choices | slice(2) | list }} {{ 'ab' | center(9) }}",
        "{{ question | indent(2) }} {{ question | wordwrap(5) }} {{ question | truncate(9) }} {{ '<' | e }}",
        "{{ question | wordcount }} {{ choices | first }} {{ choices | last }} {{ choices | random | length > 0 }}",
        "{{ (answer + 1) * 3 // 2 - 4 % 3 }} {{ 2 ** 10 }} {{ 'a' * 3 }} {{ [1] * 2 + [3] }} {{ answer ~ 'x' }}",
        "{{ choices | dictsort if false else meta | dictsort }} {{ choices | unique | list }} {{ choices | max }}",
        "{{ dict(a=1) }} {{ range(3) | list }} {{ cycler('a', 'b').next() }} {{ joiner('|')() }}",
        "{# nothing #}{% raw %}{{ raw }}{% endraw %}{%- if answer == 2 -%} yes {%- elif answer %}no{% endif %}\n",
    ],
)
def test_what_tasks_write_is_what_jinja_makes_of_it(template: str) -> None:
    plain = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    assert compiled(template).render(DOC) == plain.from_string(template).render(DOC)


@pytest.mark.parametrize(
    ("text", "document"),
    [
        ("x" * 2_000_000, "{{text.strip()}} {{text}}"),
        ("w " * 100_000, "{% for w in text.split(' ') %}{{w}} {% endfor %}"),
    ],
    ids=["characters", "words"],
)
def test_long_documents_are_no_harm(text: str, document: str) -> None:
    assert len(compiled(document).render({"text": text})) >= len(text) - 2


def test_the_error_names_task_file_and_field(tmp_path: Path) -> None:
    path = write_task(tmp_path, **{**CHOICE, "doc_to_text": "{{ question * 3000000000 }}"})
    with pytest.raises(
        InputError, match=r"sums\.yaml: task sums: `doc_to_text` is refused: it makes more"
    ) as caught:
        plans(load(path))
    assert "process_docs" in str(caught.value.hint)
    path = write_task(tmp_path, **{**CHOICE, "doc_to_text": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}"})
    with pytest.raises(InputError, match=r"`doc_to_text` is not a valid template: it is nested too deeply"):
        load(path)


# ---- patterns -----------------------------------------------------------------------------------------------------------

EXPONENTIAL = {"regex_pattern": "(a+)+$"}
ENDLESS = "a" * 40 + "!"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmasos_evals.patience.SECONDS", 0.2)


def _filtered(tmp_path: Path, steps: Any, **more: Any) -> Any:
    return load(write_task(tmp_path, **GENERATION, **more, filter_list=[{"name": "slow", "filter": steps}]))


@pytest.mark.parametrize(
    "steps",
    [
        [{"function": "regex", **EXPONENTIAL}, {"function": "take_first"}],
        [{"function": "multi_choice_regex", **EXPONENTIAL}, {"function": "take_first"}],
        [{"function": "multi_choice_regex", "regexes_to_ignore": ["(a+)+$"]}, {"function": "take_first"}],
    ],
    ids=["regex", "multi_choice_regex", "regexes_to_ignore"],
)
def test_a_pattern_without_end_is_stopped(tmp_path: Path, impatient: None, steps: Any) -> None:
    rows = [{"question": "q", "options": ["x", "y"], "choices": ["x", "y"], "right": 1}]
    task = _filtered(tmp_path, steps, rows=rows)
    with pytest.raises(EvaluationError, match=r"task sums: filter 'slow': step .* \(document 0\)") as caught:
        run(task, saying(ENDLESS))
    assert "repeat inside a repeat" in str(caught.value.hint)


def test_patterns_of_metrics_and_templates_are_stopped_too(tmp_path: Path, impatient: None) -> None:
    metric = {"metric": "exact_match", "regexes_to_ignore": ["(a+)+$"]}
    task = load(write_task(tmp_path, **GENERATION, metric_list=[metric]))
    with pytest.raises(
        EvaluationError, match="exact_match: regexes_to_ignore: a regular expression takes more"
    ):
        run(task, saying(ENDLESS))
    text = "{{ '" + ENDLESS + "' | regex_replace('(a+)+$', '') }}"
    task = load(write_task(tmp_path, **{**CHOICE, "doc_to_text": text}))
    with pytest.raises(EvaluationError, match=r"task sums: `doc_to_text`: regex_replace: a regular"):
        plans(task)


def test_patience_leaves_nothing_behind() -> None:
    before = signal.getsignal(signal.SIGVTALRM)
    with Patience("quick"):
        assert signal.getitimer(signal.ITIMER_VIRTUAL)[0] > 0
    assert signal.getsignal(signal.SIGVTALRM) == before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


def test_in_another_thread_nothing_is_limited_and_nothing_breaks() -> None:
    found: list[str] = []

    def search() -> None:
        with Patience("elsewhere"):
            found.append("done")

    thread = threading.Thread(target=search)
    thread.start()
    thread.join()
    assert found == ["done"]
