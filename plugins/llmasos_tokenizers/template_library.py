"""What a chat template may call: filters, tests, globals and methods, each behind a check of what it costs.

The lists are what published chat templates use. Nothing random, nothing that reads a clock.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from jinja2.exceptions import SecurityError, TemplateError
from jinja2.filters import FILTERS
from jinja2.runtime import Context
from jinja2.tests import TESTS
from jinja2.utils import Namespace, pass_context

from llmasos_tokenizers.metering import Meter, text_of

METER = "budget:meter"
MAX_RANGE = 100_000
MAX_INDENT = 100

#: Filters that read their first argument as one text.
TEXT_FILTERS = ["capitalize", "e", "escape", "float", "int", "lower", "string", "title", "trim", "upper"]
#: Filters that walk their first argument item by item and may be asked for the rest later.
LAZY_FILTERS = ["items", "map", "reject", "rejectattr", "select", "selectattr"]
#: Filters that look at every item at once, and those that also compare them.
WHOLE_FILTERS = ["first", "last", "list", "reverse"]
COMPARING_FILTERS = ["dictsort", "groupby", "max", "min", "sort", "sum", "unique"]
#: Filters whose cost does not depend on their argument.
CHEAP_FILTERS = ["abs", "count", "d", "default", "length", "round", "safe"]
#: Tests that compare whole values; the others look at a type or a flag.
COMPARING_TESTS = [
    "==",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "eq",
    "equalto",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "le",
    "lessthan",
    "lt",
    "ne",
]
OTHER_TESTS = [
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "even",
    "false",
    "float",
    "integer",
    "iterable",
    "lower",
    "mapping",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "true",
    "undefined",
    "upper",
]

STRING_METHODS = frozenset(
    [
        "capitalize",
        "casefold",
        "count",
        "endswith",
        "find",
        "index",
        "isalnum",
        "isalpha",
        "isascii",
        "isdecimal",
        "isdigit",
        "isidentifier",
        "islower",
        "isnumeric",
        "isspace",
        "istitle",
        "isupper",
        "lower",
        "lstrip",
        "partition",
        "removeprefix",
        "removesuffix",
        "rfind",
        "rindex",
        "rpartition",
        "rsplit",
        "rstrip",
        "split",
        "splitlines",
        "startswith",
        "strip",
        "swapcase",
        "title",
        "upper",
    ]
)
CONTAINER_METHODS = frozenset(["get", "items", "keys", "values", "index", "count"])


def meter_of(context: Context) -> Meter:
    meter = context.get(METER)
    if not isinstance(meter, Meter):
        raise SecurityError("a metered template was rendered without a meter")
    return meter


class TemplateNamespace(Namespace):
    """``namespace()`` without private names, and without its contents in its text form."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, given = args[0], args[1:]
        attributes = dict(*given, **kwargs)
        for name in attributes:
            _public(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _public(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"


def _public(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold the private name {name!r}")


def metered_filters() -> dict[str, Any]:
    """The filters by name, and those that the compiler puts in (their names hold a colon)."""
    made: dict[str, Callable[..., Any]] = {
        "budget:text": _budget_text,
        "budget:loop": _budget_loop,
        "budget:copy": _budget_copy,
        "format": _format,
        "indent": _indent,
        "join": _join,
        "replace": _replace,
        "tojson": _tojson,
    }
    for names, prepare in (
        (TEXT_FILTERS, _prepare_text),
        (LAZY_FILTERS, _prepare_lazy),
        (WHOLE_FILTERS, _prepare_whole),
        (COMPARING_FILTERS, _prepare_comparing),
        (CHEAP_FILTERS, _prepare_cheap),
    ):
        for name in names:
            made[name] = _metered_filter(FILTERS[name], prepare)
    return made


def metered_tests() -> dict[str, Any]:
    """The tests by name."""
    return {
        name: _metered_test(cast(Callable[..., Any], TESTS[name]), name in COMPARING_TESTS)
        for name in (*COMPARING_TESTS, *OTHER_TESTS)
    }


def allowed_globals() -> dict[str, Any]:
    """The names a template finds beside its variables."""
    return {
        "range": _range,
        "dict": _dictionary,
        "namespace": TemplateNamespace,
        "raise_exception": _raise_exception,
    }


def _metered_filter(function: Callable[..., Any], prepare: Callable[[Meter, Any], Any]) -> Callable[..., Any]:
    """A library filter behind a check of its first argument."""
    wants = getattr(function, "jinja_pass_arg", None)

    @pass_context
    def metered(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        meter = meter_of(context)
        meter.step()
        meter.measure((args, kwargs))
        value = prepare(meter, value)
        first = {"context": context, "eval_context": context.eval_ctx, "environment": context.environment}
        extra = () if wants is None else (first[wants.name],)
        return function(*extra, value, *args, **kwargs)

    return metered


def _metered_test(function: Callable[..., Any], comparing: bool) -> Callable[..., Any]:
    wants = getattr(function, "jinja_pass_arg", None)

    @pass_context
    def metered(context: Context, value: Any, *args: Any) -> Any:
        meter = meter_of(context)
        meter.step()
        if comparing:
            meter.measure((value, args))
        extra = () if wants is None else (context.environment,)
        return function(*extra, value, *args)

    return metered


def _prepare_text(meter: Meter, value: Any) -> Any:
    meter.measure(value)
    if isinstance(value, str):
        meter.grow(5 * len(value))  # escaping writes up to six characters for one
    return value


def _prepare_lazy(meter: Meter, value: Any) -> Any:
    return value if isinstance(value, Mapping) or not isinstance(value, Iterable) else meter.counted(value)


def _prepare_whole(meter: Meter, value: Any) -> Any:
    if isinstance(value, str | list | tuple | range) or not isinstance(value, Iterable):
        meter.length_of(value)
        if isinstance(value, range):
            meter.step(len(value))
        return value
    return list(meter.counted(value))


def _prepare_comparing(meter: Meter, value: Any) -> Any:
    value = _prepare_whole(meter, value) if not isinstance(value, Mapping) else value
    for _ in range(4):  # a comparison sort looks at each value several times
        meter.measure(value)
    return value


def _prepare_cheap(meter: Meter, value: Any) -> Any:
    return value


@pass_context
def _budget_text(context: Context, value: Any) -> Any:
    meter_of(context).measure(value)
    return value


@pass_context
def _budget_copy(context: Context, value: Any) -> Any:
    meter_of(context).length_of(value)
    return value


@pass_context
def _budget_loop(context: Context, value: Any, body_nodes: int, body_text: int) -> Any:
    """Items of a loop, each charged for the body it runs. Sized containers stay what they are, because ``loop.length``
    and ``loop.last`` ask for their length; they are charged as a whole."""
    meter = meter_of(context)
    if isinstance(value, str | list | tuple | range | Mapping):
        meter.step(len(value) * body_nodes)
        meter.grow(len(value) * body_text)
        return value
    if not isinstance(value, Iterable):
        return value
    items = []
    for item in value:
        meter.step(body_nodes)
        meter.grow(body_text)
        items.append(item)
    return items


@pass_context
def _join(context: Context, value: Any, d: str = "", attribute: Any = None) -> Any:
    meter = meter_of(context)
    items = list(meter.counted(value))
    meter.measure(items)
    meter.grow(len(items) * len(text_of(d)))
    return FILTERS["join"](context.eval_ctx, items, d, attribute)


@pass_context
def _replace(context: Context, value: Any, old: Any, new: Any, count: int | None = None) -> Any:
    meter = meter_of(context)
    meter.measure((value, old, new))
    meter.replacing(text_of(value), text_of(old), text_of(new))
    return FILTERS["replace"](context.eval_ctx, value, old, new, count)


@pass_context
def _format(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
    meter_of(context).formatting(text_of(value), args, kwargs)
    return FILTERS["format"](value, *args, **kwargs)


@pass_context
def _indent(
    context: Context, value: Any, width: int | str = 4, first: bool = False, blank: bool = False
) -> Any:
    meter = meter_of(context)
    meter.measure(value)
    wide = len(width) if isinstance(width, str) else int(width)
    if wide > MAX_INDENT:
        raise SecurityError(f"the template indents by {wide}, more than {MAX_INDENT}")
    text = text_of(value)
    meter.grow(2 * len(text) + (len(text.splitlines()) + 1) * wide)
    return FILTERS["indent"](value, width, first, blank)


@pass_context
def _tojson(
    context: Context,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without HTML escapes, as chat templates expect it."""
    meter = meter_of(context)
    meter.measure(value)
    meter.measure(separators)
    if indent is not None and (not isinstance(indent, int) or indent > MAX_INDENT):
        raise SecurityError(f"the template indents JSON by {indent!r}, more than {MAX_INDENT}")
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    parts = []
    for part in encoder.iterencode(value):
        meter.grow(len(part))
        parts.append(part)
    return "".join(parts)


# ---- globals and methods ----------------------------------------------------------------------------------------------


def _range(*args: int) -> range:
    made = range(*args)
    if len(made) > MAX_RANGE:
        raise SecurityError(f"the template asks for a range of {len(made)}, more than {MAX_RANGE}")
    return made


def _dictionary(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def check_string_method(
    meter: Meter, text: str, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """Check a method of str; returns the arguments, iterators turned into counted lists."""
    meter.grow(2 * len(text))
    if name == "join" and len(args) == 1 and isinstance(args[0], Iterable):
        items = list(meter.counted(args[0]))
        meter.measure(items)
        meter.grow(len(items) * len(text))
        return (items,)
    meter.measure((args, kwargs))
    if name == "replace" and len(args) >= 2:
        meter.replacing(text, text_of(args[0]), text_of(args[1]))
    elif name in ("center", "ljust", "rjust", "zfill") and args and isinstance(args[0], int):
        meter.grow(max(args[0], 0))
    elif name not in STRING_METHODS:
        raise SecurityError(f"templates may not call str.{name} this way")
    return args
