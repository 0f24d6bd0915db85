"""Plausible mistakes in a source file: mutmut's operators except those on text, and a few of our own."""

import ast
import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import libcst as cst
import libcst.matchers as m
from mutmut.mutation import mutators

LOGGERS = m.Name("log") | m.Name("_log") | m.Name("logger") | m.Name("warnings")
TYPE_ALIAS = m.Name(m.MatchRegex(r"[A-Z]\w*[a-z]\w*"))
SYMMETRIC = m.Name("min") | m.Name("max") | m.Name("minimum") | m.Name("maximum") | m.Name("equal")
# Annotations, decorators and imports do not compute. The arguments of errors and log lines are text.
SKIPPED = (
    m.Annotation()
    | m.Decorator()
    | m.Import()
    | m.ImportFrom()
    | m.Raise()
    | m.Call(func=m.Attribute(value=LOGGERS))
    | m.Call(func=m.Name("cast") | m.Name("TypeVar") | m.Name("InputError"))
    | m.Arg(keyword=m.Name("strict") | m.Name("repr"))  # of zip and of dataclasses
    | m.Assign(targets=[m.AssignTarget(target=m.Name("__all__") | TYPE_ALIAS)])
    | m.If(test=m.Name("TYPE_CHECKING"))
)
OPPOSITES = {"min": "max", "amin": "amax", "argmin": "argmax", "minimum": "maximum", "any": "all"}
OPPOSITES |= {"floor": "ceil"} | {opposite: name for name, opposite in OPPOSITES.items()}


def drop_operand(node: cst.BinaryOperation | cst.BooleanOperation) -> Iterator[cst.BaseExpression]:
    """`a + b` becomes `a`, then `b`."""
    yield node.left
    yield node.right


def drop_argument(node: cst.Call) -> Iterator[cst.Call]:
    """`f(a, b, c=d)` becomes `f(a, b)`, then `f(a, c=d)`: only what may have a default."""
    positional = [i for i, arg in enumerate(node.args) if not (arg.keyword or arg.star)]
    named = [i for i, arg in enumerate(node.args) if arg.keyword]
    for i in named + positional[1:][-1:]:
        yield node.with_changes(args=[*node.args[:i], *node.args[i + 1 :]])


def swap_arguments(node: cst.Call) -> Iterator[cst.Call]:
    """`f(a, b)` becomes `f(b, a)`, for each pair of neighbors without a keyword or a star."""
    if m.matches(node.func, SYMMETRIC | m.Attribute(attr=SYMMETRIC)):
        return
    for i, (left, right) in enumerate(zip(node.args, node.args[1:], strict=False)):
        if not (left.keyword or right.keyword or left.star or right.star):
            swapped = [left.with_changes(value=right.value), right.with_changes(value=left.value)]
            yield node.with_changes(args=[*node.args[:i], *swapped, *node.args[i + 2 :]])


def call_opposite(node: cst.Call) -> Iterator[cst.Call]:
    """`x.min()` becomes `x.max()`, and `any(...)` becomes `all(...)`."""
    name = node.func.attr if isinstance(node.func, cst.Attribute) else node.func
    if isinstance(name, cst.Name) and name.value in OPPOSITES:
        yield node.with_deep_changes(name, value=OPPOSITES[name.value])


# Text, and operators that put None in place of a value, which mostly crashes and says little about tests.
LEFT_OUT = {mutators.operator_string, mutators.operator_assignment, mutators.operator_arg_removal}
OPERATORS: list[tuple[type[cst.CSTNode], Callable[[Any], Iterable[cst.CSTNode]]]] = [
    *((kind, operator) for kind, operator in mutators.mutation_operators if operator not in LEFT_OUT),
    (cst.If, mutators.operator_if_exp),
    (cst.BinaryOperation, drop_operand),
    (cst.BooleanOperation, drop_operand),
    (cst.Call, drop_argument),
    (cst.Call, swap_arguments),
    (cst.Call, call_opposite),
]


@dataclass(frozen=True)
class Mutant:
    """One change to one file; `before` and `after` are the lines that differ, without indentation."""

    file: str
    function: str
    line: int
    before: str
    after: str
    source: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What the list of accepted survivors names: it holds when other lines of the file change."""
        return self.file, self.function, self.before, self.after


@dataclass(frozen=True)
class Site:
    """A node and what to put in its place."""

    file: str
    function: str
    module: cst.Module
    node: cst.CSTNode
    mutated: cst.CSTNode

    def mutant(self) -> Mutant | None:
        """The changed source; None where it is no Python or means the same. Far slower than finding it."""
        changed = self.module.deep_replace(self.node, self.mutated)
        assert isinstance(changed, cst.Module)
        try:
            if ast.dump(ast.parse(changed.code)) == ast.dump(ast.parse(self.module.code)):
                return None
        except SyntaxError:
            return None
        old, new = self.module.code.splitlines(), changed.code.splitlines()
        steps = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
        different = [step for step in steps if step[0] != "equal"]
        before = "\n".join(text.strip() for _, i, j, _, _ in different for text in old[i:j])
        after = "\n".join(text.strip() for _, _, _, i, j in different for text in new[i:j])
        return Mutant(self.file, self.function, different[0][1] + 1, before, after, changed.code)


def sites(file: str, source: str) -> Iterator[Site]:
    """Every place of a source where an operator applies, from top to bottom."""
    module = cst.parse_module(source)

    def walk(node: cst.CSTNode, function: str) -> Iterator[Site]:
        if m.matches(node, SKIPPED):
            return
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            function = f"{function}.{node.name.value}".strip(".")
        for kind, operator in OPERATORS:
            if isinstance(node, kind):
                yield from (Site(file, function, module, node, mutated) for mutated in operator(node))
        for child in node.children:
            yield from walk(child, function)

    yield from walk(module, "")
