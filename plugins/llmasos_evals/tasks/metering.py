"""How much work a template may do, counted while it runs.

Task files come from strangers. Jinja's sandbox keeps a template from reaching Python; it does not keep it from running for
ever or from filling the memory. Two counters do: *steps* (syntax nodes run, items looked at) and *characters* (of every text
that is made, before it is made). They are counted, not timed, so a task that runs on one machine runs on all. A template of a
published task takes a few hundred of each; what it may take is so much that only those that mean harm get there.

The parsed template is rewritten so that metering filters stand where loops, outputs, comparisons and copies are; their names
hold a colon, which no template can write.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import Any, cast

from jinja2 import StrictUndefined, Template, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import BlockReference, Context, LoopContext, Macro
from jinja2.sandbox import SandboxedEnvironment
from jinja2.utils import pass_context
from jinja2.visitor import NodeTransformer

METER = "budget:meter"
MAX_STEPS = 5_000_000
MAX_CHARACTERS = 1 << 27
MAX_NODES = 50_000
MAX_INTEGER_BITS = 4096
MAX_WIDTH = 100_000
#: Format specifications that ask for much more text than they are given, or compute what they ask for.
_WIDE = re.compile(r"%[^%a-zA-Z]*(?:\d{5,}|\*)|\{[^{}:]*:[^{}]*(?:\d{5,}|\{)")
#: Methods of lists and dictionaries that do not look at what is in them.
_CHEAP = frozenset(
    ["get", "items", "keys", "values", "append", "pop", "add", "insert", "setdefault", "popitem", "clear"]
)


class TemplateTooCostly(SecurityError):
    """A template went over its budget."""


class Meter:
    """The two budgets of one rendering; ``size`` and ``texts`` are syntax nodes and literal characters of the template."""

    __slots__ = ("characters", "size", "steps", "texts")

    def __init__(self, size: int, texts: int) -> None:
        self.steps, self.characters = MAX_STEPS, MAX_CHARACTERS
        self.size, self.texts = size, texts

    def step(self, count: int = 1) -> None:
        self.steps -= count
        if self.steps < 0:
            raise TemplateTooCostly("it does more work than making a prompt can need")

    def grow(self, count: int) -> None:
        self.characters -= count
        if self.characters < 0:
            raise TemplateTooCostly("it makes more text than a prompt can need")

    def measure(self, value: Any) -> None:
        """Account for turning ``value`` into text, copying, comparing or hashing it: its whole tree is walked, so that a
        value that holds itself many times over costs here what it would cost there."""
        if type(value) is str:
            self.grow(len(value))
            return
        pending = [value]
        while pending:
            self.step()
            item = pending.pop()
            if isinstance(item, str | bytes):
                self.grow(len(item) + 2)
            elif isinstance(item, int):
                self.grow(8 + item.bit_length() // 3)
            elif isinstance(item, Mapping):
                self.step(len(item))
                pending.extend(item.keys())
                pending.extend(item.values())
            elif isinstance(item, list | tuple | Set):
                self.step(len(item))
                pending.extend(item)
            elif isinstance(item, range):
                self.step(len(item))
            else:
                self.grow(16)

    def counted(self, values: Iterable[Any], steps: int = 1, characters: int = 0) -> Iterator[Any]:
        """The same items, each at that price."""
        for value in values:
            self.steps -= steps
            self.characters -= characters
            if self.steps < 0 or self.characters < 0:
                self.step(0)
                self.grow(0)
            yield value

    def formatting(self, template: str, values: Any) -> None:
        """Account for a %-format or ``str.format``: no computed widths, and none that no prompt needs."""
        self.grow(len(template))
        if _WIDE.search(template):
            raise TemplateTooCostly("it formats with a computed width or one of more than 9,999")
        for _ in range(
            1 + template.count("%") + template.count("{")
        ):  # each field may show any of the values
            self.measure(values)

    def binary(self, operator: str, left: Any, right: Any) -> None:
        """Account for an operator before it is applied."""
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() + right.bit_length()
            if operator == "**":
                bits = left.bit_length() * max(right, 0)
            if bits > MAX_INTEGER_BITS:
                raise TemplateTooCostly(f"it computes an integer of more than {MAX_INTEGER_BITS} bits")
        elif operator == "%":
            if isinstance(left, str | bytes):
                self.formatting(str(left), right)
        elif operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(many, str | bytes | list | tuple) and isinstance(times, int):
                    self.grow(len(many) * max(times, 0))
        else:
            for value in (left, right):
                if isinstance(value, str | bytes | list | tuple):
                    self.grow(len(value))

    def growth(self, name: str, text: Any, given: list[Any]) -> None:
        """Account for what a filter or method of this name makes of ``text`` beyond its length.

        ``given`` are its arguments: the largest number among them is a width, the longest text is put in at every place.
        """
        width = max((value for value in given if isinstance(value, int)), default=0)
        insert = max((len(value) for value in given if isinstance(value, str | bytes)), default=0)
        if name in ("center", "ljust", "rjust", "zfill", "batch", "slice"):
            self.grow(max(width, 0))
        elif name == "join":
            self.grow((len(text) if isinstance(text, list) else len(str(text))) * insert)
        elif name in ("replace", "regex_replace", "wordwrap", "urlize", "translate"):
            self.grow((len(str(text)) + 1) * insert)
        elif name == "indent":
            self.grow((len(str(text).splitlines()) + 1) * max(width, insert))
        elif name == "expandtabs":
            self.grow(len(str(text)) * max(width, 8))
        elif name == "tojson":
            before = self.steps
            self.measure(text)
            values = before - self.steps
            self.grow(max(width, insert) * values * min(values, 1000))


class MeteredEnvironment(SandboxedEnvironment):
    """The sandbox in which templates of task files run. ``compile_metered`` compiles, ``render`` renders."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        # optimized=False: the optimiser would run filters on constants while compiling, before there is a meter.
        super().__init__(undefined=StrictUndefined, keep_trailing_newline=True, optimized=False)
        self.globals.pop("lipsum")  # random text is no prompt
        self.tests = {name: _metered(name, test) for name, test in self.tests.items()}

    def meter_filters(self) -> None:
        """Put every filter behind its check; called when all have been added."""
        self.filters = {name: _metered(name, function) for name, function in self.filters.items()}
        self.filters |= {"budget:text": _text, "budget:loop": _loop}

    def compile_metered(self, source: str) -> MeteredTemplate:
        """Parse, check, rewrite and compile. Raises jinja2.TemplateError."""
        try:
            tree = self.parse(source)
            size, texts = _static_size(tree)
            if size > MAX_NODES:
                raise TemplateTooCostly(f"it has {size} parts, more than {MAX_NODES}")
            code = self.compile(_Metering(self).visit(tree))
        except (RecursionError, MemoryError, SyntaxError) as error:
            raise TemplateTooCostly(f"it is nested too deeply: {type(error).__name__}") from None
        return MeteredTemplate(Template.from_code(self, code, self.make_globals(None)), size, texts)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        meter_of(context).binary(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a macro, a loop, a method or a global, after its cost is checked."""
        meter = meter_of(__context)
        meter.step(4)  # a call costs more than other syntax nodes
        if type(__obj) is types.BuiltinMethodType and not args and not kwargs:
            owner = __obj.__self__
            if (
                type(owner) is str and __obj.__name__ != "expandtabs"
            ):  # `strip()` and the like: the most frequent
                meter.grow(len(owner))
                return __obj()
        if args or kwargs:
            meter.measure((args, kwargs))
            args = tuple(meter.counted(value) if isinstance(value, Iterator) else value for value in args)
        if isinstance(__obj, types.BuiltinMethodType):
            if __obj.__name__ == "join" and args:
                args = (list(args[0]),)
                meter.measure(args)
            _check_method(meter, __obj.__self__, __obj.__name__, [*args, *kwargs.values()])
        elif isinstance(__obj, Macro | BlockReference):
            meter.step(meter.size)
            meter.grow(meter.texts)
        elif isinstance(__obj, LoopContext):  # a recursive loop
            args = tuple(meter.counted(value, meter.size, meter.texts) for value in args)
        elif isinstance(wrapped := getattr(__obj, "__wrapped__", None), types.BuiltinMethodType):
            meter.formatting(str(wrapped.__self__), (args, kwargs))  # the sandbox wraps str.format only
        return super().call(__context, __obj, *args, **kwargs)


class MeteredTemplate:
    """A compiled template and what running it through once costs."""

    def __init__(self, template: Template, size: int, texts: int) -> None:
        self.template, self.size, self.texts = template, size, texts

    def render(self, values: Mapping[str, Any]) -> str:
        """The text. Raises TemplateTooCostly, and whatever else a template does wrong."""
        return self.template.render(values, **{METER: Meter(self.size, self.texts)})


def meter_of(context: Context) -> Meter:
    """The meter of a rendering; also macros and blocks have it among their variables."""
    return cast(Meter, context.parent[METER])


def _check_method(meter: Meter, owner: Any, name: str, given: list[Any]) -> None:
    if isinstance(owner, str | bytes | int):
        if any(isinstance(value, int) and value > MAX_WIDTH for value in given):
            raise TemplateTooCostly(f"it calls {name} with a number of more than {MAX_WIDTH}")
        meter.measure(owner)
        if name == "join" and given:
            meter.growth(name, given[0], [owner])
        elif name == "translate":
            tables = [table.values() for table in given if isinstance(table, Mapping)]
            meter.growth(name, owner, [value for table in tables for value in table])
        else:
            meter.growth(name, owner, given)
    elif name not in _CHEAP:
        meter.measure(owner)


def _metered(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or test behind a check of what it is given."""
    wants = getattr(function, "jinja_pass_arg", None)

    @pass_context
    def metered(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        meter = meter_of(context)
        meter.step()
        if type(value) is str:
            meter.grow(len(value))
            if not args and not kwargs and wants is None:  # `trim` and the like: the most frequent
                return function(value)
        else:
            meter.measure(value)
            if isinstance(value, Iterator):
                value = meter.counted(value)
        if name == "join":
            value = list(value)
            meter.measure(value)
        if args or kwargs:
            meter.measure((args, kwargs))
            meter.growth(name, value, [*args, *kwargs.values()])
        if name == "format":
            meter.formatting(str(value), (args, kwargs))
        if wants is not None:
            first = {"context": context, "eval_context": context.eval_ctx}
            args, value = (value, *args), first.get(wants.name, context.environment)
        made = function(value, *args, **kwargs)
        return meter.counted(made) if isinstance(made, Iterator) else made

    return metered


@pass_context
def _text(context: Context, value: Any) -> Any:
    meter = context.parent[METER]
    if type(value) is str:  # by far the most frequent: no calls
        meter.characters -= len(value)
        if meter.characters < 0:
            meter.grow(0)
    else:
        meter.measure(value)
    return value


@pass_context
def _loop(context: Context, values: Any, steps: int, characters: int) -> Any:
    """What a loop goes over, each item at the price of the loop's body. What cannot change meanwhile is charged as a whole."""
    meter = meter_of(context)
    if isinstance(values, str | tuple | range):
        meter.step(len(values) * steps)
        meter.grow(len(values) * characters)
        return values
    return meter.counted(values, steps, characters) if isinstance(values, Iterable) else values


class _Metering(NodeTransformer):
    """Puts the metering filters into a syntax tree."""

    def __init__(self, environment: MeteredEnvironment) -> None:
        self._environment = environment

    def _wrap(self, node: nodes.Expr, name: str = "budget:text", *given: int) -> nodes.Expr:
        if isinstance(node, nodes.Const):
            return node
        wrapped = nodes.Filter(node, name, [nodes.Const(number) for number in given], [], None, None)
        wrapped.set_lineno(node.lineno)
        wrapped.set_environment(self._environment)
        return wrapped

    def visit_For(self, node: nodes.For) -> nodes.Node:
        size = _static_size(node)
        self.generic_visit(node)  # changes the node in place, here and below
        node.iter = self._wrap(cast(nodes.Expr, node.iter), "budget:loop", *size)
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [
            child if isinstance(child, nodes.TemplateData) else self._wrap(child) for child in node.nodes
        ]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [self._wrap(child) for child in node.nodes]
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = self._wrap(node.expr)
        for operand in node.ops:
            operand.expr = self._wrap(operand.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = self._wrap(node.node)
        else:
            node.arg = self._wrap(node.arg)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        self.generic_visit(node)
        node.key = self._wrap(node.key)
        return node


def _static_size(node: nodes.Node) -> tuple[int, int]:
    """Syntax nodes and literal characters below a node: what running it once costs, its inner loops aside."""
    size = texts = 0
    for found in node.find_all(nodes.Node):
        size += 1
        if isinstance(found, nodes.TemplateData):
            texts += len(found.data)
    return size, texts
