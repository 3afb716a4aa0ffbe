"""Chat templates: the same text as transformers for honest templates, a quick refusal for hostile ones."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from llmasos.api import TokenizerError
from llmasos_tokenizers.chat import ChatTemplate

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
STRICT = """{{- bos_token }}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' + message['content'] | trim + ' [/INST]' }}
    {%- elif message['role'] == 'assistant' %}
        {%- generation %}{{ ' ' + message['content'] + eos_token }}{% endgeneration %}
    {%- endif %}
{%- endfor %}
"""
TOOLS = """{%- macro describe(spec, level=0) %}
{%- for key, value in spec | dictsort %}
{%- if value is mapping %}
{{ '  ' * level }}{{ key }}: {{ describe(value, level + 1) }}
{%- else %}
{{ '  ' * level }}{{ key }}={{ value | tojson }}
{%- endif %}
{%- endfor %}
{%- endmacro %}
{%- set ns = namespace(last=-1, seen=[]) %}
{%- for message in messages[::-1] %}
{%- if ns.last < 0 and message.role == "user" and not (message.content is string and message.content.startswith('<tool>')) %}
{%- set ns.last = messages | length - loop.index %}
{%- endif %}
{%- endfor %}
{%- if tools %}{{ "Tools:" ~ tools | length ~ "\\n" }}{% for tool in tools %}{{ describe(tool) }}
{{ tool | tojson(indent=2) }}{% endfor %}{% endif %}
{%- for message in messages if message.role != "tool" %}
    {%- if loop.index0 > ns.last %}{% set mark = '>' %}{% else %}{% set mark = '' %}{% endif %}
    {%- if message.content is string %}{% set text = message.content %}
    {%- else %}{% set text = message.content | map(attribute='text') | select('string') | join(' / ') %}{% endif %}
{{ mark }}{{ "%s:" | format(message.role) }} {{ text.split('</think>')[-1].lstrip('\\n') | replace('a', 'b') | upper }}
{%- if not loop.last %}{{ '\\n' }}{% endif %}
    {%- if loop.index > 20 %}{% break %}{% endif %}
{%- endfor %}
{{- messages | selectattr('role', 'equalto', 'user') | list | length }}|{{ range(3) | join(',') }}
{%- set d = dict(a=1, b=[1, 2]) %}{{ d }}{{ d.items() | list }}{{ d.get('z', 'none') }}{{ (1.5 | round) ~ (7 // 2) ~ (2 ** 5) }}
"""
CHATS: list[list[dict[str, Any]]] = [
    [],
    [{"role": "user", "content": "Hi"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "  spaces \n"}],
    [
        {"role": "user", "content": "één ünïcode 👍 <|im_end|>"},
        {"role": "assistant", "content": "<think>hm</think>\nanswer"},
        {"role": "user", "content": "and?"},
    ],
    [{"role": "user", "content": "{{ 7 * 7 }} {% raw %}"}, {"role": "assistant", "content": ""}],
]
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}


def _theirs(template: str, chat: list[dict[str, Any]], prompt: bool, **variables: Any) -> str:
    rendered, _ = render_jinja_template(
        [chat], chat_template=template, add_generation_prompt=prompt, **variables
    )
    return str(rendered[0])


@pytest.mark.parametrize("template", [CHATML, TOOLS], ids=["chatml", "tools"])
@pytest.mark.parametrize("chat", CHATS, ids=range(len(CHATS)))
@pytest.mark.parametrize("prompt", [True, False])
def test_the_text_is_what_transformers_renders(
    template: str, chat: list[dict[str, Any]], prompt: bool
) -> None:
    ours = ChatTemplate(template).render(chat, add_generation_prompt=prompt, variables=NAMES)
    assert ours == _theirs(template, chat, prompt, **NAMES)


def test_tools_and_content_parts_render_as_in_transformers() -> None:
    tools = [
        {"type": "function", "function": {"name": "f", "parameters": {"x": {"type": "int"}, "ü": [1, None]}}}
    ]
    chat = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    ours = ChatTemplate(TOOLS).render(chat, add_generation_prompt=True, variables={**NAMES, "tools": tools})
    assert ours == _theirs(TOOLS, chat, True, tools=tools, **NAMES)
    assert '"name": "f"' in ours


def test_a_template_may_refuse_a_conversation() -> None:
    template = ChatTemplate(STRICT)
    good = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert template.render(good, add_generation_prompt=False, variables=NAMES) == _theirs(
        STRICT, good, False, **NAMES
    )
    with pytest.raises(TokenizerError, match="roles must alternate"):
        template.render(good[::-1], add_generation_prompt=False, variables=NAMES)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text(max_size=40)}
        ),
        max_size=6,
    )
)
def test_any_text_passes_through_unchanged(chat: list[dict[str, str]]) -> None:
    assert ChatTemplate(CHATML).render(chat, add_generation_prompt=True) == _theirs(CHATML, chat, True)


def test_the_date_comes_from_the_caller() -> None:
    source = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% else %}26 Jul 2024{% endif %}"
    template = ChatTemplate(source)
    assert template.render([], add_generation_prompt=False) == "26 Jul 2024"
    assert template.render([], add_generation_prompt=False, variables={"now": "2026-01-31"}) == "31 Jan 2026"
    with pytest.raises(TokenizerError, match="not a date"):
        template.render([], add_generation_prompt=False, variables={"now": "yesterday"})
    with pytest.raises(TokenizerError, match="strftime_now"):
        ChatTemplate("{{ strftime_now('%Y') }}").render([], add_generation_prompt=False)


def test_long_conversations_stay_within_the_budget() -> None:
    chat = [{"role": ("user", "assistant")[i % 2], "content": f"turn {i} " * 40} for i in range(2000)]
    ours = ChatTemplate(TOOLS.replace("{%- if loop.index > 20 %}{% break %}{% endif %}", "")).render(
        chat, add_generation_prompt=True
    )
    assert ours.count("TURN 1999") == 40


def test_many_threads_may_render_one_template() -> None:
    template = ChatTemplate(CHATML)
    wrong: list[str] = []

    def work(number: int) -> None:
        for turn in range(50):
            text = template.render(
                [{"role": "user", "content": f"{number}/{turn}"}], add_generation_prompt=False
            )
            if f"user\n{number}/{turn}<" not in text:
                wrong.append(text)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ raise_exception.__globals__ }}",
    "{{ range.__self__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ (messages | attr('__class__')) }}",
    "{{ ''['__class__'] }}",
    "{{ '{0.__class__.__mro__}'.format('') }}",
    "{{ '{x.__class__}'.format_map({'x': 1}) }}",
    "{% set ns = namespace(__class__='x') %}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "{{ [''] | map(attribute='__class__') | list | first }}",
    "{{ messages.append(1) }}",
    "{{ {}.update(a=1) }}",
    "{% import 'os' as os %}",
    "{% from 'x' import y %}",
    "{% include '/etc/passwd' %}",
    "{% extends 'x' %}",
    "{{ joiner }}{{ joiner.__init__ }}",
    "{% block a %}{% endblock %}{{ self.a.__func__ }}",
    "{{ loop }}{{ caller.__closure__ }}{{ x() }}",
    "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "{{ (1).__add__(1) }}",
    "{% for x in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "{{ 'a'.encode('utf-8') }}",
    "{{ 'aa'.translate({97: 'b' * 9}) }}",
    "{{ 1",
    "{% for %}",
    "{{ x | nosuchfilter }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_escapes_are_refused_or_see_nothing(source: str) -> None:
    try:
        text = ChatTemplate(source).render([{"role": "user", "content": "x"}], add_generation_prompt=False)
    except TokenizerError:
        return
    for secret in ("<class", "<module", "<function", "root:", "uid=", "<bound", "<built-in"):
        assert secret not in text


DOUBLED = "{% set ns = namespace(x='a') %}{% for i in range(64) %}{% set ns.x = OP %}{% endfor %}{{ ns.x | length }}"
SHARED = "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(64) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}"
EXPENSIVE = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "{% for a in range(100000000) %}{% endfor %}",
    "{{ 'a' * 1000000000 }}",
    "{{ ['a'] * 1000000000 }}",
    "{{ [0] * 99999999999999999999 }}",
    "{{ 10 ** (10 ** 10) }}",
    "{{ 2 ** 100000000 }}",
    "{% set ns = namespace(x=3) %}{% for i in range(64) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "{% set ns = namespace(x=3) %}{% for i in range(90000) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x=3) %}{% for i in range(90000) %}{% set ns.x = ns.x - (0 - ns.x) %}{% endfor %}",
    DOUBLED.replace("OP", "ns.x + ns.x"),
    DOUBLED.replace("OP", "ns.x ~ ns.x"),
    DOUBLED.replace("OP", "[ns.x, ns.x] | join"),
    DOUBLED.replace("OP", "ns.x.join([ns.x, ns.x])"),
    DOUBLED.replace("OP", "ns.x.replace('a', 'aa')"),
    DOUBLED.replace("OP", "ns.x | replace('a', 'aa')"),
    DOUBLED.replace("OP", "(ns.x ~ '\\n' ~ ns.x) | indent(90, true)"),
    DOUBLED.replace("OP", "'%s%s' % (ns.x, ns.x)"),
    DOUBLED.replace("OP", "'%s%s' | format(ns.x, ns.x)"),
    DOUBLED.replace("OP", "'{0}{0}'.format(ns.x)"),
    DOUBLED.replace("OP", "(ns.x, ns.x) | string"),
    DOUBLED.replace("OP", "(ns.x, ns.x) | tojson"),
    DOUBLED.replace("OP", "(ns.x ~ '&' ~ ns.x) | escape | string"),
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{w}}'.format(1, w=1000000000) }}",
    "{{ 'a'.center(1000000000) }}",
    "{{ 'a'.zfill(1000000000) }}",
    "{{ 'a' | center(1000000000) }}",
    "{{ 'a' | indent(1000000000, true) }}",
    "{{ [1] | tojson(indent=1000000000) }}",
    "{{ range(100000) | list | tojson }}" * 200,
    SHARED + "{{ ns.x }}",
    SHARED + "{{ ns.x ~ '' }}",
    SHARED + "{{ ns.x | string }}",
    SHARED + "{{ ns.x | tojson }}",
    SHARED + "{{ ns.x == ns.y }}",
    SHARED + "{{ ns.x in [ns.y] }}",
    SHARED + "{{ [ns.x, ns.y] | unique | list }}",
    SHARED + "{{ [ns.x, ns.y] | sort | length }}",
    SHARED + "{{ [ns.x, ns.y].index(ns.y) }}",
    SHARED + "{{ [ns.x, ns.y] | select('equalto', ns.y) | list | length }}",
    SHARED + "{{ '%s' % [ns.x] }}",
    SHARED + "{{ ns.x | upper }}",
    SHARED.replace("[ns.x, ns.x]", "(ns.x, ns.x)").replace("x=[1]", "x=1") + "{{ {ns.x: 1} | length }}",
    SHARED.replace("[ns.x, ns.x]", "(ns.x, ns.x)").replace("x=[1]", "x=1") + "{{ {}[ns.x] }}",
    SHARED.replace("[ns.x, ns.x]", "(ns.x, ns.x)").replace("x=[1]", "x=1") + "{{ {}.get(ns.x) }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f() %}" + "x" * 9000 + "{% endmacro %}{% for i in range(90000) %}{% set y = f() %}{% endfor %}",
    "{% set y %}{% for i in range(90000) %}" + "x" * 9000 + "{% endfor %}{% endset %}",
    "{% for i in range(90000) %}{% set y = messages[0].content[1:] %}{% endfor %}",
    "{% for i in range(90000) %}{% set y = 'zz' in messages[0].content %}{% endfor %}",
    "{% for i in range(90000) %}{% set y = messages[0].content.split('a') %}{% endfor %}",
    "{% for i in range(90000) %}{% set y = ([0] * 90000) | select | first %}{% endfor %}",
    "{% for i in range(90000) %}{% set y = range(90000) | select('none') | first %}{% endfor %}",
    "{% for i in range(90000) %}{% set y = range(90000) | sum %}{% endfor %}",
    "{% for i in range(90000) %}{% set y = range(90000) | map('string') | join %}{% endfor %}",
    "{% for i in range(90000) %}{% set y = range(90000) | list %}{% endfor %}",
    "{% for i in range(90000) %}{% set y = 'x'.join(range(90000) | map('string')) %}{% endfor %}",
    "{% set x = range(90000) | list %}{% for i in range(90000) %}{% set y = x | reverse | list %}{% endfor %}",
    "{% set x = range(90000) | list %}{% for i in range(90000) %}{% set y = x + x %}{% endfor %}",
    "{% set x = range(90000) | list %}{% for i in range(90000) %}{% set y = x == x[:] %}{% endfor %}",
    "{% for a in range(99999) if range(99999) | map('int') | sum %}{% endfor %}",
    "{% for a in range(99999) %}" + "{{ a }}" * 5000 + "{% endfor %}",
    "{{ " + "(" * 20000 + "1" + ")" * 20000 + " }}",
    "{{ " + "-" * 20000 + "1 }}",
    "{{ " + "[" * 3000 + "]" * 3000 + " }}",
    "{% if 1 %}" * 5000 + "{% endif %}" * 5000,
    "x" * 300_000,
    "{{ x }}" * 40_000,
]


PROGRAM = """
import json, resource, sys, time
from llmasos_tokenizers.chat import ChatTemplate
from llmasos.api import TokenizerError
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ChatTemplate("x").render([], add_generation_prompt=False)
results = []
for source in json.load(open(sys.argv[1])):
    before, began, answer = peak(), time.process_time(), None
    try:
        ChatTemplate(source).render([{"role": "user", "content": "abcdefgh" * 1000}], add_generation_prompt=False)
    except TokenizerError as error:
        answer = error.message
    results.append([answer, time.process_time() - began, (peak() - before) // 1024])
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str | None, float, int]]:
    """(refusal, CPU seconds, growth of the memory peak in MiB) of each expensive template, in one child process."""
    templates = tmp_path_factory.mktemp("templates") / "templates.json"
    templates.write_text(json.dumps(EXPENSIVE), encoding="utf-8")
    command = [sys.executable, "-c", PROGRAM, str(templates)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=True)
    return [tuple(outcome) for outcome in json.loads(done.stdout)]


@pytest.mark.parametrize("number", range(len(EXPENSIVE)))
def test_expensive_templates_are_stopped(number: int, outcomes: list[tuple[str | None, float, int]]) -> None:
    answer, seconds, mebibytes = outcomes[number]
    assert answer is not None, EXPENSIVE[number][:200]
    assert seconds < 2  # about 0.2; CPU time, but the machine may be slow
    assert mebibytes < 64


def test_values_are_copied_to_plain_types() -> None:
    class Trap(str):
        def upper(self) -> str:
            raise AssertionError("a method of the caller's object was called")

    rendered = ChatTemplate("{{ messages[0].content.upper() }}").render(
        [{"role": "user", "content": Trap("x")}], add_generation_prompt=False
    )
    assert rendered == "X"
    with pytest.raises(TokenizerError, match="object"):
        ChatTemplate("x").render([{"role": "user", "content": object()}], add_generation_prompt=False)


def test_tojson_writes_what_json_writes() -> None:
    value = {"b": [1, 2.5, None, True, "ü</script>"], "a": {}}
    template = ChatTemplate("{{ v | tojson }}|{{ v | tojson(indent=4, sort_keys=true) }}")
    expected = (
        json.dumps(value, ensure_ascii=False)
        + "|"
        + json.dumps(value, ensure_ascii=False, indent=4, sort_keys=True)
    )
    assert template.render([], add_generation_prompt=False, variables={"v": value}) == expected
