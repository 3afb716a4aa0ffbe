"""How a prompt is presented to the model: as plain text, or as a conversation through a chat template.

The conversation is put together as in lm-evaluation-harness 0.4.13: description and system instruction are the system
message; few-shot examples are turns of their own, or one user message together with the question; ``gen_prefix`` begins
the assistant's answer, and then the template must leave that answer open.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmasos.api import EvaluationError, NamedChatTemplates, Tokenizer, TokenizerError, UsageError
from llmasos_evals.tasks.prompts import Turn, as_text

#: Put behind an answer that is to go on, to find where the template closes it. No template and no prompt has it.
_OPEN_END = "\N{SYMBOL FOR END OF TEXT}llmasos-open-answer\N{SYMBOL FOR END OF TEXT} "


class ChatTemplate:
    """The chat template of a model, by name if it has several.

    Raises UsageError when the model has none, or none of that name.
    """

    def __init__(self, tokenizer: Tokenizer, name: str | None = None) -> None:
        several = tokenizer if isinstance(tokenizer, NamedChatTemplates) else None
        named = several.chat_templates if several is not None else {}
        if name is None and tokenizer.chat_template is None:
            raise UsageError(
                "this model has no chat template"
                + (f", only those named {', '.join(sorted(named))}" if named else ""),
                hint="leave out --apply-chat-template" + (", or name one" if named else ""),
            )
        if name is not None and name not in named:
            known = ", ".join(sorted(named)) or "one template without a name"
            raise UsageError(f"this model has no chat template named {name!r}", hint=f"it has {known}")
        self.name = name
        self.source: str = named[name] if name is not None else str(tokenizer.chat_template)
        self.digest = hashlib.sha256(self.source.encode("utf-8")).hexdigest()
        #: Whether the template refused a system message, which was then left out.
        self.dropped_system = False
        self._tokenizer = several.with_chat_template(name) if several and name is not None else tokenizer

    def render(self, messages: Sequence[Mapping[str, str]], *, open_answer: bool) -> str:
        """The text for ``messages``; with ``open_answer`` it ends within the last message, else the model's turn begins.

        A template that refuses system messages gets the conversation without them, as in lm-evaluation-harness.
        Raises TokenizerError when the template fails, EvaluationError when it changes an answer that is to go on.
        """
        try:
            return self._render(messages, open_answer)
        except TokenizerError:
            rest = [message for message in messages if message["role"] != "system"]
            if not rest or len(rest) == len(messages):
                raise
            text = self._render(rest, open_answer)
            self.dropped_system = True
            return text

    def _render(self, messages: Sequence[Mapping[str, str]], open_answer: bool) -> str:
        if not open_answer:
            return self._apply(messages, add_generation_prompt=True)
        begun = messages[-1]["content"]
        marked = [*messages[:-1], {**messages[-1], "content": begun + _OPEN_END}]
        text = self._apply(marked, add_generation_prompt=False)
        end = text.rfind(_OPEN_END.strip())
        if end < 0 or begun.strip() not in text:
            raise EvaluationError(
                f"the chat template does not show the beginning of the answer, {begun!r}",
                hint="this task begins the answer (`gen_prefix`), which the template leaves out",
            )
        kept = text[end : end + len(_OPEN_END)] == _OPEN_END
        return text[:end] if kept else text[:end].rstrip()

    def _apply(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        return self._tokenizer.apply_chat_template(messages, add_generation_prompt=add_generation_prompt)


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """What the user asked for: ``template`` None means plain text, ``multiturn`` few-shot examples as turns."""

    template: ChatTemplate | None = None
    system_instruction: str | None = None
    multiturn: bool = False

    @property
    def applied(self) -> bool:
        """Whether prompts go through a chat template."""
        return self.template is not None

    def render(self, turns: Sequence[Turn], *, open_answer: bool) -> str:
        """A prompt from its turns, the system turn first if there is one.

        ``open_answer``: the last turn begins the model's answer. Raises what ``ChatTemplate.render`` raises.
        """
        if self.template is None:
            return as_text(turns)
        shown = turns if self.multiturn else as_one_turn(turns)
        return self.template.render(
            [{"role": turn.role, "content": turn.content} for turn in shown], open_answer=open_answer
        )

    def facts(self) -> dict[str, Any]:
        """What a record says about it."""
        instruction = self.system_instruction
        return {
            "chat_template_applied": self.applied,
            "chat_template_name": self.template.name if self.template else None,
            "chat_template_digest": self.template.digest if self.template else None,
            "system_instruction_digest": (
                None if instruction is None else hashlib.sha256(instruction.encode("utf-8")).hexdigest()
            ),
            "fewshot_as_multiturn": self.applied and self.multiturn,
        }

    def remarks(self) -> list[str]:
        """Lines the user should see after prompts were built."""
        if self.template is not None and self.template.dropped_system:
            return [
                "the chat template refuses system messages: system instruction and task description were left out"
            ]
        return []


#: Plain text, the default.
PLAIN = ChatSettings()


def chat_settings(
    tokenizer: Tokenizer | None,
    *,
    apply_chat_template: bool | str = False,
    system_instruction: str | None = None,
    fewshot_as_multiturn: bool | None = None,
) -> ChatSettings:
    """The settings for the options of ``llmasos eval``; ``tokenizer`` may be None when no template is asked for.

    Few-shot examples are turns unless told otherwise. Raises UsageError for a template the model does not have and for
    turns without a template.
    """
    if not apply_chat_template:
        if fewshot_as_multiturn:
            raise UsageError(
                "few-shot examples can be turns of a conversation only in a chat template",
                hint="add --apply-chat-template",
            )
        return ChatSettings(system_instruction=system_instruction)
    if tokenizer is None:
        raise UsageError("a chat template needs the tokenizer of the model")
    name = apply_chat_template if isinstance(apply_chat_template, str) else None
    return ChatSettings(ChatTemplate(tokenizer, name), system_instruction, fewshot_as_multiturn is not False)


def as_one_turn(turns: Sequence[Turn]) -> list[Turn]:
    """Everything between the system turn and a begun answer as one user turn, as it would read in plain text."""
    system = [turn for turn in turns[:1] if turn.role == "system"]
    rest = list(turns[len(system) :])
    begun = rest[-1:] if rest[-1].role == "assistant" else []
    asked = rest[: len(rest) - len(begun)]
    asked[-1] = replace(asked[-1], delimiter="")
    return [*system, Turn("user", as_text(asked)), *begun]
