"""A Jinja environment for templates that come with a model and are trusted with nothing.

Jinja's immutable sandbox stops a template from reaching Python: no private attributes, no mutation, no unsafe callables.
It does not stop one from running for ever or filling the memory. Here every loop, call, filter, test, comparison and
output is metered (``metering.py``); what cannot be metered is refused when the template is compiled. The parsed
template is rewritten so that the metering filters sit at those places; their names hold a colon, which no template can
write.

Filters, globals and methods are an allow-list of what chat templates use. Nothing random and no clock: the same
messages give the same text.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any, cast

from jinja2 import Environment, Template, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import pass_context
from jinja2.visitor import NodeTransformer

from llmasos_tokenizers.template_library import (
    CONTAINER_METHODS,
    allowed_globals,
    check_string_method,
    meter_of,
    metered_filters,
    metered_tests,
)

MAX_NODES = 50_000
METERED_FORMAT = "metered_format"


class GenerationBlocks(Extension):
    """``{% generation %}`` marks what an assistant wrote, for training; rendering passes the text through."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("pass_through"), [], [], body).set_lineno(line)

    def pass_through(self, caller: Callable[[], str]) -> str:
        return caller()


class MeteredEnvironment(ImmutableSandboxedEnvironment):
    """Compiles templates with :meth:`compile_metered`; rendering needs a Meter in the variable ``METER``."""

    intercepted_binops = frozenset(["+", "-", "*", "**", "%"])

    def __init__(self) -> None:
        # optimized=False: the optimiser would run filters on constants while compiling, before there is a meter.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            extensions=[LoopControlExtension, GenerationBlocks],
        )
        self.globals = allowed_globals()
        self.filters = metered_filters()
        self.tests = metered_tests()

    def compile_metered(self, source: str) -> Template:
        """Parse, check, rewrite and compile. Raises jinja2.TemplateError, SecurityError or RecursionError."""
        tree = self.parse(source)
        count = sum(1 for _ in tree.find_all(nodes.Node))
        if count > MAX_NODES:
            raise SecurityError(f"the template has {count} syntax nodes, more than {MAX_NODES}")
        metering = _Metering(self, tree)
        tree = metering.visit(tree)
        return Template.from_code(self, self.compile(tree), dict(self.globals))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator after its cost is checked."""
        meter_of(context).binary(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """``"...".format(...)`` with harmless widths only."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        template, inner = str(value.__self__), wrapped

        @pass_context
        def formatted(context: Context, *args: Any, **kwargs: Any) -> str:
            meter_of(context).formatting(template, args, kwargs)
            return inner(*args, **kwargs)

        vars(formatted)[METERED_FORMAT] = True
        return formatted

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a macro, an allowed method or one of the globals; anything else is refused."""
        meter = meter_of(__context)
        meter.step()
        if isinstance(__obj, Undefined):
            return __obj()  # says which name is undefined
        owner = getattr(__obj, "__self__", None)
        if isinstance(__obj, Macro):
            meter.step(__context["budget:macro"][0])
            meter.grow(__context["budget:macro"][1])
        elif isinstance(__obj, types.BuiltinMethodType) and isinstance(owner, str):
            args = check_string_method(meter, owner, __obj.__name__, args, kwargs)
        elif isinstance(__obj, types.BuiltinMethodType) and isinstance(owner, Mapping | list | tuple):
            if __obj.__name__ not in CONTAINER_METHODS:
                raise SecurityError(f"templates may not call {type(owner).__name__}.{__obj.__name__}")
            meter.measure(args)
            if __obj.__name__ in ("index", "count"):
                meter.measure(owner)
        elif isinstance(owner, LoopContext):
            meter.measure((args, kwargs))  # loop.changed() compares
        elif not (
            isinstance(owner, GenerationBlocks)
            or any(__obj is allowed for allowed in __self.globals.values())
            or __obj is __context.get("strftime_now")
            or (isinstance(__obj, types.FunctionType) and METERED_FORMAT in vars(__obj))
        ):
            raise SecurityError(f"templates may not call a value of type {type(__obj).__name__}")
        return super().call(__context, __obj, *args, **kwargs)


class _Metering(NodeTransformer):
    """Puts the metering filters into a syntax tree and refuses what they cannot meter."""

    REFUSED = (nodes.Extends, nodes.Block, nodes.Include, nodes.Import, nodes.FromImport, nodes.OverlayScope)

    def __init__(self, environment: MeteredEnvironment, tree: nodes.Template) -> None:
        self._environment = environment
        sizes = [_static_size(macro) for macro in tree.find_all((nodes.Macro, nodes.CallBlock))]
        self._macro = (
            max((size[0] for size in sizes), default=0),
            max((size[1] for size in sizes), default=0),
        )
        environment.globals["budget:macro"] = self._macro

    def _wrap(self, name: str, node: nodes.Expr, *args: object) -> nodes.Filter:
        wrapped = nodes.Filter(node, f"budget:{name}", [nodes.Const(arg) for arg in args], [], None, None)
        wrapped.set_lineno(node.lineno)
        wrapped.set_environment(self._environment)
        return wrapped

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        if isinstance(node, self.REFUSED):
            raise SecurityError(f"templates may not use {type(node).__name__.lower()}")
        return super().visit(node, *args, **kwargs)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.recursive:
            raise SecurityError("templates may not use recursive loops")
        size = _static_size(node)
        self.generic_visit(node)  # changes the node in place
        node.iter = self._wrap("loop", cast(nodes.Expr, node.iter), *size)
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)  # changes the node in place
        node.nodes = [
            child if isinstance(child, nodes.TemplateData) else self._wrap("text", child)
            for child in node.nodes
        ]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)  # changes the node in place
        node.nodes = [self._wrap("text", child) for child in node.nodes]
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)  # changes the node in place
        node.expr = self._wrap("text", node.expr)
        for operand in node.ops:
            operand.expr = self._wrap("text", operand.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)  # changes the node in place
        if isinstance(node.arg, nodes.Slice):
            node.node = self._wrap("copy", node.node)
        elif not isinstance(node.arg, nodes.Const):
            node.arg = self._wrap("text", node.arg)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        self.generic_visit(node)  # changes the node in place
        if not isinstance(node.key, nodes.Const):
            node.key = self._wrap("text", node.key)
        return node


def _static_size(node: nodes.Node) -> tuple[int, int]:
    """Syntax nodes and literal characters below a node: what running it once costs, its inner loops aside."""
    texts = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
    return sum(1 for _ in node.find_all(nodes.Node)), texts
