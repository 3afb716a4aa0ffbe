"""Chat templates: from messages to the text a chat model was trained on.

The rendering rules are those of ``transformers``' ``apply_chat_template`` (trimmed blocks, ``tojson`` without HTML
escapes, ``raise_exception``, loop controls, ``{% generation %}``), in the metered sandbox of ``sandbox.py``. One
difference is on purpose: a template is not told the date. ``strftime_now`` exists only when the caller passes
``variables={"now": "2026-01-31"}`` (ISO 8601 or a datetime), so that the same messages give the same text on every day;
templates that test for it fall back to the date their authors chose.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from llmasos.api import TokenizerError
from llmasos_tokenizers.metering import Meter
from llmasos_tokenizers.sandbox import MeteredEnvironment
from llmasos_tokenizers.template_library import METER

MAX_TEMPLATE = 1 << 18
#: Budget of a rendering: a base, and a share for each value and character of the input.
STEPS, STEPS_PER_VALUE = 400_000, 4_000
CHARACTERS, CHARACTERS_PER_CHARACTER = 1 << 22, 64
MAX_VALUES = 1 << 20
MAX_DEPTH = 64


class ChatTemplate:
    """A compiled template. Compiling happens once; rendering is safe to do from many threads.

    Raises TokenizerError when the template is refused: syntax error, size, or something no sandbox can meter.
    """

    def __init__(self, source: str) -> None:
        if len(source) > MAX_TEMPLATE:
            raise TokenizerError(
                f"the chat template is {len(source)} characters long, more than {MAX_TEMPLATE}",
                hint="it is not a chat template that any published model needs",
            )
        try:
            self._template = MeteredEnvironment().compile_metered(source)
        except (TemplateError, RecursionError, SyntaxError, MemoryError, ValueError) as error:
            raise _refusal(error, "the chat template is refused") from None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The text for ``messages``. ``variables`` are added to what the template sees; ``tools`` and ``documents`` are
        None unless given, ``now`` turns ``strftime_now`` on. Raises TokenizerError when the template raises an error or
        goes over its budget."""
        given = dict(variables or {})
        now = given.pop("now", None)
        plain = _Plain()
        context: dict[str, Any] = {
            "tools": None,
            "documents": None,
            **plain.copy(given),
            "messages": plain.copy(list(messages)),
            "add_generation_prompt": add_generation_prompt,
        }
        if now is not None:
            context["strftime_now"] = _clock(now)
        context[METER] = Meter(
            STEPS + STEPS_PER_VALUE * plain.values, CHARACTERS + CHARACTERS_PER_CHARACTER * plain.characters
        )
        try:
            return self._template.render(context)
        except TokenizerError:
            raise
        except (
            Exception
        ) as error:  # whatever a template does wrong: it is the model's file, not ours, that failed
            raise _refusal(error, "the chat template failed") from None


def _refusal(error: BaseException, what: str) -> TokenizerError:
    kind = "" if isinstance(error, TemplateError) else f"{type(error).__name__}: "
    line_number = getattr(error, "lineno", None)
    line = f" (line {line_number})" if line_number else ""
    message = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    hint = "check the roles and their order, or give the prompt as plain text without chat formatting"
    if "strftime_now" in message:
        hint = 'the template prints the date: pass it as the template variable now, for example {"now": "2026-01-31"}'
    return TokenizerError(f"{what}{line}: {kind}{message}", hint=hint)


def _clock(now: Any) -> Any:
    try:
        moment = now if isinstance(now, datetime.datetime) else datetime.datetime.fromisoformat(str(now))
    except ValueError:
        raise TokenizerError(
            f"the template variable now is {now!r}, not a date",
            hint='write it as "2026-01-31" or "2026-01-31T12:00"',
        ) from None

    def strftime_now(form: str) -> str:
        if len(form) > 256:
            raise TemplateError("strftime_now was given a format of more than 256 characters")
        return moment.strftime(form)

    return strftime_now


class _Plain:
    """Copies values into plain JSON types, because any other object brings methods the sandbox does not know."""

    def __init__(self) -> None:
        self.values = 0
        self.characters = 0

    def copy(self, value: Any, depth: int = 0) -> Any:
        self.values += 1
        if self.values > MAX_VALUES or depth > MAX_DEPTH:
            raise TokenizerError(
                f"the messages hold more than {MAX_VALUES} values or are nested more than {MAX_DEPTH} deep",
                hint="pass a shorter conversation",
            )
        if value is None or type(value) in (bool, int, float):
            return value
        if isinstance(value, str):
            self.characters += len(value)
            return str.__str__(value)
        if isinstance(value, Mapping):
            return {self.copy(key, depth + 1): self.copy(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.copy(item, depth + 1) for item in value]
        raise TokenizerError(
            f"a message or variable holds a {type(value).__name__}, which a template cannot be given",
            hint="use text, numbers, true, false, lists and dictionaries",
        )
