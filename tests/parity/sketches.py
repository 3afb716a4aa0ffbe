"""Sketches of made-up rows: what a column holds, values for it, and what a task's templates say about it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import nodes

from llmasos_evals.tasks.templates import _environment

WORDS = [
    "river",
    "paper",
    "window",
    "garden",
    "engine",
    "copper",
    "letter",
    "market",
    "winter",
    "orange",
    "basket",
    "harbor",
    "signal",
    "velvet",
    "planet",
    "anchor",
    "bridge",
    "candle",
    "doctor",
    "feather",
    "guitar",
    "hammer",
    "island",
    "jacket",
    "kettle",
    "ladder",
    "mirror",
    "needle",
]
LETTERS = "ABCD"
#: What a column may be instead, in the order in which it is tried.
KINDS = (
    "text",
    "integer",
    "list",
    "struct",
    "letter",
    "digits",
    "lines",
    "listing",
    "json",
    "number",
    "flag",
    "date",
    "marked",
    "long",
    "empty",
)
_INTEGERS = {
    "label",
    "labels_idx",
    "gold",
    "idx",
    "answer_idx",
    "correct",
    "cop",
    "year",
    "answer_index",
    "gold_idx",
}
_LISTS = {"choices", "options", "endings", "candidates", "distractors", "answers", "references", "sentences"}
_KEYS = {"answerkey", "answer_key", "correct_option", "answer_letter"}
_STRING_METHODS = {name for name in dir(str) if not name.startswith("_")} - {"index", "count"}
_DICT_METHODS = {"items", "keys", "values", "get"}
METHODS = {*dir(str), *dir(dict), *dir(list)}


@dataclass
class Sketch:
    """What one place in a row holds."""

    kind: str = "text"
    fields: dict[str, Sketch] = field(default_factory=dict)
    item: Sketch | None = None
    options: list[Any] = field(default_factory=list)

    def copy(self) -> Sketch:
        return Sketch(
            self.kind,
            {name: inner.copy() for name, inner in self.fields.items()},
            None if self.item is None else self.item.copy(),
            list(self.options),
        )

    def become(self, other: Sketch) -> None:
        """Hold what the other holds, and stay the same object."""
        copy = other.copy()
        self.kind, self.fields, self.item, self.options = copy.kind, copy.fields, copy.item, copy.options

    def offers(self, text: str) -> bool:
        """Whether a text is among the options of any place."""
        inner = (*self.fields.values(), *([self.item] if self.item else []))
        return text in self.options or any(one.offers(text) for one in inner)

    def signature(self) -> str:
        inner = ",".join(f"{name}:{one.signature()}" for name, one in self.fields.items())
        item = self.item.signature() if self.item else ""
        return f"{self.kind}({inner}{item}{self.options})"


def guess(name: str) -> Sketch:
    """A first sketch of a column, by its name."""
    low = name.lower()
    if low in _INTEGERS:
        return Sketch("integer")
    if low in _KEYS:
        return Sketch("letter")
    if low in _LISTS:
        return Sketch("list", item=Sketch("text"))
    return Sketch("text")


def value(sketch: Sketch, seed: int) -> Any:
    """A plain value. Equal sketches and seeds give equal values."""
    kind = sketch.kind
    words = [WORDS[(seed * 11 + n * 5 + 3) % len(WORDS)] for n in range(6)]
    if kind == "options":
        return sketch.options[seed % len(sketch.options)]
    if kind == "integer":
        return seed % 2
    if kind == "digits":
        return str(seed % 2)
    if kind == "letter":
        return LETTERS[seed % 2]
    if kind == "number":
        return 0.25 + seed
    if kind == "flag":
        return seed % 2 == 0
    if kind == "date":
        return f"2021-03-{1 + seed % 28:02d}"
    if kind == "empty":
        return None
    if kind == "lines":
        return "\n".join(f"{LETTERS[n % 4]}. {word} {seed}" for n, word in enumerate(words))
    if kind == "listing":
        return str([f"{word} {seed}" for word in words[:4]])
    if kind == "json":
        return f'{{"{words[0]}": "{words[1]} {seed}"}}'
    if kind == "marked":
        return f"{words[0]} _ {words[1]}: (A) {words[2]} (B) {words[3]} [MASK] ### {seed} ? {words[4]}"
    if kind == "long":
        return " ".join(f"{words[n % 6]}, {words[(n + 2) % 6]} {seed + n}." for n in range(30))
    if kind == "list":
        item = sketch.item or Sketch("text")
        return [value(item, seed * 4 + n) for n in range(4)]
    if kind == "struct":
        return {name: value(one, seed + n) for n, (name, one) in enumerate(sketch.fields.items())}
    return f"{words[0].capitalize()} {words[1]} {seed} {words[2]} {words[3]}."


# ---- what templates say --------------------------------------------------------------------------------------------------


def sketch_of_templates(templates: Sequence[str]) -> Sketch:
    """Columns that templates use, and what their use says about them."""
    row = Sketch("struct")
    for template in templates:
        if re.fullmatch(r"[\w.-]+( [\w.-]+)?", template):  # a column, or a word that is meant as it is
            row.fields.setdefault(template, guess(template))
            continue
        try:
            tree = _environment().parse(template)
        except Exception:  # a column's name may be no template at all
            continue
        _Reader(row, tree).read()
    return row


class _Reader:
    """Reads one template's syntax tree into a sketch of the row."""

    def __init__(self, row: Sketch, tree: nodes.Template) -> None:
        self.row, self.tree = row, tree
        self.bound: dict[str, tuple[Any, ...] | None] = {}

    def read(self) -> None:
        for assignment in self.tree.find_all((nodes.Assign, nodes.For)):
            targets = assignment.target
            names = targets.items if isinstance(targets, nodes.Tuple) else [targets]
            for name in names:
                if isinstance(name, nodes.Name):
                    self.bound[name.name] = None
            if isinstance(assignment, nodes.For) and len(names) == 1 and isinstance(names[0], nodes.Name):
                path = self.path(assignment.iter)
                if path:
                    self.bound[names[0].name] = (*path, 0)
            elif isinstance(assignment, nodes.Assign) and isinstance(names[0], nodes.Name):
                self.bound[names[0].name] = self.path(assignment.node)
        for name in self.tree.find_all(nodes.Name):
            if name.ctx == "load" and name.name not in self.bound and name.name not in _environment().globals:
                self.place((name.name,))
        for found in self.tree.find_all((nodes.Getattr, nodes.Getitem)):
            self.access(found)
        for found in self.tree.find_all(nodes.For):
            self.mark(self.path(found.iter), "list")
        for found in self.tree.find_all(nodes.Filter):
            if found.name in ("join", "first", "last") and found.node is not None:
                self.mark(self.path(found.node), "list")
        for found in self.tree.find_all(nodes.Compare):
            self.compare(found)
        for found in self.tree.find_all(nodes.Call):
            self.call(found)
        for found in self.tree.find_all((nodes.Sub, nodes.Add, nodes.Mul)):
            if any(isinstance(_constant(side), int) for side in (found.left, found.right)):
                for side in (found.left, found.right):
                    self.mark(self.path(side), "integer")

    def path(self, node: Any) -> tuple[Any, ...] | None:
        """Where in the row an expression points, None for anything else."""
        if isinstance(node, nodes.Name):
            return self.bound.get(node.name, (node.name,))
        if isinstance(node, nodes.Getattr):
            inner = self.path(node.node)
            return None if inner is None else (*inner, node.attr)
        if isinstance(node, nodes.Getitem):
            inner = self.path(node.node)
            if inner is None or isinstance(node.arg, nodes.Slice):
                return None
            key = node.arg.value if isinstance(node.arg, nodes.Const) else 0
            return (*inner, key if isinstance(key, str) else 0)
        return None

    def place(self, path: tuple[Any, ...]) -> Sketch:
        """The sketch at a path; everything on the way becomes what it must be."""
        place = self.row
        for step in path:
            if step == 0:
                if place.kind not in ("list", "options"):
                    place.kind, place.item = "list", place.item or Sketch("text")
                place.item = place.item or Sketch("text")
                place = place.item
            else:
                place.kind = "struct"
                fields = place.fields
                if step not in fields:
                    inside = step in ("label", "labels", "text") and place is not self.row
                    fields[step] = (
                        Sketch("list", item=Sketch("letter" if step != "text" else "text"))
                        if inside
                        else guess(step)
                    )
                place = fields[step]
        return place

    def mark(self, path: tuple[Any, ...] | None, kind: str, options: Sequence[Any] = ()) -> None:
        if path:
            place = self.place(path)
            if kind == "options":
                place.options += [option for option in options if option not in place.options]
                if place.kind not in ("list", "struct"):
                    place.kind = "options"
            elif kind == "list" and place.kind != "list":
                place.kind, place.item = "list", Sketch("text")
            elif kind != "list":
                place.kind = kind

    def access(self, node: Any) -> None:
        inner = self.path(node.node)
        name = node.attr if isinstance(node, nodes.Getattr) else None
        if inner and name is not None:
            if name in _STRING_METHODS:
                if self.place(inner).kind not in ("text", "options", "letter"):
                    self.mark(inner, "text")
            elif name not in _DICT_METHODS | {"index", "count"}:
                self.place((*inner, name))
        elif inner and isinstance(node.arg, nodes.Slice):
            return
        elif inner:
            path = self.path(node)
            if path:
                self.place(path)
            key = self.path(node.arg)
            if key:
                self.mark(key, "integer")
        elif isinstance(node, nodes.Getitem):
            key = self.path(node.arg)
            constant = _constant(node.node)
            if key and isinstance(constant, list):
                self.mark(key, "options", range(len(constant)))
            elif key and isinstance(constant, dict):
                self.mark(key, "options", list(constant))

    def compare(self, node: nodes.Compare) -> None:
        sides = [node.expr, *(operand.expr for operand in node.ops)]
        paths = [self.path(side) for side in sides]
        for side in sides:
            constant = _constant(side)
            if isinstance(constant, str | int) and not isinstance(constant, bool):
                for path in paths:
                    self.mark(path, "options", [constant])

    def call(self, node: nodes.Call) -> None:
        """``['A', 'B'].index(answer)``"""
        if isinstance(node.node, nodes.Getattr) and node.node.attr == "index" and node.args:
            constant, path = _constant(node.node.node), self.path(node.args[0])
            if path and isinstance(constant, list | str):
                self.mark(path, "options", list(constant))
            elif path and (inner := self.path(node.node.node)):
                place = self.place(inner)
                if place.kind != "list":
                    place.kind, place.item = "list", Sketch("letter")
                if place.item is not None and place.item.kind == "letter":
                    self.mark(path, "letter")


def _constant(node: Any) -> Any:
    try:
        return node.as_const()
    except Exception:  # not a constant
        return None
