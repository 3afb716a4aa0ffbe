"""Prompts as conversations: what becomes which message, and how an answer is begun."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from task_files import CHOICE, GENERATION, load, plans, write_task

from llmasos.api import EvaluationError, TokenizerError, UsageError
from llmasos_evals.tasks.chat import ChatSettings, chat_settings

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRIMMING = CHATML.replace("message['content']", "message['content'] | trim")
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
)
FORGETFUL = "{% for message in messages[:-1] %}{{ message['content'] }}{% endfor %}end"


class Speaker:
    """A tokenizer as far as chat goes."""

    def __init__(self, template: str | None, named: Mapping[str, str] | None = None) -> None:
        self.chat_template = template
        self.chat_templates = dict(named or {})

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        add_generation_prompt: bool = True,
    ) -> str:
        from llmasos_tokenizers.chat import ChatTemplate

        template = ChatTemplate(str(self.chat_template))
        return template.render(messages, add_generation_prompt=add_generation_prompt)

    def with_chat_template(self, name: str) -> Speaker:
        return Speaker(self.chat_templates[name], self.chat_templates)


def settings(template: str = CHATML, **options: Any) -> ChatSettings:
    speaker: Any = Speaker(template)
    return chat_settings(speaker, apply_chat_template=True, **options)


def contexts(folder: Path, chat: ChatSettings, shots: int = 2, **fields: Any) -> list[str]:
    task = load(write_task(folder, **{**GENERATION, "fewshot_config": {"sampler": "first_n"}, **fields}))
    return [planned.requests[0].context for planned in plans(task, limit=4, shots=shots, chat=chat)]


def test_examples_are_turns(tmp_path: Path) -> None:
    chat = settings(system_instruction="Be brief.")
    assert contexts(tmp_path, chat, description="Sums.")[3] == (
        "<|im_start|>system\nBe brief.\n\nSums.<|im_end|>\n"
        "<|im_start|>user\nWhat is 1 + 1?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n"
        "<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n"
        "<|im_start|>user\nWhat is 4 + 4?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_examples_and_question_in_one_message(tmp_path: Path) -> None:
    chat = settings(fewshot_as_multiturn=False)
    assert contexts(tmp_path, chat, description="Sums.\n")[3] == (
        "<|im_start|>system\nSums.\n<|im_end|>\n"
        "<|im_start|>user\nWhat is 1 + 1? 2\n\nWhat is 2 + 2? 4\n\nWhat is 4 + 4?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_begun_answer_stays_open(tmp_path: Path) -> None:
    for template, end in ((CHATML, "Answer: "), (TRIMMING, "Answer:")):
        for turns in (True, False):
            chat = settings(template, fewshot_as_multiturn=turns)
            context = contexts(tmp_path, chat, shots=1, gen_prefix="Answer: ")[3]
            assert context.endswith("What is 4 + 4?<|im_end|>\n<|im_start|>assistant\n" + end), (turns, end)
            assert "Answer: 2" in context
    with pytest.raises(EvaluationError, match="does not show the beginning"):
        contexts(tmp_path, settings(FORGETFUL), gen_prefix="Answer:")


def test_open_answers_are_those_of_transformers() -> None:
    tokenizers = pytest.importorskip("transformers.utils.chat_template_utils")
    for template in (CHATML, TRIMMING):
        for begun in ("Answer:", "Answer: ", " The answer\nis"):
            messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": begun}]
            (expected,), _ = tokenizers.render_jinja_template(
                conversations=[messages], chat_template=template, continue_final_message=True
            )
            chat = settings(template)
            assert chat.template is not None
            assert chat.template.render(messages, open_answer=True) == expected


def test_delimiters_of_choices(tmp_path: Path) -> None:
    """The template ends where the answer begins; only a begun answer needs something in between."""

    def continuations(**fields: Any) -> list[str]:
        task = load(write_task(tmp_path, **CHOICE, **fields))
        (planned,) = plans(task, limit=1, chat=settings())
        return [request.continuation for request in planned.requests]

    assert continuations() == ["1", "2"]
    assert continuations(gen_prefix="So:") == [" 1", " 2"]
    assert continuations(gen_prefix="So: ") == ["1", "2"]


def test_choices_in_the_prompt_are_conversations_too(tmp_path: Path) -> None:
    fields = {**CHOICE, "doc_to_text": "right", "doc_to_target": "{{question}}"}
    task = load(write_task(tmp_path, **fields))
    (planned,) = plans(task, limit=1, chat=settings())
    assert [(request.context, request.continuation) for request in planned.requests] == [
        ("<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\n", "What is 1 + 1?"),
        ("<|im_start|>user\n2<|im_end|>\n<|im_start|>assistant\n", "What is 1 + 1?"),
    ]


def test_plain_text_with_a_system_instruction(tmp_path: Path) -> None:
    chat = chat_settings(None, system_instruction="Be brief.")
    assert contexts(tmp_path, chat, shots=0)[0] == "Be brief.What is 1 + 1?"
    assert contexts(tmp_path, chat, shots=0, description="Sums: ")[0] == "Be brief.\n\nSums: What is 1 + 1?"
    assert contexts(tmp_path, chat, shots=0, description=" Sums: ")[0] == "Be brief. Sums: What is 1 + 1?"


def test_a_template_that_refuses_system_messages(tmp_path: Path) -> None:
    task = load(write_task(tmp_path, **GENERATION, description="Sums."))
    chat = settings(NO_SYSTEM)
    (planned,) = plans(task, limit=1, chat=chat)
    assert planned.requests[0].context.startswith("<|im_start|>user\nWhat is 1 + 1?<|im_end|>")
    assert [note.split(":")[0] for note in task.notes] == ["the chat template refuses system messages"]
    with pytest.raises(TokenizerError):
        plans(task, limit=1, chat=settings("{{ raise_exception('never') }}"))


def test_templates_by_name(tmp_path: Path) -> None:
    speaker: Any = Speaker(CHATML, {"default": CHATML, "short": "{{ messages | length }}"})
    chat = chat_settings(speaker, apply_chat_template="short")
    assert contexts(tmp_path, chat, shots=2) == ["5"] * 4
    assert chat.facts()["chat_template_name"] == "short"
    with pytest.raises(UsageError, match="no chat template named 'long'") as caught:
        chat_settings(speaker, apply_chat_template="long")
    assert caught.value.hint == "it has default, short"
    bare: Any = Speaker(None)
    with pytest.raises(UsageError, match="has no chat template"):
        chat_settings(bare, apply_chat_template=True)
    with pytest.raises(UsageError, match="only in a chat template"):
        chat_settings(None, fewshot_as_multiturn=True)


def test_facts_say_what_was_applied() -> None:
    plain = chat_settings(None, system_instruction="Be brief.").facts()
    assert plain["chat_template_applied"] is False
    assert plain["system_instruction_digest"] is not None
    shown = settings().facts()
    assert (shown["chat_template_applied"], shown["fewshot_as_multiturn"]) == (True, True)
    assert json.loads(json.dumps(shown)) == shown


def test_generation_settings_of_the_user_go_on_top(tmp_path: Path) -> None:
    task = load(write_task(tmp_path, **GENERATION, generation_kwargs={"until": ["\n"], "top_p": 0.5}))
    (planned,) = plans(task, limit=1, gen_kwargs={"temperature": 0.7, "max_new_tokens": 9})
    assert planned.requests[0].options == {
        "until": ["\n"],
        "max_gen_toks": 9,
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.5,
    }
